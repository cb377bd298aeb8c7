"""Texts of like lengths encoded together, so that little of what is encoded is padding."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


def in_buckets(
    mask: Tensor, lengths: np.ndarray | None, buckets: int, encode: Callable[[Tensor, int], Tensor]
) -> Tensor:
    """What `encode` gives for all texts, float [N, W], in their order; zeros behind what is narrower.

    Args:
        mask: bool [N, L], their tokens.
        lengths: int64 [N], how many each has; None asks the device.
        buckets: Into how many parts they go by length.
        encode: Of texts int64 [n] and the most tokens that any of them has to float [n, W].
    """
    if lengths is None:
        lengths = mask.sum(1).numpy(force=True)
    sorted_lengths = np.sort(lengths)
    order = on_device_of(mask, np.argsort(lengths, kind="stable"))
    rows, end = [], 0
    for part in order.chunk(buckets if len(mask) > buckets else 1):
        end += len(part)
        rows.append(encode(part, max(int(sorted_lengths[end - 1]), 1)))
    widest = max(part.shape[1] for part in rows)
    return torch.cat([functional.pad(part, (0, widest - part.shape[1])) for part in rows])[order.argsort()]


def on_device_of(tensor: Tensor, values: np.ndarray) -> Tensor:
    """Values on the device of a tensor, without waiting for what the device has to do before."""
    placed = torch.from_numpy(values)
    return placed.pin_memory().to(tensor.device, non_blocking=True) if tensor.is_cuda else placed.to(tensor.device)
