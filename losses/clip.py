"""CLIP's symmetric InfoNCE, also known as ITC."""

import math

from torch import Tensor
from torch.distributed import ProcessGroup

from losses.embeddings import Embeddings
from losses.engine.checks import check_captions
from losses.engine.distributed import default_group, gathered_like, shared_gathers, total
from losses.objective import image_of, texts_of
from losses.one_to_k import one_to_k_loss
from losses.temperature import ScaledObjective, clamped_scale


def clip_loss(
    image: Tensor,
    text: Tensor,
    scale: Tensor | float,
    *,
    group: ProcessGroup | None = None,
    image_ids: Tensor | None = None,
    text_ids: Tensor | None = None,
) -> Tensor:
    """Symmetric cross-entropy of l_ij = scale <image_i, text_j> towards the diagonal, the mean of both directions:

        1/2B sum_i [ -log softmax_j(l_i.)_i - log softmax_j(l_.i)_i ]

    Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021, figure 3. It is
    the 1-to-K loss of one caption.

    Args:
        image: float [B, D], unit rows; with a group, this process's part.
        text: float [B, D], unit rows.
        scale: positive multiplier of the cosines.
        group: processes that hold the rest of the batch, equally many rows each.
        image_ids: int64 [B]; pairs of equal ids off the diagonal are no negatives.
        text_ids: int64 [B] (or [B, 1]), likewise.

    Raises:
        ValueError: wrong shapes or a scale that is not positive.
    """
    if text.dim() != 2 or text.shape != image.shape:
        raise ValueError(f"text: got shape {list(text.shape)}, expected that of image {list(image.shape)}")
    return one_to_k_loss(image, text[:, None], scale, group=group, image_ids=image_ids, text_ids=text_ids)


class ClipLoss(ScaledObjective):
    """`clip_loss` with a learnable temperature.

    With K captions an image, the mean of the losses of the single slots that hold any caption; an image without that
    caption stays a negative for the others' captions.

    Args:
        scale: Multiplier to start from.
        learnable: Whether the temperature trains.

    Raises:
        ValueError: a scale that is not positive.
    """

    def __init__(self, scale: float = 1 / 0.07, learnable: bool = True) -> None:
        super().__init__(scale, learnable)

    def forward(self, embeddings: Embeddings) -> Tensor:
        self.check_rows(embeddings)
        scale, group = clamped_scale(self.log_scale), default_group()
        texts, present, text_ids = texts_of(embeddings), embeddings.present, embeddings.text_ids
        image = image_of(embeddings)
        check_captions(image, texts, present, embeddings.image_ids, text_ids)
        with shared_gathers():
            losses = [
                one_to_k_loss(
                    image,
                    texts[:, k, None],
                    scale,
                    _slot(present, k),
                    group=group,
                    image_ids=embeddings.image_ids,
                    text_ids=_slot(text_ids, k),
                )
                for k in range(texts.shape[1])
            ]
        used = len(losses) if present is None else (total(present.sum(0), group) > 0).sum().clamp(min=1)
        return sum(losses[1:], losses[0]) / used

    def chance(self, images: int, captions: float) -> float:
        return math.log(images)


def _slot(values: Tensor | None, k: int) -> Tensor | None:
    """Column k [B, 1] of [B, K]; all columns are gathered at once."""
    return (
        None if values is None else gathered_like(values[:, k, None], values, lambda everyones: everyones[:, k, None])
    )
