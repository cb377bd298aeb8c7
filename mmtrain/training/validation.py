"""Figures of a validation, the same on every process."""

from collections.abc import Callable, Sequence

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from mmtrain.embedding.collected import Embedded
from mmtrain.evaluation.metrics.retrieval import flat_figures, retrieval_metrics
from mmtrain.evaluation.ranking.tiles import Similarity


def broadcast(trainer: pl.Trainer, figures: Callable[[], dict[str, float]]) -> dict[str, Tensor]:
    """What process 0 computes, on every process."""
    computed = trainer.strategy.broadcast(figures() if trainer.is_global_zero else {})
    return {name: torch.tensor(value, dtype=torch.float32) for name, value in computed.items()}


def retrieval_figures(
    split: Embedded | None, languages: Sequence[str], recall_at: Sequence[int], similarity: Similarity
) -> dict[str, float]:
    """Flat figures for the log; empty when there was nothing to measure."""
    if split is None or not len(split.texts):
        return {}
    metrics = retrieval_metrics(
        split.images,
        split.texts,
        split.image_of_text,
        np.asarray(languages)[split.language_of_text],
        recall_at=recall_at,
        similarity=similarity,
        bootstrap=0,
    )
    return flat_figures(metrics, tuple(recall_at))
