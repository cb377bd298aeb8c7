"""Who waits for whom: processes for process 0, and none for its device."""

import json
from collections.abc import Callable
from datetime import timedelta
from itertools import count
from typing import TypeVar

import torch
from torch import Tensor, distributed

T = TypeVar("T")
PATIENCE = timedelta(hours=6)
_numbers = count()


def told_by_first(do: Callable[[], T]) -> T:
    """What process 0 gets by `do`, in every process; the others wait for as long as it takes it, up to six hours.

    They wait at the store that the processes met at. In a collective they would give up after the process group's
    timeout, which is there for a peer that hangs: minutes, and ranking a large split takes longer.

    Args:
        do: Called in process 0 alone; its result goes through JSON.
    """
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return do()
    store, key = distributed.distributed_c10d._get_default_store(), f"mmtrain/{next(_numbers)}"
    if distributed.get_rank() == 0:
        result = do()
        store.set(key, json.dumps(result))
        return result
    store.wait([key], PATIENCE)
    return json.loads(store.get(key))


class Later:
    """Numbers of a step that are read one step later: by then the device has them, and nobody waits for it."""

    def __init__(self) -> None:
        self._before: tuple[Tensor, torch.cuda.Event | None] | None = None

    def exchange(self, numbers: Tensor | None) -> list[float]:
        """Takes a step's numbers [n], None behind the last; gives those of the step before, none in the first."""
        before, self._before = self._before, None
        if numbers is not None:
            copy, ready = numbers.detach().to("cpu", non_blocking=True), None
            if numbers.is_cuda:
                ready = torch.cuda.Event()
                ready.record()
            self._before = copy, ready
        if before is None:
            return []
        values, copied = before
        if copied is not None:
            copied.synchronize()
        return values.tolist()
