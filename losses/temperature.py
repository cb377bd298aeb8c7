"""The multiplier of the cosines, the inverse temperature: where it starts, and where it is clamped."""

import math

import torch
from torch import Tensor, nn

from losses.objective import Objective

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


class ScaledObjective(Objective):
    """An objective whose cosines are multiplied by exp(log_scale), clamped and, if `learnable`, trained."""

    def __init__(self, scale: float, learnable: bool) -> None:
        super().__init__()
        self.log_scale = log_scale_parameter(scale, learnable)

    @torch.no_grad()
    def after_step(self) -> None:
        self.log_scale.clamp_(0.0, math.log(LARGEST))

    def logged(self) -> dict[str, Tensor]:
        return {"scale": clamped_scale(self.log_scale).detach()}
