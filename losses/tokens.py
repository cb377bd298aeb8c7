"""Cross-entropy of tokens, each example weighing alike."""

from torch import Tensor
from torch.distributed import ProcessGroup
from torch.nn import functional

from losses.engine.checks import check_integers, check_mask, full_precision, working_precision
from losses.engine.distributed import global_sum, total


@full_precision
def token_loss(logits: Tensor, tokens: Tensor, mask: Tensor, group: ProcessGroup | None = None) -> Tensor:
    """The mean over each example's tokens, then over the examples of all processes that have any; 0 where none has.

    Args:
        logits: float [N, L, V].
        tokens: int64 [N, L], from 0 to V - 1 where the mask is true.
        mask: bool [N, L], the tokens that count.
        group: processes that hold further examples.

    Raises:
        ValueError: wrong shapes.
    """
    if logits.dim() != 3 or not logits.shape[2]:
        raise ValueError(f"logits: got shape {list(logits.shape)}, expected [N, L, V]")
    N, L, V = logits.shape
    check_integers("tokens", tokens, (N, L))
    check_mask("mask", mask, (N, L))
    (logits,) = working_precision(logits)
    wanted = tokens.where(mask, 0)
    each = functional.cross_entropy(logits.reshape(N * L, V), wanted.flatten(), reduction="none").view(N, L)
    counts = mask.sum(1)
    examples = (each.where(mask, 0.0).sum(1) / counts.clamp(min=1)).sum()
    return global_sum(examples / total((counts > 0).sum(), group).clamp(min=1), group)
