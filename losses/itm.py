"""Image-text matching: a fusion network says whether a caption belongs to an image."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.nn import functional

from losses.embeddings import Embeddings
from losses.engine.captions import caption_labels, everywhere_present
from losses.engine.checks import check_captions, check_mask, choice, full_precision, working_precision
from losses.engine.distributed import default_group, fetch, gather, global_sum, longest, rank_and_size, total
from losses.objective import Objective, image_of, texts_of

Negatives = Literal["hard", "random"]
Positive = Literal["even", "hard"]
SCORES_AT_ONCE = 2**24
LEAST = 1e-5  # weight of the most similar caption among hard positives, as in CCRK's code


@full_precision
def itm_loss(logits: Tensor, labels: Tensor, *, group: ProcessGroup | None = None) -> Tensor:
    """Cross-entropy of match (label 1) against mismatch (label 0), the mean over the rows of all processes.

    Li et al., "Align before Fuse", NeurIPS 2021, section 3.2.

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

    One present caption of each image is its positive, drawn evenly, or "hard": in proportion to how much less probable
    than the image's most similar caption it is (CCRK, Nie et al. 2024). "hard" negatives add for each image a hard
    negative caption and for its caption a hard negative image, drawn by similarity over all processes and languages
    (ALBEF; CCRK's MITM). "random" ones judge each image once, with probability one half beside another image's caption
    drawn evenly (Sanchez Villegas et al., Findings of EACL 2024, section 3.2). Never drawn are captions of the image
    itself, in any language, and pairs with equal ids; an image that is not `paired` with its captions is judged only
    beside others'. An image without a valid negative contributes none, which `logged` counts.

    With `candidates` the positive stands among the nearest negatives of all processes, in both directions: the loss is
    the cross-entropy of a softmax over the differences of the logits, the mean over images and their captions.

    Args:
        fusion: Maps image tokens [N, 1 + P, W], text tokens [N, 1 + L, W] and a bool mask [N, 1 + L] to logits [N, 2];
            the pooled feature leads the tokens. One with a true attribute `reads_cosine` gets the cosines [N] of the
            pairs' rows as well, one with `reads_rows` the rows [N, 1, D] in place of tokens.
        negatives: hard or random.
        scale: Multiplier of the cosines that hard negatives are drawn by.
        candidates: So many negatives beside each positive; None judges one pair at a time.
        positive: even or hard.

    Raises:
        ValueError: unknown negatives, or candidates that are none or drawn at random.
    """

    needs = frozenset({"image", "texts", "tokens"})
    needs_tokens = True

    def __init__(
        self,
        fusion: nn.Module | Callable[..., Tensor],
        negatives: Negatives = "hard",
        scale: float = 1 / 0.07,
        candidates: int | None = None,
        positive: Positive = "even",
    ) -> None:
        super().__init__()
        choice("negatives", negatives, Negatives)
        choice("positive", positive, Positive)
        if candidates is not None and (candidates < 1 or negatives == "random"):
            raise ValueError(f"candidates: got {candidates} beside {negatives} negatives, expected at least 1, hard")
        self.fusion, self.negatives, self.scale, self.candidates = fusion, negatives, scale, candidates
        self.positive = positive
        if getattr(fusion, "reads_rows", False):
            self.needs, self.needs_tokens = self.needs - {"tokens"}, False
        self._dropped: Tensor | None = None

    def forward(self, embeddings: Embeddings) -> Tensor:
        self.check_rows(embeddings)
        rows = image_of(embeddings)
        check_captions(rows, texts_of(embeddings), embeddings.present, embeddings.image_ids, embeddings.text_ids)
        group = default_group()
        with torch.autocast(rows.device.type, enabled=False):  # hard negatives differ in the last digits
            image, caption, label, place = self._draw_pairs(rows, embeddings, group)
        if not len(label):  # any pair, whose logits are dropped: the network takes part on every process
            image = caption = image.new_zeros(1)
        logits = self.fusion(*self._inputs(rows, embeddings, image, caption, group))[: len(label)]
        if place is None or self.candidates is None:
            return itm_loss(logits, label, group=group)
        return _list_loss(logits, place, 1 + self.candidates, group)

    def _inputs(
        self, rows: Tensor, embeddings: Embeddings, image: Tensor, caption: Tensor, group: ProcessGroup | None
    ) -> list[Tensor]:
        """What the network reads of images [N] and captions [N] of all processes."""
        reads_rows, reads_cosine = (getattr(self.fusion, name, False) for name in ("reads_rows", "reads_cosine"))
        inputs, pair = [], []
        if reads_rows or reads_cosine:
            pair = [fetch(rows, image, group), fetch(texts_of(embeddings).flatten(0, 1), caption, group)]
        if reads_rows:
            inputs = [
                *(each[:, None] for each in pair),
                torch.ones(len(image), 1, dtype=torch.bool, device=rows.device),
            ]
        else:
            images, texts = embeddings.image_tokens, embeddings.text_tokens
            if images is None or texts is None or texts.leading_mask is None:
                raise ValueError("image_tokens, text_tokens: expected both, the texts' with a mask; ITM judges tokens")
            tokens, mask = texts.leading.flatten(0, 1), texts.leading_mask.flatten(0, 1)
            inputs = [*_tokens_of(images.whole(), tokens, mask, image, caption, group)]
        return [*inputs, (pair[0] * pair[1]).sum(1)] if reads_cosine else inputs

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
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """What to judge: images [N] and captions [N] (image K + slot) of all processes, labels [N], and the places of
        hard negatives for `_list_loss`.
        """
        texts, present = texts_of(embeddings), embeddings.present
        b, K, _ = texts.shape
        everywhere = everywhere_present(present, texts, group)
        if present is None:
            present = torch.ones(b, K, dtype=torch.bool, device=texts.device)
        labels = caption_labels(embeddings.image_ids, embeddings.text_ids, everywhere, group)
        images = gather(image_rows.float(), group, exact=False)
        captions = gather(texts.float(), group, exact=False).flatten(0, 1)
        filled = everywhere.flatten().nonzero()[:, 0]

        def fits(image: Tensor, caption: Tensor) -> Tensor:
            own = image[:, None] == caption // K
            return own | torch.stack([kind.equal(image, caption)[:, 0] for kind in labels]).any(0) if labels else own

        def wrong(queries: Tensor, candidates: Tensor, right: Callable[[slice], Tensor]) -> Tensor:
            """Candidates [Q, n] of each query, a few queries at a time; -1 where no more candidates are wrong."""
            step, scale = max(1, SCORES_AT_ONCE // max(len(candidates), 1)), self.scale * (self.negatives == "hard")
            parts = [slice(start, start + step) for start in range(0, len(queries), step)]
            negatives = [self._negatives(scale * queries[part] @ candidates.T, right(part)) for part in parts]
            return torch.cat([filled.new_zeros(0, self.candidates or 1), *negatives])

        own = present if embeddings.paired is None else present & embeddings.paired[:, None]
        mine = own.any(1).nonzero()[:, 0]
        slot = hard_negatives(self._hardness(image_rows, texts, own), ~own)[mine]
        image = mine + rank_and_size(group)[0] * b
        caption = image * K + slot
        text = wrong(images[image], captions[filled], lambda part: fits(image[part], filled))
        self._dropped = total((text[:, 0] < 0).sum(), group).float()
        if self.negatives == "random":
            has_text = (text[:, 0] >= 0).nonzero()[:, 0]
            replaced = has_text[torch.rand(len(has_text), device=text.device) < 0.5]
            shown, label = caption.clone(), torch.ones_like(caption)
            shown[replaced], label[replaced] = filled[text[replaced, 0]], 0
            return image, shown, label, None
        everyone = torch.arange(len(images), device=image.device)
        other = wrong(captions[caption], images, lambda part: fits(everyone, caption[part]).T)
        (of_image, _), (of_caption, _) = ((each >= 0).nonzero(as_tuple=True) for each in (text, other))
        place = functional.pad(torch.cat([text, other]), (1, 0), value=-1).flatten()
        return (
            torch.cat([image, image[of_image], other[other >= 0]]),
            torch.cat([caption, filled[text[text >= 0]], caption[of_caption]]),
            torch.cat([torch.ones_like(image), torch.zeros_like(of_image), torch.zeros_like(of_caption)]),
            (place >= 0).nonzero()[:, 0],
        )

    def _hardness(self, image_rows: Tensor, texts: Tensor, own: Tensor) -> Tensor:
        """Logits [b, K] by which an image's positive is drawn among its own captions."""
        if self.positive == "even":
            return torch.zeros(own.shape, device=own.device)
        scores = self.scale * torch.einsum("bd,bkd->bk", image_rows.float(), texts.float())
        best = scores.masked_fill(~own, -torch.inf).amax(1, keepdim=True)
        return (1 - (scores - best).exp()).clamp(min=LEAST).log()

    def _negatives(self, scores: Tensor, right: Tensor) -> Tensor:
        """Columns [Q, n] of scores [Q, C]; -1 where there are no more wrong ones."""
        if self.candidates is None:
            return hard_negatives(scores, right)[:, None]
        nearest, columns = scores.masked_fill(right, -torch.inf).topk(min(self.candidates, scores.shape[1]))
        columns = columns.masked_fill(nearest.isneginf(), -1)
        return functional.pad(columns, (0, self.candidates - columns.shape[1]), value=-1)


def _list_loss(logits: Tensor, place: Tensor, width: int, group: ProcessGroup | None) -> Tensor:
    """Cross-entropy of the right ones in lists [2 Q, width], whose first column they are: image to text, then back.

    Args:
        logits: [Q + n, 2], Q right pairs and then the negatives in the order of their places.
        place: int64 [n], in the flat lists.
    """
    with torch.autocast(logits.device.type, enabled=False):
        (logits,) = working_precision(logits)
        scores, Q = logits[:, 1] - logits[:, 0], len(logits) - len(place)
        own = torch.arange(2 * Q, device=place.device) * width
        lists = scores.new_full((2 * Q * width,), -torch.inf)
        lists = lists.index_copy(0, torch.cat([own, place]), torch.cat([scores[:Q], scores]))
        right = torch.zeros_like(own)
        loss = functional.cross_entropy(lists.view(-1, width), right, reduction="sum")
        return global_sum(loss / total(torch.tensor(2 * Q, device=loss.device), group).clamp(min=1), group)


def _tokens_of(
    images: Tensor, texts: Tensor, mask: Tensor, image: Tensor, caption: Tensor, group: ProcessGroup | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Image tokens [N, P, W], text tokens [N, L, W] and mask [N, L] of images and caption slots of all processes."""
    missing = longest(texts.shape[1], texts.device, group) - texts.shape[1]
    texts, mask = functional.pad(texts, (0, 0, 0, missing)), functional.pad(mask, (0, missing))
    return fetch(images, image, group), fetch(texts, caption, group), fetch(mask, caption, group)
