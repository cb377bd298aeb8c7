"""Image pivoting: max-margin ranking of captions of several languages around one image."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

from losses.asymmetric import asymmetric_similarity
from losses.embeddings import Embeddings
from losses.engine.captions import Captions, caption_columns, distractor_rows
from losses.engine.checks import check_captions, choice, full_precision, working_precision
from losses.engine.distributed import default_group, gather, global_sum, rank_and_size
from losses.engine.tiles import edges
from losses.objective import Objective, Similarity, distractors_of, image_of, texts_of

Negatives = Literal["sum", "hardest"]
MARGINS = {"asymmetric": 0.05, "cosine": 0.2}
SCORES_AT_ONCE = 2**18  # near the cache
CUDA_SCORES_AT_ONCE = 2**25  # few launches


class Score(NamedTuple):
    """A similarity of all pairs, [N, D] and [M, D] -> [N, M], and of given pairs, [N, D] and [N, D] -> [N]."""

    of_all: Callable[[Tensor, Tensor], Tensor]
    of_pairs: Callable[[Tensor, Tensor], Tensor]


SCORES = {
    "asymmetric": Score(asymmetric_similarity, lambda a, b: -(b.abs() - a.abs()).relu().square().sum(1)),
    "cosine": Score(lambda a, b: a @ b.T, lambda a, b: (a * b).sum(1)),
}


@full_precision
def pivot_ranking_loss(
    image: Tensor,
    texts: Tensor,
    similarity: Similarity = "asymmetric",
    margin: float | None = None,
    parallel: bool = False,
    present: Tensor | None = None,
    languages: Tensor | None = None,
    negatives: Negatives = "sum",
    *,
    group: ProcessGroup | None = None,
    image_ids: Tensor | None = None,
    text_ids: Tensor | None = None,
    distractors: Tensor | None = None,
    distractors_present: Tensor | None = None,
) -> Tensor:
    """Sum of hinges over all in-batch negatives, for each language k around the image i (PIVOT):

        sum_k sum_(i, c_k) { sum_c'_k max(0, m - S(i, c_k) + S(i, c'_k)) + sum_i' max(0, m - S(i, c_k) + S(i', c_k)) }

    PARALLEL adds, for every ordered pair (j, k) of different languages of an image,

        sum_c'_k max(0, m - S(c_j, c_k) + S(c_j, c'_k))

    A pair counts where both its members are present; a negative needs only itself.

    Gella, Sennrich, Keller and Lapata, "Image Pivoting for Learning Multilingual Multimodal Representations", EMNLP
    2017, section 3; "hardest" is the maximum of VSE++ (Faghri et al., BMVC 2018).

    Args:
        image: float [B, D], unit rows; with a group, this process's part.
        texts: float [B, K, D], unit rows.
        similarity: "asymmetric" (`asymmetric_similarity(image, caption)`) or "cosine".
        margin: m; None for 0.05 with "asymmetric" and 0.2 with "cosine".
        parallel: whether captions are ranked against captions too.
        present: bool [B, K], None for all.
        languages: int64 [B, K]; captions are compared within one language. None: slot k is language k.
        negatives: "sum" over all negatives, or only the "hardest" of each sum.
        group: processes that hold the rest of the batch, equally many rows each.
        image_ids: int64 [B]; captions of an image with an equal id are no negatives, nor is the image for its captions.
        text_ids: int64 [B, K], or [B] where all captions of a row have one; captions with an id that the image's own
            captions have, likewise.
        distractors: float [B, n, D], unit rows; further texts that are nobody's own: with those of every language in
            the sum over c'_k, for every image.
        distractors_present: bool [B, n], None for all.

    Raises:
        ValueError: wrong shapes or choices, or a negative margin.
    """
    choice("similarity", similarity, Similarity)
    choice("negatives", negatives, Negatives)
    margin = MARGINS[similarity] if margin is None else margin
    if not margin >= 0:
        raise ValueError(f"margin: got {margin}, expected at least 0")
    check_captions(image, texts, present, image_ids, text_ids, languages)
    image, texts = working_precision(image, texts)
    b, K, _ = texts.shape
    captions = caption_columns(texts, present, image_ids, text_ids, group)
    language = captions.slot
    if languages is not None:
        language = gather(languages, group).flatten()[captions.owner * K + captions.slot]
    mine = captions.mine
    first_image = rank_and_size(group)[0] * b

    own_rows = captions.pairs.own_rows
    positive = SCORES[similarity].of_pairs(image[own_rows], captions.columns[mine])
    mask = torch.ones(b, K, dtype=torch.bool, device=image.device) if present is None else present
    everywhere = gather(positive.new_zeros(b, K).masked_scatter(mask, positive), group).flatten()
    column_positive = everywhere[captions.owner * K + captions.slot]
    further = captions.add(distractor_rows(image, distractors, distractors_present, group))
    # which never wins against their own image, for they have none
    column_positive = torch.cat([column_positive, column_positive.new_full((len(further),), torch.inf)])

    ranked = _Ranked(captions, SCORES[similarity], margin, first_image, group)
    hinges = ranked.sum_of_hinges if negatives == "sum" else ranked.hardest_hinges
    loss = 0 * (image.sum() + captions.columns.sum())  # an empty batch has gradients of zero
    if parallel:
        nothing = positive.new_empty(0)
        first, second = _translations(captions, language, mask)
    for k in language.unique():
        columns, anchors = (language == k).nonzero()[:, 0], (language[mine] == k).nonzero()[:, 0]
        images, beside = torch.arange(b, device=image.device), torch.cat([columns, further])
        loss = loss + hinges(image, images, beside, own_rows[anchors], positive[anchors], column_positive[beside])
        if parallel:
            p, q = first[language[second] == k], second[language[second] == k]
            rows = captions.columns[p]
            scores = SCORES[similarity].of_pairs(rows, captions.columns[q])
            own_image = captions.owner[p] - first_image
            loss = loss + hinges(rows, own_image, columns, torch.arange(len(p), device=p.device), scores, nothing)
    return global_sum(loss, group)


def _rows_at_once(rows: Tensor, columns: Tensor) -> int:
    return max(1, (CUDA_SCORES_AT_ONCE if rows.is_cuda else SCORES_AT_ONCE) // len(columns))


def _translations(captions: Captions, language: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Every ordered pair of this process's captions of one image in different languages, as two lists of columns."""
    start, stop = captions.mine.start, captions.mine.stop
    column = torch.full(mask.shape, -1, device=mask.device)
    column[mask] = torch.arange(start, stop, device=mask.device)
    K = mask.shape[1]
    first = column[:, :, None].expand(-1, K, K).flatten()
    second = column[:, None, :].expand(-1, K, K).flatten()
    both = (first >= 0) & (second >= 0)
    first, second = first[both], second[both]
    differ = language[first] != language[second]
    return first[differ], second[differ]


@dataclass
class _Ranked:
    """Hinges of anchors: rows of this process against the captions of one language on all processes."""

    captions: Captions
    score: Score
    margin: float
    first_image: int
    group: ProcessGroup | None

    def sum_of_hinges(
        self,
        rows: Tensor,
        images: Tensor,
        columns: Tensor,
        anchors: Tensor,
        positive: Tensor,
        column_positive: Tensor,
    ) -> Tensor:
        """All negatives count.

        Args:
            rows: [R, D], images, or captions that are ranked against captions.
            images: int64 [R], this process's image each row belongs to.
            columns: int64 [C], the captions of one language.
            anchors: int64 [A], ascending: the row of each positive pair.
            positive: [A], the pairs' scores.
            column_positive: [C], each caption's score with its own image; [0] where captions rank no rows.
        """
        ends = edges(len(rows), _rows_at_once(rows, columns))
        bounds = torch.searchsorted(anchors, torch.tensor(ends, device=anchors.device)).tolist()

        def part(n: int, rows: Tensor, texts: Tensor, positive: Tensor, column_positive: Tensor) -> Tensor:
            r, a = slice(ends[n], ends[n + 1]), slice(bounds[n], bounds[n + 1])
            excess = self.margin + self.score.of_all(rows[r], texts)
            excess = excess.masked_fill(self._no_negatives(images[r], columns), -torch.inf)
            hinges = (excess[anchors[a] - r.start] - positive[a, None]).relu().sum()
            return hinges + (excess - column_positive).relu().sum() if len(column_positive) else hinges

        texts = self.captions.columns[columns]
        return _SumOfParts.apply(part, len(ends) - 1, rows, texts, positive, column_positive)

    def hardest_hinges(
        self,
        rows: Tensor,
        images: Tensor,
        columns: Tensor,
        anchors: Tensor,
        positive: Tensor,
        column_positive: Tensor,
    ) -> Tensor:
        """Only the hardest negative of each anchor counts, and of each caption; arguments as of `sum_of_hinges`."""
        texts = self.captions.columns[columns]
        by_row, column = positive.new_full((len(rows),), -torch.inf), torch.zeros_like(images)
        by_column, row = positive.new_full((len(columns),), -torch.inf), torch.zeros_like(columns)
        with torch.no_grad():
            for start, stop in pairwise(edges(len(rows), _rows_at_once(rows, columns))):
                scores = self.score.of_all(rows[start:stop], texts)
                scores = scores.masked_fill_(self._no_negatives(images[start:stop], columns), -torch.inf)
                by_row[start:stop], column[start:stop] = scores.max(1)
                best, where = scores.max(0)
                row = torch.where(best > by_column, where + start, row)
                by_column = torch.maximum(best, by_column)
        has_negative = by_row[anchors] > -torch.inf
        anchors, positive = anchors[has_negative], positive[has_negative]
        hardest = self.score.of_pairs(rows[anchors], texts[column[anchors]])
        loss = (self.margin - positive + hardest).relu().sum()
        if len(column_positive):
            won = self._won(by_column).nonzero()[:, 0]
            hardest = self.score.of_pairs(rows[row[won]], texts[won])
            loss = loss + (self.margin - column_positive[won] + hardest).relu().sum()
        return loss

    def _no_negatives(self, images: Tensor, columns: Tensor) -> Tensor:
        """bool [len(images), len(columns)]: captions of the image itself, and those whose ids leave them out."""
        own = images[:, None] + self.first_image == self.captions.owner[columns]
        return own | self.captions.pairs.share_ids(images, columns) if self.captions.pairs.labels else own

    def _won(self, best: Tensor) -> Tensor:
        """bool [C]: the columns whose best row over all processes is on this one; of equals the first process's."""
        if self.group is None:
            return best > -torch.inf
        largest, rank = best.clone(), dist.get_rank(self.group)
        dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=self.group)
        winner = torch.where(best == largest, rank, self.group.size())
        dist.all_reduce(winner, op=dist.ReduceOp.MIN, group=self.group)
        return (winner == rank) & (largest > -torch.inf)


class _SumOfParts(torch.autograd.Function):
    """sum_n part(n, *tensors), each part differentiated at once, so that only one lives at a time."""

    @staticmethod
    def forward(ctx, part: Callable[..., Tensor], parts: int, *tensors: Tensor) -> Tensor:
        leaves = [
            tensor.detach().requires_grad_(needed)
            for tensor, needed in zip(tensors, ctx.needs_input_grad[2:], strict=True)
        ]
        inputs = [leaf for leaf in leaves if leaf.requires_grad]
        gradients = [torch.zeros_like(leaf) for leaf in inputs]
        loss = tensors[0].new_zeros(())
        for n in range(parts):
            with torch.set_grad_enabled(bool(inputs)):
                value = part(n, *leaves)
            loss += value.detach()
            if value.requires_grad:
                for gradient, new in zip(gradients, torch.autograd.grad(value, inputs, allow_unused=True), strict=True):
                    if new is not None:
                        gradient += new
        ctx.save_for_backward(*gradients)
        return loss

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        gradients = iter(ctx.saved_tensors)
        return None, None, *(gradient * next(gradients) if needed else None for needed in ctx.needs_input_grad[2:])


class PivotRankingLoss(Objective):
    """`pivot_ranking_loss`: PIVOT, or with parallel PARALLEL; ASYM or with cosine SYM.

    Args:
        similarity: asymmetric or cosine.
        margin: null for the authors' 0.05 (asymmetric) and 0.2 (cosine).
        parallel: Whether captions are ranked against captions of other languages too.
        negatives: sum or hardest.
        distractors: A field of further texts that are nobody's own, negatives of every image; None for none.

    Raises:
        ValueError: an unknown similarity, unknown negatives.
    """

    def __init__(
        self,
        similarity: Similarity = "asymmetric",
        margin: float | None = None,
        parallel: bool = False,
        negatives: Negatives = "sum",
        distractors: str | None = None,
    ) -> None:
        super().__init__()
        choice("similarity", similarity, Similarity)
        choice("negatives", negatives, Negatives)
        self.similarity, self.margin, self.parallel, self.negatives = similarity, margin, parallel, negatives
        self.distractors = distractors
        self.needs |= {distractors} if distractors else set()

    def forward(self, embeddings: Embeddings) -> Tensor:
        self.check_rows(embeddings)
        return pivot_ranking_loss(
            image_of(embeddings),
            texts_of(embeddings),
            self.similarity,
            self.margin,
            self.parallel,
            embeddings.present,
            embeddings.languages,
            self.negatives,
            group=default_group(),
            image_ids=embeddings.image_ids,
            text_ids=embeddings.text_ids,
            **distractors_of(embeddings, self.distractors),
        )
