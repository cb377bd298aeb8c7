"""The multiplier of the cosines, the inverse temperature: where it starts, and where it is clamped."""

import math

import torch
from torch import Tensor, nn

LARGEST = 100.0  # CLIP's bound (Radford et al. 2021, section 2.5)


def log_scale_parameter(scale: float, learnable: bool) -> nn.Parameter:
    """The logarithm of the multiplier, the form CLIP learns it in: [1], since FSDP takes no 0-d parameter."""
    if not scale > 0:
        raise ValueError(f"scale: got {scale}, expected a positive multiplier such as {1 / 0.07:.4g}")
    return nn.Parameter(torch.tensor([math.log(scale)]), requires_grad=learnable)


def clamped_scale(log_scale: Tensor) -> Tensor:
    """exp(log_scale) in [1, 100], 0-d; the gradient is that of exp, so that a multiplier at its bound can come back."""
    bounded = log_scale.detach().clamp(0.0, math.log(LARGEST))
    return (log_scale + (bounded - log_scale.detach())).exp().squeeze()


@torch.no_grad()
def clamp_(log_scale: Tensor) -> None:
    """Writes the bounds into the parameter, after a step."""
    log_scale.clamp_(0.0, math.log(LARGEST))
