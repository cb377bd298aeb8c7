"""The tiled engine: sums over all pairs of rows and columns in memory linear in their number.

Logits are l_ij = scale <x_i, y_j> + bias for rows x [R, D] and columns y [C, D]. They exist one tile at a time, once in
the forward and once more in the backward pass: 4 matrix products in all, where the dense form keeps R x C logits and
needs 6. The positives of `Pairs` are taken out of the sums and returned apart, so that a loss can be written as
softplus(negatives - positive), exact where log-sum-exp minus positive has lost all its digits.

(Recomputing attention's logits tile by tile: Dao et al. 2022; for contrastive losses: Cheng et al. 2024, Inf-CL.)
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.nn import functional

from losses.engine.pairs import Pairs

CPU_TILE = (1024, 4096)  # 16 MiB of float32: near the cache, and few enough that a busy core delays little
CUDA_TILE = (4096, 8192)  # 128 MiB: few launches, far from memory's end
SMALL_LOGITS = 32.0  # up to here the old way is exact enough, and runs of older versions go on bit for bit


def lowest(dtype: torch.dtype) -> float:
    """Stands for the logarithm of nothing: finite, so that no gradient becomes NaN, and far below any logit."""
    return torch.finfo(dtype).min / 4


def tiled_logsumexp(
    rows: Tensor, columns: Tensor, scale: Tensor, pairs: Pairs, *, both: bool = True, group: ProcessGroup | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Positive logits, and the log-sum-exp of the negatives of every row and of every column.

    Args:
        rows: float [R, D].
        columns: float [C, D]; with a group, those of all processes.
        scale: positive 0-d tensor.
        pairs: positives, and which pairs to leave out.
        both: False for the rows' sums only.
        group: processes that hold further rows; the columns' sums then run over all of them.

    Returns:
        positives [P]; row sums [R]; column sums [C] (empty unless both). Sums of nothing are `lowest`.
    """
    return _LogSumExp.apply(rows.contiguous(), columns.contiguous(), scale, pairs, both, group)


def tiled_softplus(rows: Tensor, columns: Tensor, scale: Tensor, bias: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor]:
    """Positive logits [P], and the sum of log(1 + exp(l)) over all negatives (0-d)."""
    return _Softplus.apply(rows.contiguous(), columns.contiguous(), scale, bias, pairs)


class Tile(NamedTuple):
    """Some rows and columns, their logits (in a buffer that the next tile overwrites), and where its positives are."""

    rows: slice
    columns: slice
    logits: Tensor
    own: slice  # of the positives
    own_at: tuple[Tensor, Tensor]  # where they are in the tile
    left_out: tuple[Tensor, Tensor] | Tensor | None

    def leave_out(self) -> None:
        """Makes positives and pairs that are left out vanish from sums of exponentials."""
        self.logits[self.own_at] = -torch.inf
        if self.left_out is not None:
            self.logits[self.left_out] = -torch.inf


def _tiles(rows: Tensor, columns: Tensor, scale: float, bias: float | None, pairs: Pairs) -> Iterator[Tile]:
    height, width = CUDA_TILE if rows.is_cuda else CPU_TILE
    height, width = min(height, len(rows)), min(width, len(columns))
    if not height or not width:
        return
    buffer = rows.new_empty(height * width)
    row_edges, column_edges = edges(len(rows), height), edges(len(columns), width)
    own_of_rows, own_of_columns = _positions(pairs.own_rows, row_edges), _positions(pairs.own_columns, column_edges)
    for i in range(len(row_edges) - 1):
        r = slice(row_edges[i], row_edges[i + 1])
        for j in range(len(column_edges) - 1):
            c = slice(column_edges[j], column_edges[j + 1])
            logits = buffer[: (r.stop - r.start) * (c.stop - c.start)].view(r.stop - r.start, -1)
            torch.addmm(logits, rows[r], columns[c].T, beta=0, alpha=scale, out=logits)
            if bias is not None:
                logits.add_(bias)
            first = max(own_of_rows[i], own_of_columns[j])
            own = slice(first, max(first, min(own_of_rows[i + 1], own_of_columns[j + 1])))
            own_at = (pairs.own_rows[own] - r.start, pairs.own_columns[own] - c.start)
            yield Tile(r, c, logits, own, own_at, pairs.left_out(r, c))


def edges(length: int, step: int) -> list[int]:
    """Where parts of at most `step` begin, and where the last one ends."""
    return [*range(0, length, step), length]


def _positions(ascending: Tensor, edges: list[int]) -> list[int]:
    return torch.searchsorted(ascending, torch.tensor(edges, device=ascending.device)).tolist()


class _LogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows, columns, scale, pairs, both, group):
        s = scale.item()
        largest = _largest(rows, columns, s)
        shift, row_sums, column_sums, positives = _shifted_sums(rows, columns, s, largest, pairs, both)
        row_shift: float | Tensor = shift
        column_shift: float | Tensor = shift
        # A sum that left the range of its type has lost digits: take the slow way with a maximum for each row.
        smallest = torch.finfo(rows.dtype).tiny / torch.finfo(rows.dtype).eps
        sums = torch.cat([row_sums, column_sums])
        if not ((sums >= smallest) & sums.isfinite()).all():
            (row_shift, row_sums), (column_shift, column_sums) = _safe_sums(rows, columns, s, pairs, both)
        row_logs, column_logs = (
            sums.log().add_(shift).clamp_(min=lowest(rows.dtype))
            for sums, shift in ((row_sums, row_shift), (column_sums, column_shift))
        )
        share = None
        if group is not None and both:
            column_logs, share = _over_processes(column_logs, group)
        # What makes a softmax of exp(l - shift). The logarithm of a sum of large logits has lost the digits by which
        # the softmax adds up to 1, and gradients that should cancel would not.
        if largest > SMALL_LOGITS:
            row_weights = 1 / row_sums.where(row_sums > 0, 1.0)
            column_weights = (1.0 if share is None else share) / column_sums.where(column_sums > 0, 1.0)
        else:
            row_weights, column_weights = (row_shift - row_logs).exp_(), (column_shift - column_logs).exp_()
        ctx.save_for_backward(rows, columns, scale, row_weights, column_weights)
        ctx.shifts, ctx.pairs, ctx.both, ctx.group = (row_shift, column_shift), pairs, both, group
        return positives, row_logs, column_logs

    @staticmethod
    def backward(ctx, g_positives, g_rows, g_columns):
        rows, columns, scale, row_weights, column_weights = ctx.saved_tensors
        if ctx.group is not None and ctx.both:
            g_columns = g_columns.clone(memory_format=torch.contiguous_format)
            dist.all_reduce(g_columns, group=ctx.group)
        (row_shift, column_shift), both = ctx.shifts, ctx.both
        # dL/dl_ij = a_i exp(l_ij - row shift) + b_j exp(l_ij - column shift)
        a, b = g_rows * row_weights, g_columns * column_weights
        other = rows.new_empty(0)

        def weigh(logits: Tensor, r: slice, c: slice) -> Tensor:
            nonlocal other
            if both and other.numel() < logits.numel():
                other = torch.empty_like(logits).flatten()
            second = other[: logits.numel()].view_as(logits) if both else other
            if isinstance(row_shift, float):
                logits.sub_(row_shift).exp_()
                return logits.mul_(torch.add(a[r, None], b[c], out=second) if both else a[r, None])
            if both:
                torch.sub(logits, column_shift[c], out=second).exp_().mul_(b[c])
            logits.sub_(row_shift[r, None]).exp_().mul_(a[r, None])
            return logits.add_(second) if both else logits

        needed = ctx.needs_input_grad
        g_row, g_column, g_scale, _ = _gradients(
            rows, columns, scale.item(), None, ctx.pairs, g_positives, weigh, needed
        )
        return g_row, g_column, g_scale, None, None, None


def _largest(rows: Tensor, columns: Tensor, scale: float) -> float:
    """No logit leaves [-largest, largest]."""
    if not len(columns):
        return 0.0
    longest = scale * torch.linalg.vector_norm(rows, dim=1).max().item()
    return longest * torch.linalg.vector_norm(columns, dim=1).max().item()


def _shifted_sums(
    rows: Tensor, columns: Tensor, scale: float, largest: float, pairs: Pairs, both: bool
) -> tuple[float, Tensor, Tensor, Tensor]:
    """Sums of exp(l - shift) over rows and columns with one exponential for both: (shift, rows, columns, positives)."""
    info = torch.finfo(rows.dtype)
    row_sums, column_sums = rows.new_zeros(len(rows)), rows.new_zeros(len(columns) if both else 0)
    positives = rows.new_empty(len(pairs.own_rows))
    # The shift puts the lower end where an exponential still has all its digits,
    # as far as the upper end then leaves room for the sum.
    room = math.log(info.max) - math.log(len(rows) + len(columns)) - 4
    shift = largest - min(max(2 * largest + math.log(info.tiny / info.eps), 0.0), room)
    for tile in _tiles(rows, columns, scale, None, pairs):
        positives[tile.own] = tile.logits[tile.own_at]
        tile.leave_out()
        tile.logits.sub_(shift).exp_()
        row_sums[tile.rows] += tile.logits.sum(1)
        if both:
            column_sums[tile.columns] += tile.logits.sum(0)
    return shift, row_sums, column_sums, positives


def _safe_sums(
    rows: Tensor, columns: Tensor, scale: float, pairs: Pairs, both: bool
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """(largest logit, sum of exp(l - largest)) of each row and of each column: for logits of any range."""

    def add(kept: tuple[Tensor, Tensor], part: slice, logits: Tensor, dim: int) -> None:
        shifts, sums = (each[part] for each in kept)
        largest = torch.maximum(shifts, logits.amax(dim))
        sums.mul_((shifts - largest).exp_()).add_((logits - largest.unsqueeze(dim)).exp_().sum(dim))
        shifts.copy_(largest)

    of_rows, of_columns = (
        (rows.new_full((length,), lowest(rows.dtype)), rows.new_zeros(length))
        for length in (len(rows), len(columns) if both else 0)
    )
    for tile in _tiles(rows, columns, scale, None, pairs):
        tile.leave_out()
        add(of_rows, tile.rows, tile.logits, 1)
        if both:
            add(of_columns, tile.columns, tile.logits, 0)
    return of_rows, of_columns


def _over_processes(logs: Tensor, group: ProcessGroup) -> tuple[Tensor, Tensor]:
    """log sum exp over the processes of each entry, and this process's share of the sum."""
    largest = logs.clone()
    dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=group)
    parts = (logs - largest).exp_()
    sums = parts.clone()
    dist.all_reduce(sums, group=group)
    return sums.log().add_(largest), parts.div_(sums)


class _Softplus(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows, columns, scale, bias, pairs):
        positives = rows.new_empty(len(pairs.own_rows))
        summed = torch.zeros((), dtype=torch.float64, device=rows.device)
        for tile in _tiles(rows, columns, scale.item(), bias.item(), pairs):
            positives[tile.own] = tile.logits[tile.own_at]
            tile.leave_out()
            summed += functional.softplus(tile.logits).sum()
        ctx.save_for_backward(rows, columns, scale, bias)
        ctx.pairs = pairs
        return positives, summed.to(rows.dtype)

    @staticmethod
    def backward(ctx, g_positives, g_summed):
        rows, columns, scale, bias = ctx.saved_tensors

        def weigh(logits: Tensor, r: slice, c: slice) -> Tensor:
            return logits.sigmoid_().mul_(g_summed)

        s, b, needed = scale.item(), bias.item(), ctx.needs_input_grad
        return *_gradients(rows, columns, s, b, ctx.pairs, g_positives, weigh, needed), None


def _gradients(rows, columns, scale, bias, pairs, g_positives, weigh, needed) -> tuple[Tensor | None, ...]:
    """Gradients of rows, columns, scale and bias, given `weigh`, which turns logits into dL/dl in place."""
    with torch.autocast(rows.device.type, enabled=False):
        g_rows, g_columns = torch.zeros_like(rows), torch.zeros_like(columns) if needed[1] else None
        g_scale, g_bias = torch.zeros((2,), dtype=torch.float64, device=rows.device)
        for tile in _tiles(rows, columns, scale, bias, pairs):
            r, c = tile.rows, tile.columns
            g_logits = weigh(tile.logits, r, c)
            if tile.left_out is not None:
                g_logits[tile.left_out] = 0.0
            g_logits[tile.own_at] = g_positives[tile.own]
            g_rows[r].addmm_(g_logits, columns[c], alpha=scale)
            if g_columns is not None:
                g_columns[c].addmm_(g_logits.T, rows[r], alpha=scale)
            if bias is not None:
                g_bias += g_logits.sum()
        for part, g_part in zip(rows.split(CPU_TILE[0]), g_rows.split(CPU_TILE[0]), strict=True):
            g_scale += (part * g_part).sum() / scale  # sum_ij dL/dl_ij <x_i, y_j>
    return g_rows, g_columns, g_scale.to(rows.dtype), g_bias.to(rows.dtype)
