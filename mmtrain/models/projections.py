"""From a tower's features into the shared space."""

from collections.abc import Mapping
from typing import Literal

from torch import nn

Projection = Literal["linear", "mlp", "none"]


def projected_by(kind: Projection, side: str, width: int, dimension: int) -> nn.Module:
    """A layer from features [..., width] of a side to [..., dimension]. Raises ValueError for what does not fit."""
    if kind == "linear":
        return nn.Linear(width, dimension, bias=False)
    if kind == "mlp":
        return nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, dimension))
    if kind != "none":
        raise ValueError(f"projection: got {kind!r}, expected linear, mlp or none")
    if width != dimension:
        raise ValueError(f"projection none needs {side} features of width {dimension}, the tower gives {width}")
    return nn.Identity()


def multi_dimension(multi: Mapping[str, int]) -> int:
    """d of {dimension: d}. Raises ValueError for anything else."""
    dimension = multi.get("dimension")
    if multi.keys() != {"dimension"} or not isinstance(dimension, int) or dimension < 1:
        raise ValueError(f"model.multi: got {dict(multi)}, expected {{dimension: d}}, d from 1, as 128")
    return dimension
