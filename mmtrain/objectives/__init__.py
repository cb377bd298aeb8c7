"""Objectives with a network of their own, or that read one of the model's."""

from mmtrain.objectives.task import TaskLoss

__all__ = ["TaskLoss"]
