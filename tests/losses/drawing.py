"""Random batches for the property tests, and what it means to agree with a slow loss."""

from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional


@st.composite
def batches(draw: st.DrawFn, ids: bool = True) -> dict[str, Any]:
    """A batch of unit rows: image [B, D], texts [B, K, D], scale, bias, mask, languages and ids, in float64."""
    B, K, D = draw(st.integers(1, 7)), draw(st.integers(1, 3)), draw(st.integers(1, 6))
    random = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def unit(*shape: int) -> Tensor:
        return functional.normalize(torch.randn(*shape, generator=random, dtype=torch.float64), dim=-1)

    def numbers(below: int, *shape: int) -> Tensor:
        return torch.randint(-below, below, shape, generator=random)

    share = draw(st.sampled_from([None, 0.0, 0.4, 0.8]))
    mask = torch.ones(B, K, dtype=torch.bool) if share is None else torch.rand(B, K, generator=random) < share
    n = draw(st.integers(1, 3))
    further = draw(st.sampled_from([None, unit(B, n, D)]))
    there = None if further is None else draw(st.sampled_from([None, torch.rand(B, n, generator=random) < 0.5]))
    return {
        "further": {"distractors": further, "distractors_present": there},
        "image": unit(B, D),
        "texts": unit(B, K, D),
        "scale": torch.tensor(draw(st.sampled_from([0.5, 1.0, 14.0, 100.0])), dtype=torch.float64),
        "bias": torch.tensor(draw(st.sampled_from([-9.0, -1.0, 0.0])), dtype=torch.float64),
        "given_present": None if share is None else mask,
        "present": mask,
        "languages": draw(st.sampled_from([None, numbers(2, B, K)])),
        "image_ids": draw(st.sampled_from([None, numbers(3, B)])) if ids else None,
        "text_ids": draw(st.sampled_from([None, numbers(6, B, K)])) if ids else None,
        "paired": draw(st.sampled_from([None, numbers(1, B) < 0])),
    }


def agrees(
    fast: Callable[..., Tensor], slow: Callable[..., Tensor], *inputs: Tensor, dtype: torch.dtype, weight: float = 1.0
) -> None:
    """Asserts equal values and gradients of fast(*inputs) in `dtype` and slow(*inputs) in float64.

    Values to 1e-5 and gradients to 1e-4 (relative to the gradient's length; `weight` is the size of what cancels in
    it, such as the scale), in float64 to 1e-9 and 1e-8.
    """
    ours = [tensor.to(dtype).requires_grad_() for tensor in inputs]
    theirs = [tensor.to(dtype).double().requires_grad_() for tensor in inputs]
    value, expected = fast(*ours), slow(*theirs)
    assert value.shape == () and value.dtype == dtype
    exact = dtype == torch.float64
    torch.testing.assert_close(value.double(), expected, rtol=1e-9 if exact else 1e-5, atol=1e-9 if exact else 1e-5)
    gradients = torch.autograd.grad(value, ours, allow_unused=True, materialize_grads=True)
    expecteds = torch.autograd.grad(expected, theirs, allow_unused=True, materialize_grads=True)
    for n, (gradient, right) in enumerate(zip(gradients, expecteds, strict=True)):
        error, length = (gradient.double() - right).norm(), right.norm()
        bound = (1e-8 if exact else 1e-4) * length + (1e-9 if exact else 1e-6) * weight
        assert error <= bound, f"input {n}: error {error:.3g}, gradient {length:.3g}"
