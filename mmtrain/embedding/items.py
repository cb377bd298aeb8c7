"""Samples as what queries look for, by a model that composes."""

from collections.abc import Sequence

from torch import Tensor

from datamodules.batch import Batch
from mmtrain.models.composing import composed_rows
from mmtrain.models.encoder import Encoder


def item_rows(encoder: Encoder, batch: Batch, languages: Sequence[str]) -> Tensor:
    """The pictures of a batch, each with its first caption, as a passage, as rows float32 [B, D] on the CPU.

    Args:
        encoder: Its model composes.
        batch: On the CPU.
        languages: Of the numbers in the batch.
    """
    assert batch.images is not None
    captions, spoken = [], []
    for present, texts, numbers in zip(batch.present, batch.captions, batch.languages, strict=True):
        slot = int(present.int().argmax()) if present.any() else None
        captions.append([] if slot is None else [texts[slot]])
        spoken.append("" if slot is None else languages[int(numbers[slot])])
    return composed_rows(encoder, captions, list(batch.images[:, None]), spoken, "passage")
