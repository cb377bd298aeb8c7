"""1-to-K contrastive learning: one image against its captions in K languages at once."""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.nn import functional

from losses.embeddings import Embeddings
from losses.engine.captions import own_captions
from losses.engine.checks import check_captions, check_mask, choice, full_precision, positive_scale, working_precision
from losses.engine.distributed import default_group, global_sum, total
from losses.engine.tiles import lowest, tiled_logsumexp
from losses.objective import distractors_of, image_of, texts_of
from losses.temperature import ScaledObjective, clamped_scale

Weighting = Literal["balanced", "published"]


@full_precision
def one_to_k_loss(
    image: Tensor,
    texts: Tensor,
    scale: Tensor | float,
    present: Tensor | None = None,
    weighting: Weighting = "balanced",
    *,
    group: ProcessGroup | None = None,
    image_ids: Tensor | None = None,
    text_ids: Tensor | None = None,
    paired: Tensor | None = None,
    distractors: Tensor | None = None,
    distractors_present: Tensor | None = None,
) -> Tensor:
    """Symmetric cross-entropy between images and the captions of all languages.

    With l_(i,jk) = scale <image_i, text_jk>, p_i the softmax of l over all present captions and q_jk over all images:

        balanced   1/2 mean_i mean_k -log p_i(ik)  +  1/2 mean_ik -log q_ik(i)
        published  1/2 mean_ik -log p_i(ik)  +  1/(2K) mean_ik -log q_ik(i)

    The means of "balanced" run over images with at least one caption, over an image's captions, and over captions; an
    image without one stays a negative for all captions. K = 1 is `clip_loss`. Nothing present gives 0.

    Nie et al., "Improving the Consistency in Cross-Lingual Cross-Modal Retrieval with 1-to-K Contrastive Learning",
    KDD 2024, section 3; "published" is what their code computes (models/xvlm.py), which weighs the second term by 1/K.

    Args:
        image: float [B, D], unit rows; with a group, this process's part.
        texts: float [B, K, D], unit rows.
        scale: positive multiplier of the cosines.
        present: bool [B, K], None for all.
        weighting: "balanced" or "published"; the latter refuses missing captions.
        group: processes that hold the rest of the batch, equally many rows each.
        image_ids: int64 [B]; captions of an image with an equal id are no negatives.
        text_ids: int64 [B, K], or [B] where all captions of a row have one; captions with an id that the image's own
            captions have are no negatives.
        paired: bool [B], None for all. Where it is False an image and its captions are no pair: neither positives nor
            negatives of each other, but negatives of all others; the means run over the pairs alone.
        distractors: float [B, n, D], unit rows; further texts that are nobody's own: negatives of every image,
            in p alone.
        distractors_present: bool [B, n], None for all.

    Raises:
        ValueError: wrong shapes, a scale that is not positive, missing captions with "published".
    """
    choice("weighting", weighting, Weighting)
    check_captions(image, texts, present, image_ids, text_ids)
    check_mask("paired", paired, (len(image),))
    image, texts = working_precision(image, texts)
    scale = positive_scale(scale, image)
    if weighting == "published" and present is not None and not present.all():
        raise ValueError(f"present: {int((~present).sum())} captions missing, weighting 'published' expects all")

    own = own_captions(image, texts, present, image_ids, text_ids, distractors, distractors_present, group)
    positives, of_texts, of_images = tiled_logsumexp(own.rows, own.images, scale, own.pairs, group=group)
    image_to_text = _nll_of_captions(positives, of_images[own.mine], present, texts.shape[:2])  # [B, K], 0 where absent
    text_to_image = functional.softplus(of_texts[: own.count] - positives)
    counting = torch.ones(texts.shape[:2], dtype=torch.bool, device=texts.device) if present is None else present
    if paired is not None:
        counting = counting & paired[:, None]
        text_to_image = text_to_image.where(paired[own.pairs.own_columns - own.mine.start], 0.0)
        image_to_text = image_to_text.where(paired[:, None], 0.0)
    K = texts.shape[1]
    C, captioned = total(torch.stack([counting.sum(), counting.any(1).sum()]), group).clamp(min=1)
    if weighting == "published":
        return global_sum(image_to_text.sum() / (2 * C) + text_to_image.sum() / (2 * K * C), group)
    counts = K if present is None else present.sum(1).clamp(min=1)
    by_image = (image_to_text.sum(1) / counts).sum() / captioned
    return global_sum((by_image + text_to_image.sum() / C) / 2, group)


def _nll_of_captions(positives: Tensor, negatives: Tensor, present: Tensor | None, shape: torch.Size) -> Tensor:
    """-log p_i(ik) = softplus(logsumexp of all other captions' logits - l_ik) as [B, K]."""
    B, K = shape
    low = lowest(positives.dtype)
    if present is None:
        own = positives.view(B, K)
    else:
        own = positives.new_full((B, K), low).masked_scatter(present, positives)
    itself = torch.eye(K, dtype=torch.bool, device=own.device)
    siblings = own[:, None].expand(B, K, K).masked_fill(itself, low)
    others = torch.cat([negatives[:, None, None].expand(B, K, 1), siblings], 2).logsumexp(2)
    nll = functional.softplus(others - own)
    return nll if present is None else nll.where(present, 0.0)


class OneToKLoss(ScaledObjective):
    """`one_to_k_loss` with a learnable temperature.

    Args:
        scale: Multiplier to start from; CLIP's and CCRK's 1 / 0.07.
        weighting: balanced or published.
        learnable: Whether the temperature trains.
        distractors: A field of further texts that are nobody's own, negatives of every image; None for none.

    Raises:
        ValueError: a scale that is not positive, an unknown weighting.
    """

    def __init__(
        self,
        scale: float = 1 / 0.07,
        weighting: Weighting = "balanced",
        learnable: bool = True,
        distractors: str | None = None,
    ) -> None:
        super().__init__(scale, learnable)
        choice("weighting", weighting, Weighting)
        self.weighting, self.distractors = weighting, distractors
        self.needs |= {distractors} if distractors else set()

    def forward(self, embeddings: Embeddings) -> Tensor:
        self.check_rows(embeddings)
        return one_to_k_loss(
            image_of(embeddings),
            texts_of(embeddings),
            clamped_scale(self.log_scale),
            embeddings.present,
            self.weighting,
            group=default_group(),
            image_ids=embeddings.image_ids,
            text_ids=embeddings.text_ids,
            paired=embeddings.paired,
            **distractors_of(embeddings, self.distractors),
        )

    def chance(self, images: int, captions: float) -> float | None:
        if self.distractors:
            return None
        # log(B K), image to text, and log B, text to image, which the published code divides by K
        share = 1 / max(captions, 1.0) if self.weighting == "published" else 1.0
        return (1 + share) / 2 * math.log(images) + math.log(max(captions, 1.0)) / 2
