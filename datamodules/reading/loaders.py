"""Which draws make which batch, and the DataLoader that Lightning sees."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from datamodules.batch import Batch, Batches
from datamodules.images import resizing
from datamodules.reading.dataset import PADDING, Draw, ShardDataset
from datamodules.reading.part_streams import PartStream
from datamodules.reading.prefetch import Prefetch
from datamodules.stream.cursor import Cursor

T = TypeVar("T")


class TrainingBatches:
    """This rank's part of each global batch of the epoch that holds the cursor, from the cursor on.

    A global batch is consecutive positions, of which each part of the step has its interval; rank r takes the r-th part
    of each interval. The tail that fills no global batch is carried into the next epoch.

    Args:
        parts: One, or the parts of each step.
        repeated: Draw the first so many samples again and again; None for the whole stream.
    """

    def __init__(
        self,
        parts: Sequence[PartStream],
        cursor: Cursor,
        epoch_length: int,
        rank: int = 0,
        world: int = 1,
        repeated: int | None = None,
        prefetch: Prefetch | None = None,
    ) -> None:
        self._parts, self._cursor, self._prefetch = list(parts), cursor, prefetch
        self._epoch_length, self._repeated = epoch_length, repeated
        self._rank, self._world = rank, world
        self._group = sum(part.batch_size for part in parts) * world

    def __len__(self) -> int:
        """Batches of the whole current epoch, those already trained included."""
        return self._cursor.batches(self._group, self._epoch_length)

    def __iter__(self) -> Iterator[list[Draw]]:
        start = self._cursor.position
        for batch in range(self._cursor.left(self._group, self._epoch_length)):
            first = start + batch * self._group
            end = first + self._group
            first = first % self._repeated if self._repeated else first
            if self._prefetch is not None:
                self._prefetch.want(*self._ahead(first))
            yield [
                draw for part in self._parts for draw in part.draws(first, end, self._group, self._rank, self._world)
            ]

    def _ahead(self, first: int) -> tuple[list[int], list[int]]:
        """The shards that the parts draw from, and those that come next, by their number among those of all parts."""
        now: list[int] = []
        later: list[int] = []
        before = 0
        for part in self._parts:
            for numbers, own in zip((now, later), part.ahead(first, self._group, self._world), strict=True):
                numbers += [before + number for number in own]
            before += part.stream.shards
        return now, later


class EvaluationBatches:
    """This rank's consecutive rows, each once, padded so that every rank has the same number of batches."""

    def __init__(self, dataset: ShardDataset, batch_size: int, rank: int = 0, world: int = 1) -> None:
        self._dataset, self._batch_size = dataset, batch_size
        self._share = -(-len(dataset) // world)
        self._first = rank * self._share

    def __len__(self) -> int:
        return -(-self._share // self._batch_size)

    def __iter__(self) -> Iterator[list[Draw]]:
        end = self._first + self._share
        for start in range(self._first, end, self._batch_size):
            rows = range(start, min(start + self._batch_size, end))
            yield [self._dataset.at(row) if row < len(self._dataset) else PADDING for row in rows]


class TrainLoader(DataLoader):
    """A DataLoader that starts where the cursor is.

    Its iterator is made at the first batch: Lightning makes each epoch's iterator twice, and the readers would decode
    for nothing. Lightning resumes only a loader with a state_dict; the state itself is the data module's, since the
    loader is ahead of what was trained.
    """

    def __iter__(self) -> Iterator[Batch | Batches]:  # type: ignore[override]  # made at the first batch
        yield from super().__iter__()

    def close(self) -> None:
        """Ends the readers. Left to the garbage collector they are waited for, five seconds each."""
        if isinstance(self._iterator, _MultiProcessingDataLoaderIter):
            self._iterator._shutdown_workers()
        self._iterator = None

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None:
        return None


def make_loader(
    kind: Callable[..., DataLoader], dataset: Dataset, batches: Iterable[Sequence[Any]], workers: int
) -> DataLoader:
    """A loader of whole batches; workers stay alive between epochs."""
    resizing()  # imported before the workers are forked, not in each of them
    return kind(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=_whole,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
        worker_init_fn=_quiet_tokenizers,
    )


def _whole(batch: T) -> T:
    return batch


def _quiet_tokenizers(worker: int) -> None:
    # the Rust tokenizers would start threads of their own in each reader
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
