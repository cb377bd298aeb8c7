"""The tiled engine: sums over all pairs of rows and columns in memory linear in their number.

Logits are l_ij = scale <x_i, y_j> + bias for rows x [R, D] and columns y [C, D]. They exist one tile at a time, once in
the forward and once more in the backward pass: 4 matrix products in all, where the dense form keeps R x C logits and
needs 6. The positives of `Pairs` are taken out of the sums and returned apart, so that a loss can be written as
softplus(negatives - positive), exact where log-sum-exp minus positive has lost all its digits.

(Recomputing attention's logits tile by tile: Dao et al. 2022; for contrastive losses: Cheng et al. 2024, Inf-CL.)
"""

import math
import os
from collections.abc import Iterator
from itertools import accumulate, pairwise, starmap
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.nn import functional

from losses.engine.pairs import Block, Pairs

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
    left_out: Block | None

    def leave_out(self) -> None:
        """Makes positives and pairs that are left out vanish from sums of exponentials."""
        if self.own.start < self.own.stop:
            self.logits[self.own_at] = -torch.inf
        if self.left_out is not None:
            self.left_out.fill(self.logits, -torch.inf)


class Tiling:
    """The tiles of [R, D] rows and [C, D] columns, and where among them the pairs are; waits for the device once."""

    def __init__(self, rows: Tensor, columns: Tensor, pairs: Pairs) -> None:
        height, width = CUDA_TILE if rows.is_cuda else CPU_TILE
        self.height = min(height, len(rows))
        self.width = min(height * width // max(self.height, 1), len(columns))  # few rows make wide tiles
        self.pairs = pairs
        self._rows, self._columns = edges(len(rows), max(self.height, 1)), edges(len(columns), max(self.width, 1))
        row_edges, column_edges = (torch.tensor(each, device=rows.device) for each in (self._rows, self._columns))
        nothing = pairs.own_rows[:0]
        numbers = (pairs.own_rows, nothing if pairs.rows is None else pairs.rows)
        others = (pairs.own_columns, nothing if pairs.columns is None else pairs.columns)
        places = [torch.searchsorted(each, row_edges) for each in numbers]
        places += [torch.searchsorted(each, column_edges) for each in others]
        flat, lengths = torch.cat(places).tolist(), [len(each) for each in places]
        found = [flat[end - length : end] for length, end in zip(lengths, accumulate(lengths), strict=True)]
        self._own_of_rows, self._some_rows, self._own_of_columns, self._some_columns = found

    def tiles(self, rows: Tensor, columns: Tensor, scale: float, bias: float | None) -> Iterator[Tile]:
        if not self.height or not self.width:
            return
        pairs, buffer = self.pairs, rows.new_empty(self.height * self.width)
        for i, r in enumerate(starmap(slice, pairwise(self._rows))):
            for j, c in enumerate(starmap(slice, pairwise(self._columns))):
                logits = buffer[: (r.stop - r.start) * (c.stop - c.start)].view(r.stop - r.start, -1)
                torch.addmm(logits, rows[r], columns[c].T, beta=0, alpha=scale, out=logits)
                if bias is not None:
                    logits.add_(bias)
                first = max(self._own_of_rows[i], self._own_of_columns[j])
                own = slice(first, max(first, min(self._own_of_rows[i + 1], self._own_of_columns[j + 1])))
                own_at = (pairs.own_rows[own] - r.start, pairs.own_columns[own] - c.start)
                some = slice(*self._some_rows[i : i + 2]), slice(*self._some_columns[j : j + 2])
                yield Tile(r, c, logits, own, own_at, pairs.left_out(r, c, *some))


def edges(length: int, step: int) -> list[int]:
    """Where parts of at most `step` begin, and where the last one ends."""
    return [*range(0, length, step), length]


class _LogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows, columns, scale, pairs, both, group):
        tiling = Tiling(rows, columns, pairs)
        s, largest = _scale_and_largest(rows, columns, scale)
        shift, row_sums, column_sums, positives = _shifted_sums(rows, columns, s, largest, tiling, both)
        row_shift: float | Tensor = shift
        column_shift: float | Tensor = shift
        # A sum that left the range of its type has lost digits: take the slow way with a maximum for each row.
        smallest = torch.finfo(rows.dtype).tiny / torch.finfo(rows.dtype).eps
        sums = torch.cat([row_sums, column_sums])
        if not ((sums >= smallest) & sums.isfinite()).all():
            (row_shift, row_sums), (column_shift, column_sums) = _safe_sums(rows, columns, s, tiling, both)
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
        ctx.save_for_backward(rows, columns, row_weights, column_weights)
        ctx.shifts, ctx.scale, ctx.tiling, ctx.both, ctx.group = (row_shift, column_shift), s, tiling, both, group
        return positives, row_logs, column_logs

    @staticmethod
    def backward(ctx, g_positives, g_rows, g_columns):
        rows, columns, row_weights, column_weights = ctx.saved_tensors
        if ctx.group is not None and ctx.both:
            g_columns = g_columns.clone(memory_format=torch.contiguous_format)
            dist.all_reduce(g_columns, group=ctx.group)
        (row_shift, column_shift), both = ctx.shifts, ctx.both
        # dL/dl_ij = a_i exp(l_ij - row shift) + b_j exp(l_ij - column shift)
        a, b = g_rows * row_weights, g_columns * column_weights
        other = rows.new_empty(0)

        def weigh(logits: Tensor, r: slice, c: slice) -> Tensor:
            nonlocal other
            if both and isinstance(row_shift, float) and (kernels := _kernels(logits)):
                return kernels.weigh_(logits, row_shift, a[r], b[c])
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
        g_row, g_column, g_scale, _ = _gradients(rows, columns, ctx.scale, None, ctx.tiling, g_positives, weigh, needed)
        return g_row, g_column, g_scale, None, None, None


def _scale_and_largest(rows: Tensor, columns: Tensor, scale: Tensor) -> tuple[float, float]:
    """The scale, and a number so that no logit leaves [-number, number]."""
    if not len(rows) or not len(columns):
        return scale.item(), 0.0
    longest = [torch.linalg.vector_norm(each, dim=1).max() for each in (rows, columns)]
    s, row, column = torch.stack([scale, *longest]).tolist()
    return s, s * row * column


def _shifted_sums(
    rows: Tensor, columns: Tensor, scale: float, largest: float, tiling: Tiling, both: bool
) -> tuple[float, Tensor, Tensor, Tensor]:
    """Sums of exp(l - shift) over rows and columns with one exponential for both: (shift, rows, columns, positives)."""
    info = torch.finfo(rows.dtype)
    row_sums, column_sums = rows.new_zeros(len(rows)), rows.new_zeros(len(columns) if both else 0)
    positives = rows.new_empty(len(tiling.pairs.own_rows))
    # The shift puts the lower end where an exponential still has all its digits,
    # as far as the upper end then leaves room for the sum.
    room = math.log(info.max) - math.log(len(rows) + len(columns)) - 4
    shift = largest - min(max(2 * largest + math.log(info.tiny / info.eps), 0.0), room)
    for tile in tiling.tiles(rows, columns, scale, None):
        if tile.own.start < tile.own.stop:
            positives[tile.own] = tile.logits[tile.own_at]
        tile.leave_out()
        of_rows, of_columns = _exp_sums(tile.logits, shift, both)
        row_sums[tile.rows] += of_rows
        if both:
            column_sums[tile.columns] += of_columns
    return shift, row_sums, column_sums, positives


def _exp_sums(logits: Tensor, shift: float, both: bool) -> tuple[Tensor, Tensor]:
    """The sums of exp(l - shift) of a tile's rows, and of its columns if both; the tile is overwritten."""
    if both and (kernels := _kernels(logits)):
        sums: tuple[Tensor, Tensor] = kernels.exp_sums(logits, shift)
        return sums
    logits.sub_(shift).exp_()
    return logits.sum(1), logits.sum(0) if both else logits[:0, 0]


def _kernels(logits: Tensor) -> Any:
    """The module of Triton kernels where they can run on a tile, else None."""
    if not (logits.is_cuda or "TRITON_INTERPRET" in os.environ):
        return None
    try:
        from losses.engine import kernels
    except ImportError:  # no Triton
        return None
    return kernels if kernels.usable(logits) else None


def _safe_sums(
    rows: Tensor, columns: Tensor, scale: float, tiling: Tiling, both: bool
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
    for tile in tiling.tiles(rows, columns, scale, None):
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
        positives, tiling = rows.new_empty(len(pairs.own_rows)), Tiling(rows, columns, pairs)
        summed = torch.zeros((), dtype=torch.float64, device=rows.device)
        s, b = torch.stack([scale, bias]).tolist()
        for tile in tiling.tiles(rows, columns, s, b):
            positives[tile.own] = tile.logits[tile.own_at]
            tile.leave_out()
            summed += functional.softplus(tile.logits).sum()
        ctx.save_for_backward(rows, columns)
        ctx.scale, ctx.bias, ctx.tiling = s, b, tiling
        return positives, summed.to(rows.dtype)

    @staticmethod
    def backward(ctx, g_positives, g_summed):
        rows, columns = ctx.saved_tensors

        def weigh(logits: Tensor, r: slice, c: slice) -> Tensor:
            return logits.sigmoid_().mul_(g_summed)

        needed = ctx.needs_input_grad
        return *_gradients(rows, columns, ctx.scale, ctx.bias, ctx.tiling, g_positives, weigh, needed), None


def _gradients(rows, columns, scale, bias, tiling, g_positives, weigh, needed) -> tuple[Tensor | None, ...]:
    """Gradients of rows, columns, scale and bias, given `weigh`, which turns logits into dL/dl in place."""
    with torch.autocast(rows.device.type, enabled=False):
        g_rows, g_columns = torch.zeros_like(rows), torch.zeros_like(columns) if needed[1] else None
        g_scale, g_bias = torch.zeros((2,), dtype=torch.float64, device=rows.device)
        for tile in tiling.tiles(rows, columns, scale, bias):
            r, c = tile.rows, tile.columns
            g_logits = weigh(tile.logits, r, c)
            if tile.left_out is not None:
                tile.left_out.fill(g_logits, 0.0)
            if tile.own.start < tile.own.stop:
                g_logits[tile.own_at] = g_positives[tile.own]
            g_rows[r].addmm_(g_logits, columns[c], alpha=scale)
            if g_columns is not None:
                g_columns[c].addmm_(g_logits.T, rows[r], alpha=scale)
            if bias is not None:
                g_bias += g_logits.sum()
        for part, g_part in zip(rows.split(CPU_TILE[0]), g_rows.split(CPU_TILE[0]), strict=True):
            g_scale += (part * g_part).sum() / scale  # sum_ij dL/dl_ij <x_i, y_j>
    return g_rows, g_columns, g_scale.to(rows.dtype), g_bias.to(rows.dtype)
