"""The loggers under the path that configs name them by."""

from mmtrain.training.monitoring.loggers import MetricsFile, Wandb

__all__ = ["MetricsFile", "Wandb"]
