"""Objectives with a network of their own, or that read one of the model's."""

from mmtrain.objectives.distillation import Distillation
from mmtrain.objectives.task import TaskLoss
from mmtrain.objectives.teacher import Teacher

__all__ = ["Distillation", "TaskLoss", "Teacher"]
