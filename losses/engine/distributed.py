"""One loss over the batches of many processes.

Every process holds b of the B = W b rows of the global batch and computes a part of the loss; the parts add up to the
loss of one process that holds all B. DDP averages the gradients of the W processes, so each part's gradient counts W
times: `global_sum` sees to that, `gather` brings every gradient back to the process whose row it belongs to, and the
average is then the gradient of the whole, for the towers and for the parameters of the loss alike.

All processes must hold the same number of rows (`itm_loss` alone does not ask for it).
"""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

T = TypeVar("T")


@dataclass
class _Shared:
    """What the losses of one step share.

    made        by what was made and the identities of the tensors it was made of, which are kept: an identity is free
                again when its tensor is gone
    prefixes    tensors that are made from others in the same way before a gather and after it
    """

    wire: torch.dtype | None
    made: dict[Hashable, tuple[object, tuple[object, ...]]] = field(default_factory=dict)
    prefixes: dict[int, tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]] = field(default_factory=dict)


_SHARED: ContextVar[_Shared | None] = ContextVar("shared", default=None)


@contextmanager
def shared_gathers(wire: torch.dtype | None = None) -> Iterator[None]:
    """Inside, a tensor is gathered and labelled once, however many losses ask for it; nested ones share the outermost.

    Args:
        wire: What rows are rounded to on their way to other processes; None sends them as they are. Gradients return in
            full.
    """
    if _SHARED.get() is not None:
        yield
        return
    token = _SHARED.set(_Shared(wire))
    try:
        yield
    finally:
        _SHARED.reset(token)


def once(what: Hashable, make: Callable[[], T], *of: object) -> T:
    """`make()`, or what it gave before for the same objects inside `shared_gathers`."""
    shared = _SHARED.get()
    if shared is None:
        return make()
    key = (what, *map(id, of))
    if key not in shared.made:
        shared.made[key] = make(), of
    return cast(T, shared.made[key][0])


def gathered_like(part: Tensor, whole: Tensor, make: Callable[[Tensor], Tensor]) -> Tensor:
    """Returns `part`, which is make(whole); inside `shared_gathers` it is gathered as make(gather(whole))."""
    shared = _SHARED.get()
    if shared is not None:
        shared.prefixes[id(part)] = part, whole, make
    return part


def default_group() -> ProcessGroup | None:
    """The group of all processes; None when this one is alone."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        return dist.group.WORLD
    return None


def rank_and_size(group: ProcessGroup | None) -> tuple[int, int]:
    return (0, 1) if group is None else (dist.get_rank(group), dist.get_world_size(group))


def gather(rows: Tensor, group: ProcessGroup | None, *, exact: bool = True) -> Tensor:
    """The rows of all processes in the order of their ranks: [b, ...] -> [W b, ...], differentiable for floats.

    Args:
        exact: False for rows of the space, which may be rounded on the way, see `shared_gathers`.
    """
    if group is None:
        return rows
    shared = _SHARED.get()
    wire = None if shared is None or exact else shared.wire

    @torch.enable_grad()  # it may be asked for without gradients first
    def make() -> Tensor:
        if shared is not None and id(rows) in shared.prefixes:
            _, whole, prefix = shared.prefixes[id(rows)]
            return prefix(gather(whole, group, exact=exact))
        if rows.dtype == torch.bool:  # gloo does not carry booleans
            return _Gather.apply(rows.to(torch.uint8), group, None).bool()
        return _Gather.apply(rows, group, wire)

    everyones = once(("gather", id(group), wire), make, rows)
    return everyones if torch.is_grad_enabled() or not everyones.requires_grad else everyones.detach()


def fetch(rows: Tensor, numbers: Tensor, group: ProcessGroup | None) -> Tensor:
    """Some rows of all processes: gather(rows, group)[numbers], where only those travel.

    Args:
        rows: [b, ...], differentiable for floats.
        numbers: int64 [N], counted over all processes; N may differ between them.
    """
    if group is None:
        return rows[numbers]
    if rows.dtype == torch.bool:
        return fetch(rows.to(torch.uint8), numbers, group).bool()
    size, b = group.size(), len(rows)
    order = torch.argsort(numbers, stable=True)
    ours = torch.bincount(numbers // b, minlength=size)
    theirs = torch.empty_like(ours)
    dist.all_to_all_single(theirs, ours, group=group)
    wanted, given = torch.stack([ours, theirs]).tolist()
    asked = numbers.new_empty(sum(given))
    dist.all_to_all_single(asked, numbers[order] % b, given, wanted, group=group)
    arrived = _Exchange.apply(rows[asked], given, wanted, group)
    return arrived[torch.argsort(order)]


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
    def forward(ctx, rows: Tensor, group: ProcessGroup, wire: torch.dtype | None) -> Tensor:
        ctx.group = group
        mine = rows.to(wire or rows.dtype).contiguous()
        everyone = mine.new_empty(group.size() * len(mine), *mine.shape[1:])
        dist.all_gather_into_tensor(everyone, mine, group=group)
        return everyone.to(rows.dtype)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        # Over gloo a gradient that is not contiguous (after einsum, permute, diagonal) comes back wrong, silently.
        gradient = gradient.contiguous()
        mine = torch.empty_like(gradient[: len(gradient) // ctx.group.size()])
        dist.reduce_scatter_tensor(mine, gradient, group=ctx.group)
        return mine, None, None


class _Exchange(torch.autograd.Function):
    """Rows [sum(given), ...] out, rows [sum(wanted), ...] in, each process's part in the order of the ranks."""

    @staticmethod
    def forward(ctx, rows: Tensor, given: list[int], wanted: list[int], group: ProcessGroup) -> Tensor:
        ctx.given, ctx.wanted, ctx.group = given, wanted, group
        arrived = rows.new_empty(sum(wanted), *rows.shape[1:])
        dist.all_to_all_single(arrived, rows.contiguous(), wanted, given, group=group)
        return arrived

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        returned = gradient.new_empty(sum(ctx.given), *gradient.shape[1:])
        dist.all_to_all_single(returned, gradient.contiguous(), ctx.given, ctx.wanted, group=ctx.group)
        return returned, None, None, None


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
