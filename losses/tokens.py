"""Cross-entropy of tokens, each example weighing alike."""

import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.nn import functional

from losses.engine.checks import check_integers, check_mask, full_precision, working_precision
from losses.engine.distributed import global_sum, total
from losses.engine.pairs import Pairs
from losses.engine.tiles import tiled_logsumexp


@full_precision
def token_loss(logits: Tensor, tokens: Tensor, mask: Tensor, group: ProcessGroup | None = None) -> Tensor:
    """The mean over each example's tokens, then over the examples of all processes that have any; 0 where none has.

    The negative log-likelihood of captions, as in Yu et al., "CoCa", TMLR 2022; there tokens are summed, here each
    example weighs alike.

    Args:
        logits: float [N, L, V].
        tokens: int64 [N, L], from 0 to V - 1 where the mask is true.
        mask: bool [N, L], the tokens that count.
        group: processes that hold further examples.

    Raises:
        ValueError: wrong shapes.
    """
    N, L, V = _checked("logits", logits, tokens, mask)
    (logits,) = working_precision(logits)
    wanted = tokens.where(mask, 0)
    each = functional.cross_entropy(logits.reshape(N * L, V), wanted.flatten(), reduction="none").view(N, L)
    return _mean_of_examples(each.where(mask, 0.0), mask, group)


@full_precision
def linear_token_loss(
    features: Tensor, weight: Tensor, tokens: Tensor, mask: Tensor, group: ProcessGroup | None = None
) -> Tensor:
    """`token_loss` of the logits features @ weight.T, which exist one tile at a time: for large vocabularies.

    Args:
        features: float [N, L, W].
        weight: float [V, W], of a linear layer without a bias.
        tokens: As for `token_loss`.
        mask: As there.
        group: As there.

    Raises:
        ValueError: wrong shapes.
    """
    _, _, W = _checked("features", features, tokens, mask)
    if weight.dim() != 2 or weight.shape[1] != W or not len(weight):
        raise ValueError(f"weight: got shape {list(weight.shape)}, expected [V, {W}]")
    each = linear_token_losses(features[mask], weight, tokens[mask])
    return _mean_of_examples(each.new_zeros(mask.shape).masked_scatter(mask, each), mask, group)


@full_precision
def linear_token_losses(features: Tensor, weight: Tensor, tokens: Tensor) -> Tensor:
    """-log softmax(weight x)_t of each token t [n] and its features x [n, W]; weight [V, W]."""
    features, weight = working_precision(features, weight)
    if not len(tokens):
        return 0 * (features.sum(1) + weight.sum())
    order = tokens.argsort()  # the engine's positives ascend
    pairs = Pairs(torch.arange(len(order), device=order.device), tokens[order])
    right, others, _ = tiled_logsumexp(features[order], weight, features.new_ones(()), pairs, both=False)
    return functional.softplus(others - right)[order.argsort()]


def _checked(name: str, values: Tensor, tokens: Tensor, mask: Tensor) -> torch.Size:
    """The shape of values [N, L, V or W]. Raises ValueError for others, and for tokens or a mask of another."""
    if values.dim() != 3 or not values.shape[2]:
        raise ValueError(f"{name}: got shape {list(values.shape)}, expected [N, L, {'V' if name == 'logits' else 'W'}]")
    check_integers("tokens", tokens, tuple(values.shape[:2]))
    check_mask("mask", mask, tuple(values.shape[:2]))
    return values.shape


def _mean_of_examples(each: Tensor, mask: Tensor, group: ProcessGroup | None) -> Tensor:
    """each [N, L], 0 where the mask is not."""
    counts = mask.sum(1)
    examples = (each.sum(1) / counts.clamp(min=1)).sum()
    return global_sum(examples / total((counts > 0).sum(), group).clamp(min=1), group)
