"""Items of any number through a model, some at a time."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from datamodules.shards.progress import with_progress
from mmtrain.models.network import NO_HEAD
from mmtrain.models.token_rows import TokenPooling, kept

if TYPE_CHECKING:
    from mmtrain.models.encoder import Encoder


def in_batches(
    encoder: "Encoder",
    items: Any,
    encode: Callable[[Any], tuple[Tensor, ...]],
    dim: int | None,
    batch_size: int,
    progress: bool,
    multi: bool,
    budget: int | None,
    pooling: TokenPooling,
) -> Any:
    """Rows float32 [N, dim] of what `encode` makes of a part of the items, (rows,).

    Where `multi`, it makes (token rows, mask), and they are a list of float32 [l, dim], each at most `budget` long. The
    other arguments are those of `Encoder.encode_image`.

    Raises:
        ValueError: for a dim, a budget or token rows that cannot be.
    """
    model = encoder.model
    if budget is not None and not (multi and budget >= 1):
        raise ValueError(f"budget: got {budget}, expected a number from 1, of token rows (multi=True)")
    width = (model.multi_dimension or 0) if multi else model.dimension
    if not width:
        raise ValueError(NO_HEAD)
    if dim is not None and not 1 <= dim <= width:
        raise ValueError(f"dim: got {dim}, the rows of {encoder.source} have {width}; 1 to {width}")
    starts = with_progress(
        range(0, len(items), batch_size),
        "encoding",
        len(items),
        "items",
        lambda start: min(batch_size, len(items) - start),
        quiet=not progress,
    )
    parts: list[np.ndarray] = []
    with torch.inference_mode(), encoder.autocast():
        for start in starts:
            values, *masks = encode(items[start : start + batch_size])
            rows = functional.normalize(values.float()[..., :dim], dim=-1).cpu()
            parts += [each.numpy() for each in kept(rows, masks[0].cpu(), budget, pooling)] if multi else [rows.numpy()]
    if multi:
        return parts
    return np.concatenate(parts) if parts else np.zeros((0, dim or width), dtype=np.float32)
