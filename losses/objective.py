"""The one form every objective has: embeddings in, a scalar out."""

import math

import torch
from torch import Tensor, nn

from losses.embeddings import Embeddings

UNIT_TOLERANCE = 0.02  # bfloat16 rows of unit length are this close to it


class Objective(nn.Module):
    """Base of everything that trains: `forward(embeddings) -> scalar`, learnable parameters inside.

    An objective that works on tokens sets `needs_tokens`; one that has figures worth watching returns them by name
    from `logged`. Objectives use the default process group wherever one of several processes is running.
    """

    needs_tokens: bool = False

    def __init__(self) -> None:
        super().__init__()
        self._rows_checked = False

    def forward(self, embeddings: Embeddings) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} must say how it turns Embeddings into a scalar")

    def logged(self) -> dict[str, Tensor]:
        """Scalars of the last forward pass that are worth logging."""
        return {}

    def check_rows(self, embeddings: Embeddings) -> None:
        """Refuses rows that are not of unit length; looks at the first batch only, since it waits for the device.

        Raises:
            ValueError: naming the embedding and the length seen.
        """
        if self._rows_checked:
            return
        texts = embeddings.texts if embeddings.present is None else embeddings.texts[embeddings.present]
        for name, rows in {"image": embeddings.image, "texts": texts, **embeddings.modalities}.items():
            lengths = rows.detach().float().norm(dim=-1).flatten()
            worst = lengths[(lengths - 1).abs().argmax()].item() if len(lengths) else 1.0
            if not abs(worst - 1) <= UNIT_TOLERANCE:
                raise ValueError(f"{name}: a row of length {worst:.4g}, expected rows of unit length (L2-normalised)")
        self._rows_checked = True


def log_scale_parameter(scale: float, learnable: bool) -> nn.Parameter:
    """The logarithm of the multiplier, the form CLIP learns it in: [1], since FSDP takes no 0-d parameter."""
    if not scale > 0:
        raise ValueError(f"scale: got {scale}, expected a positive multiplier such as {1 / 0.07:.4g}")
    return nn.Parameter(torch.tensor([math.log(scale)]), requires_grad=learnable)


def clamped_scale(log_scale: nn.Parameter, largest: float = 100.0) -> Tensor:
    """exp(log_scale) in [1, largest]. Clamped in place: a clamp inside the graph would end the gradient at the edge."""
    with torch.no_grad():
        log_scale.clamp_(0.0, math.log(largest))
    return log_scale.exp().squeeze()
