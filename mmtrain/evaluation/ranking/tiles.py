"""Exact counts of the scores that reach a limit, at float32 speed and in memory linear in the items.

The scores of all pairs are computed once, in float32 tiles that are thrown away. A float32 score is within a known
bound of the true one, so a comparison with a limit is certain unless the score lies within that bound of it; those few
pairs are scored again in float64. The counts are therefore those of a float64 score matrix, which never exists.

Scores are compared after rounding to the tie tolerance: they are counted in whole steps of `TIE_TOLERANCE`.
"""

import math
from itertools import product
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from losses import asymmetric_similarity
from mmtrain.evaluation.ranking.token_rows import TokenRows, pair_token_scores, token_scores

Similarity = Literal["cosine", "asymmetric", "late"]
Rows = Tensor | TokenRows  # many rows an item are compared by late interaction, in which the second argument asks

TIE_TOLERANCE = 1e-6  # scores equal after rounding to this tie
NO_LIMIT = np.iinfo(np.int64).max  # a limit that no score reaches
TILE = 1024  # rows and columns of a tile: 4 MB of float32 scores stay in the cache while they are counted
FLOAT32_UNIT = 2.0**-24
PAIR_BLOCK = 2**22  # numbers of one operand when single pairs are scored


def score_steps(scores: np.ndarray) -> np.ndarray:
    """Scores (float64) as whole steps of the tie tolerance (int64): equal steps are a tie."""
    return np.rint(scores / TIE_TOLERANCE).astype(np.int64)


def unit_rows(embeddings: Tensor, similarity: Similarity) -> Tensor:
    """float64 rows as `similarity` compares them: for cosine of unit length, where a zero row stays zero."""
    rows = embeddings.double()
    if similarity == "asymmetric":
        return rows
    norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows / torch.where(norms > 0, norms, 1.0)


def pair_scores(
    rows: Rows, columns: Rows, row_of_pair: np.ndarray, column_of_pair: np.ndarray, similarity: Similarity
) -> np.ndarray:
    """float64 scores [P] of the pairs (row_of_pair[p], column_of_pair[p]) of rows [n, D] and columns [m, D]."""
    if isinstance(rows, TokenRows) or isinstance(columns, TokenRows):
        return pair_token_scores(TokenRows.of(rows), TokenRows.of(columns), row_of_pair, column_of_pair)
    scores = np.empty(len(row_of_pair))
    block = max(1, PAIR_BLOCK // rows.shape[1])
    for start in range(0, len(scores), block):
        part = slice(start, start + block)
        first = unit_rows(rows[torch.from_numpy(row_of_pair[part]).to(rows.device)], similarity)
        second = unit_rows(columns[torch.from_numpy(column_of_pair[part]).to(columns.device)], similarity)
        if similarity == "cosine":
            score = (first * second).sum(1)
        else:
            score = -(second.abs() - first.abs()).clamp(min=0).square().sum(1)
        scores[part] = score.cpu().numpy()
    return scores


def score_tile(rows: Rows, columns: Rows, similarity: Similarity, out: Tensor | None = None) -> Tensor:
    """Scores [r, c] of prepared rows [r, D] and columns [c, D], in their precision; written to `out` where given."""
    if isinstance(rows, TokenRows) or isinstance(columns, TokenRows):
        return token_scores(TokenRows.of(rows), TokenRows.of(columns), out)
    if similarity == "cosine":
        return torch.mm(rows, columns.T, out=out)
    scores = asymmetric_similarity(rows, columns)
    return scores if out is None else out.copy_(scores)


@torch.no_grad()
def count_at_least(
    rows: Rows,
    columns: Rows,
    row_limits: np.ndarray,
    column_limits: np.ndarray,
    similarity: Similarity = "cosine",
    device: torch.device | str = "cpu",
) -> tuple[np.ndarray, np.ndarray]:
    """How many scores of each row, and of each column, reach that line's limits.

    rows [n, D] and columns [m, D] are finite embeddings; row_limits int64 [S, n] and column_limits int64 [T, m] are
    limits in steps of the tie tolerance, `NO_LIMIT` where there is none. Returns int64 counts of the same shapes: entry
    (s, i) is the number of columns j with score_steps(score(i, j)) >= row_limits[s, i]; the scores equal those of a
    float64 product.
    """
    rows32, columns32 = _float32_rows(rows, similarity, device), _float32_rows(columns, similarity, device)
    error = _error_bound(rows32, columns32, similarity)
    row_lines = _Lines(rows, columns, row_limits, error, similarity, device)
    column_lines = _Lines(columns, rows, column_limits, error, similarity, device, turned=True)
    buffers = torch.empty(2, TILE * TILE, device=device)
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")  # TF32 or bfloat16 products would leave the error bound
    try:
        with torch.autocast(torch.device(device).type, enabled=False):
            for i, j in product(range(0, len(rows32), TILE), range(0, len(columns32), TILE)):
                a, b = rows32[i : i + TILE], columns32[j : j + TILE]
                scores, marks = buffers[:, : len(a) * len(b)].view(2, len(a), len(b))
                score_tile(a, b, similarity, out=scores)
                here, there = slice(i, i + len(a)), slice(j, j + len(b))
                row_lines.count(scores, marks, here, there)
                column_lines.count(scores.T, marks.T, there, here)
    finally:
        torch.set_float32_matmul_precision(precision)
    return row_lines.counts, column_lines.counts


class _Lines:
    """The rows, or the columns, of the score matrix with their limits [S, n] and the counts so far.

    `turned` says that the lines are the second argument of the similarity.
    """

    def __init__(
        self,
        lines: Rows,
        others: Rows,
        limits: np.ndarray,
        error: float,
        similarity: Similarity,
        device: torch.device | str,
        turned: bool = False,
    ) -> None:
        self.lines, self.others, self.limits, self.similarity, self.turned = lines, others, limits, similarity, turned
        edge = np.where(limits == NO_LIMIT, np.inf, (limits - 0.5) * TIE_TOLERANCE)
        # A float32 score below `low` is certainly under the limit, one from `high` on certainly reaches it.
        self.low, self.high = (torch.from_numpy(edge + side).float().to(device) for side in (-error, error))
        self.counts = np.zeros_like(limits)

    def count(self, scores: Tensor, marks: Tensor, here: slice, there: slice) -> None:
        """Add the scores [r, c] of the lines `here` with the others `there`; marks is scratch space like scores."""
        for slot, limits in enumerate(self.limits):
            low, high = self.low[slot, here, None], self.high[slot, here, None]
            # Sums of zeros and ones in float32: a tile is far shorter than 2^24, and sums of bools are much slower.
            possible = torch.ge(scores, low, out=marks).sum(1)
            # Most lines of a good model have nothing left here: their right answer beats the whole tile.
            line = possible.nonzero().flatten()
            if not len(line):
                continue
            if len(line) * 4 < len(scores):
                rest, low, high, possible = scores[line], low[line], high[line], possible[line]
                sure = (rest >= high).sum(1)
            else:
                rest, line = scores, torch.arange(len(scores), device=scores.device)
                sure = torch.ge(scores, high, out=marks).sum(1)
            counts = sure.cpu().numpy().astype(np.int64)
            lines = here.start + line.cpu().numpy()
            doubtful = (possible > sure).nonzero().flatten()
            if len(doubtful):
                near = (rest[doubtful] >= low[doubtful]) & (rest[doubtful] < high[doubtful])
                places = doubtful.cpu().numpy()
                counts[places] += self._settle(near.cpu(), lines[places], there, limits[lines[places]])
            self.counts[slot, lines] += counts

    def _settle(self, near: Tensor, lines: np.ndarray, there: slice, limits: np.ndarray) -> np.ndarray:
        """Counts int64 [r], in float64, of the pairs marked in near [r, c] that reach limits [r]."""
        similarity = self.similarity
        if near.sum() * 32 > near.numel():  # of a collapsed model: a float64 product is quicker than single pairs
            own = _exact(self.lines[torch.from_numpy(lines).to(self.lines.device)], similarity)
            others = _exact(self.others[there], similarity)
            tile = score_tile(others, own, similarity).T if self.turned else score_tile(own, others, similarity)
            return ((score_steps(tile.cpu().numpy()) >= limits[:, None]) & near.numpy()).sum(1)
        line, other = near.nonzero().numpy().T
        if self.turned:
            scores = pair_scores(self.others, self.lines, other + there.start, lines[line], similarity)
        else:
            scores = pair_scores(self.lines, self.others, lines[line], other + there.start, similarity)
        return np.bincount(line[score_steps(scores) >= limits[line]], minlength=len(limits))


def _exact(rows: Rows, similarity: Similarity) -> Rows:
    return rows.to(torch.float64) if isinstance(rows, TokenRows) else unit_rows(rows, similarity)


def _float32_rows(embeddings: Rows, similarity: Similarity, device: torch.device | str) -> Rows:
    if isinstance(embeddings, TokenRows):  # as they are: a tile is brought to float32 when it is its turn
        return embeddings.to(device)
    prepared = torch.empty(embeddings.shape, dtype=torch.float32, device=device)
    for start in range(0, len(embeddings), TILE):
        prepared[start : start + TILE] = unit_rows(embeddings[start : start + TILE], similarity)
    return prepared


def _error_bound(rows: Rows, columns: Rows, similarity: Similarity) -> float:
    """Bound on |float32 score - true score|: D roundings of a sum whose terms add up to `size`, and 16 of the inputs.

    (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1.)
    """
    if isinstance(rows, TokenRows) or isinstance(columns, TokenRows):
        rows, columns = TokenRows.of(rows), TokenRows.of(columns)
        longest = [_longest(side.values) for side in (rows, columns)]
        terms = rows.values.shape[1] + int(columns.lengths.max())  # of a product, and of the mean of products
        return (terms + 16) * FLOAT32_UNIT * max(1.0, math.prod(longest))
    size = 1.0
    if similarity == "asymmetric":
        size = max(1.0, (_longest(rows) + _longest(columns)) ** 2)
    return (rows.shape[1] + 16) * FLOAT32_UNIT * size


def _longest(rows: Tensor) -> float:
    return max(torch.linalg.vector_norm(part.float(), dim=1).max().item() for part in rows.split(TILE))
