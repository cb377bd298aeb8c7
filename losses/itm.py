"""Image-text matching: a fusion network says whether a caption belongs to an image."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.nn import functional

from losses.embeddings import Embeddings
from losses.engine.captions import caption_labels
from losses.engine.checks import check_captions, check_mask, choice, full_precision, working_precision
from losses.engine.distributed import default_group, gather, global_sum, longest, rank_and_size, total
from losses.objective import Objective, image_of

Negatives = Literal["hard", "random"]
SCORES_AT_ONCE = 2**24


@full_precision
def itm_loss(logits: Tensor, labels: Tensor, *, group: ProcessGroup | None = None) -> Tensor:
    """Cross-entropy of match (label 1) against mismatch (label 0), the mean over the rows of all processes.

    Args:
        logits: float [N, 2]; processes may hold different N, none included.
        labels: int or bool [N], 0 or 1.
        group: processes that hold the rest of the rows.

    Raises:
        ValueError: wrong shapes, labels that are no whole numbers.
    """
    if logits.dim() != 2 or logits.shape[1] != 2:
        raise ValueError(f"logits: got shape {list(logits.shape)}, expected [N, 2]")
    if labels.shape != logits.shape[:1] or labels.is_floating_point():
        raise ValueError(f"labels: got {labels.dtype} {list(labels.shape)}, expected int or bool [{len(logits)}]")
    (logits,) = working_precision(logits)
    rows = total(torch.tensor(len(labels), device=logits.device), group).clamp(min=1)
    return global_sum(functional.cross_entropy(logits, labels.long(), reduction="sum") / rows, group)


def hard_negatives(scores: Tensor, positives: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draws a column for each row with probability softmax(scores) over the columns that are not positives.

    One uniform number a row is looked up in the row's cumulated weights exp(score - the largest that may be drawn), so
    that no range of scores underflows (hard negatives for matching: Li et al., "Align before Fuse", NeurIPS 2021,
    section 3.2).

    Args:
        scores: float [B, C], logits.
        positives: bool [B, C], columns never drawn.
        generator: source of the numbers; None for torch's own.

    Returns:
        int64 [B], the column; -1 where every column is a positive.

    Raises:
        ValueError: a mask of another shape.
    """
    if scores.dim() != 2:
        raise ValueError(f"scores: got shape {list(scores.shape)}, expected [B, C]")
    check_mask("positives", positives, tuple(scores.shape))
    if not scores.shape[1]:
        return torch.full((len(scores),), -1, device=scores.device)
    place = scores.device if generator is None else generator.device
    share = torch.rand(len(scores), 1, device=place, generator=generator).to(scores.device)
    weights = scores.detach().float().masked_fill(positives, -torch.inf)
    largest, hardest = weights.max(1, keepdim=True)
    none = largest.isneginf()
    reached = weights.sub_(largest.masked_fill(none, 0.0)).exp_().cumsum(1)
    # the first column that goes beyond the share: one of weight 0 never does, and the last that has any does
    whole = reached[:, -1:]
    threshold = torch.minimum(share * whole, torch.nextafter(whole, torch.zeros_like(whole)))
    drawn = torch.searchsorted(reached, threshold, right=True).clamp(max=scores.shape[1] - 1)
    # except where the sums are not made in order, as on CUDA: their rounding can grow from one column to the next
    return drawn.where(weights.gather(1, drawn) > 0, hardest).masked_fill(none, -1)[:, 0]


class ItmLoss(Objective):
    """`itm_loss` on pairs that a fusion network judges.

    One present caption of each image is its positive, drawn evenly. "hard" adds for each image a hard negative caption
    and for its caption a hard negative image, drawn by similarity over all processes and languages (ALBEF; CCRK's
    MITM). "random" judges each image once, with probability one half beside another image's caption drawn evenly
    (Sanchez Villegas et al., Findings of EACL 2024, section 3.2). Never drawn are captions of the image itself, in any
    language, and pairs with equal ids; an image that is not `paired` with its captions is judged only beside others'.
    An image without a valid negative contributes none, which `logged` counts.

    Args:
        fusion: Maps image tokens [N, 1 + P, W], text tokens [N, 1 + L, W] and a bool mask [N, 1 + L] to logits [N, 2];
            the pooled feature leads the tokens.
        negatives: hard or random.
        scale: Multiplier of the cosines that hard negatives are drawn by.
    """

    needs = frozenset({"image", "texts", "tokens"})
    needs_tokens = True

    def __init__(
        self, fusion: nn.Module | Callable[..., Tensor], negatives: Negatives = "hard", scale: float = 1 / 0.07
    ) -> None:
        super().__init__()
        choice("negatives", negatives, Negatives)
        self.fusion, self.negatives, self.scale = fusion, negatives, scale
        self._dropped: Tensor | None = None

    def forward(self, embeddings: Embeddings) -> Tensor:
        self.check_rows(embeddings)
        images, texts = embeddings.image_tokens, embeddings.text_tokens
        if images is None or texts is None or texts.leading_mask is None:
            raise ValueError("image_tokens, text_tokens: expected both, the texts' with a mask; ITM judges tokens")
        rows = image_of(embeddings)
        check_captions(rows, embeddings.texts, embeddings.present, embeddings.image_ids, embeddings.text_ids)
        group = default_group()
        with torch.autocast(rows.device.type, enabled=False):  # hard negatives differ in the last digits
            image, caption, label = self._draw_pairs(rows, embeddings, group)
        if not len(label):  # any pair, whose logits are dropped: the network takes part on every process
            image = caption = image.new_zeros(1)
        tokens, mask = texts.leading.flatten(0, 1), texts.leading_mask.flatten(0, 1)
        logits = self.fusion(*_tokens_of(images.leading, tokens, mask, image, caption, group))
        return itm_loss(logits[: len(label)], label, group=group)

    def connect(self, model: Any) -> None:
        """Connects a network that asks for it, as `mmtrain.fusion.MatchingHead` does."""
        connect = getattr(self.fusion, "connect", None)
        if connect is not None:
            connect(model)

    def logged(self) -> dict[str, Tensor]:
        return {} if self._dropped is None else {"images_without_negative": self._dropped}

    @torch.no_grad()
    def _draw_pairs(
        self, image_rows: Tensor, embeddings: Embeddings, group: ProcessGroup | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What to judge: images [N] and captions [N] (image K + slot) of all processes, labels [N]."""
        b, K, _ = embeddings.texts.shape
        present = embeddings.present
        if present is None:
            present = torch.ones(b, K, dtype=torch.bool, device=embeddings.texts.device)
        everywhere = gather(present, group)
        labels = caption_labels(embeddings.image_ids, embeddings.text_ids, everywhere, group)
        images, captions = gather(image_rows.float(), group), gather(embeddings.texts.float(), group).flatten(0, 1)
        filled = everywhere.flatten().nonzero()[:, 0]

        def fits(image: Tensor, caption: Tensor) -> Tensor:
            own = image[:, None] == caption // K
            return own | torch.stack([kind.equal(image, caption)[:, 0] for kind in labels]).any(0) if labels else own

        def wrong(queries: Tensor, candidates: Tensor, right: Callable[[slice], Tensor]) -> Tensor:
            """A candidate for each query, a few queries at a time; -1 where all candidates are right."""
            step, scale = max(1, SCORES_AT_ONCE // max(len(candidates), 1)), self.scale * (self.negatives == "hard")
            parts = [slice(start, start + step) for start in range(0, len(queries), step)]
            negatives = [hard_negatives(scale * queries[part] @ candidates.T, right(part)) for part in parts]
            return torch.cat([filled[:0], *negatives])

        own = present if embeddings.paired is None else present & embeddings.paired[:, None]
        mine = own.any(1).nonzero()[:, 0]
        slot = hard_negatives(torch.zeros(b, K, device=own.device), ~own)[mine]
        image = mine + rank_and_size(group)[0] * b
        caption = image * K + slot
        text = wrong(images[image], captions[filled], lambda part: fits(image[part], filled))
        has_text = (text >= 0).nonzero()[:, 0]
        self._dropped = total((text < 0).sum(), group).float()
        if self.negatives == "random":
            replaced = has_text[torch.rand(len(has_text), device=text.device) < 0.5]
            shown, label = caption.clone(), torch.ones_like(caption)
            shown[replaced], label[replaced] = filled[text[replaced]], 0
            return image, shown, label
        everyone = torch.arange(len(images), device=image.device)
        other = wrong(captions[caption], images, lambda part: fits(everyone, caption[part]).T)
        has_image = (other >= 0).nonzero()[:, 0]
        return (
            torch.cat([image, image[has_text], other[has_image]]),
            torch.cat([caption, filled[text[has_text]], caption[has_image]]),
            torch.cat([torch.ones_like(image), torch.zeros_like(has_text), torch.zeros_like(has_image)]),
        )


def _tokens_of(
    images: Tensor, texts: Tensor, mask: Tensor, image: Tensor, caption: Tensor, group: ProcessGroup | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Image tokens [N, P, W], text tokens [N, L, W] and mask [N, L] of images and caption slots of all processes."""
    missing = longest(texts.shape[1], texts.device, group) - texts.shape[1]
    texts, mask = functional.pad(texts, (0, 0, 0, missing)), functional.pad(mask, (0, missing))
    return gather(images, group)[image], gather(texts, group)[caption], gather(mask, group)[caption]
