"""One loss over the batches of many processes.

Every process holds b of the B = W b rows of the global batch and computes a part of the loss; the parts add up to the
loss of one process that holds all B. DDP averages the gradients of the W processes, so each part's gradient counts W
times: `global_sum` sees to that, `gather` brings every gradient back to the process whose row it belongs to, and the
average is then the gradient of the whole, for the towers and for the parameters of the loss alike.

All processes must hold the same number of rows (`itm_loss` alone does not ask for it).
"""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup


def default_group() -> ProcessGroup | None:
    """The group of all processes; None when this one is alone."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        return dist.group.WORLD
    return None


def rank_and_size(group: ProcessGroup | None) -> tuple[int, int]:
    return (0, 1) if group is None else (dist.get_rank(group), dist.get_world_size(group))


def gather(rows: Tensor, group: ProcessGroup | None) -> Tensor:
    """The rows of all processes in the order of their ranks: [b, ...] -> [W b, ...], differentiable for floats."""
    if group is None:
        return rows
    if rows.dtype == torch.bool:  # gloo does not carry booleans
        return gather(rows.to(torch.uint8), group).bool()
    return _Gather.apply(rows, group)


def global_sum(part: Tensor, group: ProcessGroup | None) -> Tensor:
    """The sum of all processes' parts of a loss, with the gradient that DDP's average turns into the whole one."""
    return part if group is None else _GlobalSum.apply(part, group)


def total(count: Tensor, group: ProcessGroup | None) -> Tensor:
    """A count summed over all processes; without gradient."""
    count = count.detach().clone()
    if group is not None:
        dist.all_reduce(count, group=group)
    return count


def longest(length: int, device: torch.device, group: ProcessGroup | None) -> int:
    """The largest of all processes' lengths."""
    if group is None:
        return length
    largest = torch.tensor(length, device=device)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=group)
    return int(largest)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows: Tensor, group: ProcessGroup) -> Tensor:
        ctx.group = group
        everyone = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(group.size())]
        dist.all_gather(everyone, rows.contiguous(), group=group)
        return torch.cat(everyone)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        # Over gloo a gradient that is not contiguous (after einsum, permute, diagonal) comes back wrong, silently.
        gradient = gradient.contiguous()
        rank, size = rank_and_size(ctx.group)
        if gradient.is_cuda:
            mine = torch.empty_like(gradient[: len(gradient) // size])
            dist.reduce_scatter_tensor(mine, gradient, group=ctx.group)
            return mine, None
        gradient = gradient.clone()  # the caller may still use its own
        dist.all_reduce(gradient, group=ctx.group)
        return gradient.chunk(size)[rank], None


class _GlobalSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, part: Tensor, group: ProcessGroup) -> Tensor:
        ctx.size = group.size()
        whole = part.clone()
        dist.all_reduce(whole, group=group)
        return whole

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.size * gradient, None
