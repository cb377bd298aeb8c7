"""The whole training split through the model in training, for what looks at all samples at once."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytorch_lightning as pl
import torch
from torch import nn

from datamodules.shards.progress import with_progress
from mmtrain.embedding.collected import Embedded, EmbeddedSplit
from mmtrain.models.batches import embed_batch
from mmtrain.models.image_text import ImageTextModel
from mmtrain.training.data import WholeData


@torch.no_grad()
def embedded_whole(model: ImageTextModel, data: WholeData, trainer: pl.Trainer, purpose: str | None) -> Embedded | None:
    """Every training sample, as validation reads it, in evaluation mode and the trainer's precision.

    The processes share the samples; process 0 gets all, the others None. What is broken is counted once.

    Args:
        purpose: A word for a progress bar; None for no bar, as between training steps, which have one of their own.
    """
    collected, loader = EmbeddedSplit(), data.train_samples()
    quiet = purpose is None or trainer.progress_bar_callback is None
    batches = with_progress(loader, purpose or "", len(loader), "batches", quiet=quiet)
    with evaluating(model), trainer.precision_plugin.forward_context():
        for batch in batches:
            data.evaluated(batch)
            collected.add(batch, embed_batch(model, batch.to(trainer.strategy.root_device)))
    return collected.gather()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Puts a model into evaluation mode; afterwards each part is in the mode that it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
