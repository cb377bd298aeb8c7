"""Triton kernels: what a tile's logits become, in one pass over memory instead of several."""

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS, COLUMNS = 32, 128  # of a program's block


def exp_sums(logits: Tensor, shift: float) -> tuple[Tensor, Tensor]:
    """The sums of exp(l - shift) over the rows and over the columns of float32 [R, C]."""
    (R, C), grid = logits.shape, _grid(logits)
    rows, columns = logits.new_empty(grid[1], R), logits.new_empty(grid[0], C)
    _exp_sums[grid](logits, rows, columns, shift, R, C, ROWS, COLUMNS)
    return rows.sum(0), columns.sum(0)


def weigh_(logits: Tensor, shift: float, a: Tensor, b: Tensor) -> Tensor:
    """Turns l_ij into exp(l_ij - shift) (a_i + b_j) in place: float32 [R, C], [R] and [C]."""
    R, C = logits.shape
    _weigh[_grid(logits)](logits, a.contiguous(), b.contiguous(), shift, R, C, ROWS, COLUMNS)
    return logits


def _grid(logits: Tensor) -> tuple[int, int]:
    return triton.cdiv(logits.shape[0], ROWS), triton.cdiv(logits.shape[1], COLUMNS)


@triton.jit
def _exp_sums(logits, rows, columns, shift, R, C, HEIGHT: tl.constexpr, WIDTH: tl.constexpr):
    # every program writes sums of its own: no two add to one number, so that the result is the same every time
    i, j = tl.program_id(0), tl.program_id(1)
    r, c = i * HEIGHT + tl.arange(0, HEIGHT), j * WIDTH + tl.arange(0, WIDTH)
    inside = (r[:, None] < R) & (c[None, :] < C)
    at = r.to(tl.int64)[:, None] * C + c[None, :]
    values = tl.exp(tl.load(logits + at, mask=inside, other=-float("inf")) - shift)
    tl.store(rows + j * R + r, tl.sum(values, 1), mask=r < R)
    tl.store(columns + i.to(tl.int64) * C + c, tl.sum(values, 0), mask=c < C)


@triton.jit
def _weigh(logits, a, b, shift, R, C, HEIGHT: tl.constexpr, WIDTH: tl.constexpr):
    r, c = tl.program_id(0) * HEIGHT + tl.arange(0, HEIGHT), tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    inside = (r[:, None] < R) & (c[None, :] < C)
    at = r.to(tl.int64)[:, None] * C + c[None, :]
    weights = tl.load(a + r, mask=r < R, other=0.0)[:, None] + tl.load(b + c, mask=c < C, other=0.0)[None, :]
    values = tl.exp(tl.load(logits + at, mask=inside, other=0.0) - shift)
    tl.store(logits + at, values * weights, mask=inside)


def usable(logits: Tensor) -> bool:
    """Whether Triton runs here, on a device or interpreted."""
    return logits.dtype == torch.float32 and (logits.is_cuda or triton.knobs.runtime.interpret)
