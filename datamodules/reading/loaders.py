"""Which draws make which batch, and the DataLoader that Lightning sees."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from datamodules.batch import Batch
from datamodules.images import resizing
from datamodules.reading.dataset import PADDING, Draw, ShardDataset
from datamodules.reading.prefetch import Prefetch
from datamodules.stream.cursor import Cursor
from datamodules.stream.order import Interleave, PassOrder
from datamodules.stream.streams import Stream

T = TypeVar("T")


class TrainingStream:
    """position -> draw, over one stream or a mixture of several by their weights.

    Args:
        streams: What is mixed.
        seed: Of the order.
        window: Shuffle window in samples of the shards.
    """

    def __init__(self, streams: Sequence[Stream], seed: int, window: int) -> None:
        self._streams = list(streams)
        # a language's window spans as many shards as one of all samples, or each draw might open another file
        self._orders = [
            PassOrder(stream.counts, seed, max(1, round(window * stream.density)), salt)
            for salt, stream in enumerate(streams)
        ]
        self._mix = Interleave([stream.weight for stream in streams])

    def draw(self, position: int, end: int = 0) -> Draw:
        number, place = self._mix(position)
        stream = self._streams[number]
        shard, place = self._orders[number](place)
        return Draw(position, stream.first + shard, stream.sample(shard, place), end, stream.language)

    def ahead(self, position: int) -> tuple[list[int], list[int]]:
        """The shards that are drawn from at a position, and those that come next, soonest first."""
        now: list[int] = []
        later: list[int] = []
        for stream, order, place in zip(self._streams, self._orders, self._mix.places(position).tolist(), strict=True):
            for numbers, shards in zip((now, later), order.ahead(place), strict=True):
                numbers += [stream.first + shard for shard in shards]
        return list(dict.fromkeys(now)), list(dict.fromkeys(later))


class TrainingBatches:
    """This rank's part of each global batch of the epoch that holds the cursor, from the cursor on.

    Global batch = world x batch_size consecutive positions; rank r takes the r-th part. The tail that fills no global
    batch is carried into the next epoch.

    Args:
        repeated: Draw the first so many samples again and again; None for the whole stream.
    """

    def __init__(
        self,
        stream: TrainingStream,
        cursor: Cursor,
        batch_size: int,
        epoch_length: int,
        rank: int = 0,
        world: int = 1,
        repeated: int | None = None,
        prefetch: Prefetch | None = None,
    ) -> None:
        self._stream, self._cursor, self._prefetch = stream, cursor, prefetch
        self._batch_size, self._epoch_length, self._repeated = batch_size, epoch_length, repeated
        self._rank, self._group = rank, batch_size * world

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
                self._prefetch.want(*self._stream.ahead(first))
            mine = range(first + self._rank * self._batch_size, first + (self._rank + 1) * self._batch_size)
            yield [self._stream.draw(position, end) for position in mine]


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

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]  # made at the first batch
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
