"""Batches of any size through a tower: the gradient cache."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def micro_batched(encode: Callable[..., Tensor], *inputs: Tensor, micro_batch: int) -> Tensor:
    """`encode(*inputs)` in parts, with the gradients of the whole and the memory of one part.

    Each part keeps its inputs and its output only; its activations are computed again in the backward pass, with the
    random numbers of the first time, so that dropout repeats. A part whose output needs no gradient, of a frozen tower,
    is computed once. Since the loss sees all rows at once, contrastive
    gradients are those of the whole batch: what GradCache does in three passes (Gao et al., "Scaling Deep Contrastive
    Learning Batch Size under Memory Limited Setup", RepL4NLP 2021), here inside one backward call, so that loss
    parameters, DDP, clipping and mixed precision need nothing special.

    Args:
        encode: maps inputs [n, ...] to rows [n, ...], each row from its own inputs alone (no batch normalisation).
        inputs: tensors [N, ...] of equal N.
        micro_batch: rows a part, at least 1.

    Raises:
        ValueError: no inputs, unequal lengths, or micro_batch below 1.
    """
    if micro_batch < 1:
        raise ValueError(f"micro_batch: got {micro_batch}, expected at least 1")
    lengths = {len(tensor) for tensor in inputs}
    if len(lengths) != 1:
        raise ValueError(f"inputs: got lengths {sorted(lengths)}, expected one or more tensors of one length")
    parts = zip(*(tensor.split(micro_batch) for tensor in inputs), strict=True)
    if not torch.is_grad_enabled():
        return torch.cat([encode(*part) for part in parts])
    return torch.cat([checkpoint(encode, *part, use_reentrant=False, preserve_rng_state=True) for part in parts])
