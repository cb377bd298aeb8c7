"""The order-violation similarity of image pivoting, without its N x M x D tensor."""

import torch
from torch import Tensor

from losses.engine.checks import full_precision, working_precision

CPU_BLOCK = 2**21  # elements of |b| - |a| at once: 8 MiB of float32, near the cache
CUDA_BLOCK = 2**26


@full_precision
def asymmetric_similarity(a: Tensor, b: Tensor) -> Tensor:
    """S(a, b) = -|| max(0, |b| - |a|) ||^2: 0 where b stays below a in every coordinate, else negative.

    b is the more general side (the caption), a the more specific one (the image). Vendrov et al., "Order-Embeddings of
    Images and Language", ICLR 2016, equation 2, on absolute values as in Gella et al., EMNLP 2017, section 3.

    Args:
        a: float [N, D].
        b: float [M, D].

    Returns:
        float [N, M]; the memory beside it is linear in N and M, in the backward pass too.

    Raises:
        ValueError: wrong shapes.
    """
    if a.dim() != 2:
        raise ValueError(f"a: got shape {list(a.shape)}, expected [N, D]")
    if b.dim() != 2 or b.shape[1] != a.shape[1]:
        raise ValueError(f"b: got shape {list(b.shape)}, expected [M, {a.shape[1]}]")
    a, b = working_precision(a, b)
    return _Asymmetric.apply(a.abs(), b.abs())


class _Asymmetric(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a, b):
        ctx.save_for_backward(a, b)
        similarity = a.new_empty(len(a), len(b))
        for i, j, excess in _blocks(a, b):
            similarity[i, j] = torch.linalg.vector_norm(excess, dim=2).square_().neg_()
        return similarity

    @staticmethod
    def backward(ctx, gradient):
        a, b = ctx.saved_tensors
        g_a, g_b = torch.zeros_like(a), torch.zeros_like(b)
        for i, j, excess in _blocks(a, b):
            excess.mul_(gradient[i, j, None])
            g_a[i] += excess.sum(1)
            g_b[j] -= excess.sum(0)
        return g_a.mul_(2), g_b.mul_(2)


def _blocks(a: Tensor, b: Tensor):
    """Yields row slice, column slice and max(0, b_j - a_i) [rows, columns, D] in one buffer, overwritten."""
    N, M, D = len(a), len(b), max(a.shape[1], 1)
    size = CUDA_BLOCK if a.is_cuda else CPU_BLOCK
    width = max(1, min(M, size // D, 64))
    height = max(1, min(N, size // (D * width)))
    buffer = a.new_empty(height * width * D)
    for i in range(0, N, height):
        for j in range(0, M, width):
            rows, columns = a[i : i + height, None], b[None, j : j + width]
            excess = buffer[: len(rows) * columns.shape[1] * a.shape[1]].view(len(rows), columns.shape[1], a.shape[1])
            torch.sub(columns, rows, out=excess).clamp_(min=0)
            yield slice(i, i + height), slice(j, j + width), excess
