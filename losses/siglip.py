"""SigLIP: every image-text pair its own binary question."""

import math

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.nn import functional

from losses.embeddings import Embeddings
from losses.engine.captions import own_captions
from losses.engine.checks import check_captions, full_precision, one_number, positive_scale, working_precision
from losses.engine.distributed import default_group, global_sum, rank_and_size
from losses.engine.tiles import tiled_softplus
from losses.objective import distractors_of, image_of, texts_of
from losses.temperature import ScaledObjective, clamped_scale


@full_precision
def siglip_loss(
    image: Tensor,
    texts: Tensor,
    scale: Tensor | float,
    bias: Tensor | float,
    present: Tensor | None = None,
    *,
    group: ProcessGroup | None = None,
    image_ids: Tensor | None = None,
    text_ids: Tensor | None = None,
    distractors: Tensor | None = None,
    distractors_present: Tensor | None = None,
) -> Tensor:
    """Sum of -log sigmoid(z l) over all image-text pairs, divided by the number of images:

        l_(i,jk) = scale <image_i, text_jk> + bias,  z = 1 where i = j, else -1

    Zhai et al., "Sigmoid Loss for Language Image Pre-Training", ICCV 2023, section 3.2; several captions an image are
    several positives. All images of all processes count, those without a caption included.

    Args:
        image: float [B, D], unit rows; with a group, this process's part.
        texts: float [B, D] or [B, K, D], unit rows.
        scale: positive multiplier of the cosines.
        bias: added to every logit; -log(B K - 1) makes the start balanced.
        present: bool [B, K], None for all.
        group: processes that hold the rest of the batch, equally many rows each.
        image_ids: int64 [B]; pairs of equal ids that are not the image's own are left out.
        text_ids: int64 [B, K] (or [B]), likewise.
        distractors: float [B, n, D], unit rows; further texts that are nobody's own: z = -1 with every image.
        distractors_present: bool [B, n], None for all.

    Raises:
        ValueError: wrong shapes or a scale that is not positive.
    """
    if texts.dim() == 2:
        texts = texts[:, None]
        present = present[:, None] if present is not None and present.dim() == 1 else present
    check_captions(image, texts, present, image_ids, text_ids)
    image, texts = working_precision(image, texts)
    scale = positive_scale(scale, image)
    bias = one_number("bias", bias, image)
    own = own_captions(image, texts, present, image_ids, text_ids, distractors, distractors_present, group)
    positives, negatives = tiled_softplus(own.rows, own.images, scale, bias, own.pairs)
    return global_sum((functional.softplus(-positives).sum() + negatives) / len(own.images), group)


class SiglipLoss(ScaledObjective):
    """`siglip_loss` with a learnable temperature and bias.

    Args:
        scale: Multiplier to start from; the paper's 10.
        bias: Bias to start from; None for -log(B K - 1) of the first training batch, where every logit's expected
            gradient is 0 (the paper's -10 is this at B = 22,000).
        learnable: Whether temperature and bias train.
        distractors: A field of further texts that are nobody's own, negatives of every image; None for none.

    Raises:
        ValueError: a scale that is not positive.
    """

    def __init__(
        self, scale: float = 10.0, bias: float | None = None, learnable: bool = True, distractors: str | None = None
    ) -> None:
        super().__init__(scale, learnable)
        self.distractors = distractors
        self.needs |= {distractors} if distractors else set()
        self.bias = nn.Parameter(torch.tensor([0.0 if bias is None else bias]), requires_grad=learnable)
        self.bias_is_set: Tensor
        self.register_buffer("bias_is_set", torch.tensor(bias is not None))
        self._bias_looked_at = False
        self._filled: tuple[Tensor, float] | None = None

    def forward(self, embeddings: Embeddings) -> Tensor:
        self.check_rows(embeddings)
        group = default_group()
        if not self._bias_looked_at:
            self._set_bias(texts_of(embeddings), rank_and_size(group)[1])
        return siglip_loss(
            image_of(embeddings),
            texts_of(embeddings),
            clamped_scale(self.log_scale),
            self.bias,
            embeddings.present,
            group=group,
            image_ids=embeddings.image_ids,
            text_ids=embeddings.text_ids,
            **distractors_of(embeddings, self.distractors),
        )

    @torch.no_grad()
    def _set_bias(self, texts: Tensor, processes: int) -> None:
        if not self.bias_is_set:
            start = -math.log(max(processes * texts.shape[0] * texts.shape[1] - 1, 1))
            self.bias.fill_(start)
            self._filled = self.bias, start
        if self.training:  # a validation batch has another size: keep what it gave for that batch only
            self.bias_is_set.fill_(True)
            self._bias_looked_at = True

    @torch.no_grad()
    def after_step(self) -> None:
        super().after_step()
        if self._filled is not None:
            seen, start = self._filled
            if seen is not self.bias:  # a copy gathered for the step: the parameter itself is divided over processes
                self.bias.add_(start)
            self._filled = None

    def logged(self) -> dict[str, Tensor]:
        return super().logged() | {"bias": self.bias.detach().squeeze()}
