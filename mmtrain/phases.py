"""Phases under the path that configs name them by."""

from mmtrain.training.phases import Phase, Phases

__all__ = ["Phase", "Phases"]
