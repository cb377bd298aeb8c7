"""Which samples of each part of a step each global batch takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from datamodules.reading.dataset import Draw
from datamodules.stream.mixture import Mixing
from datamodules.stream.order import Interleave, PassOrder
from datamodules.stream.streams import Stream


class TrainingStream:
    """position -> draw, over one stream or a mixture of several by their weights.

    Args:
        streams: What is mixed.
        seed: Of the order.
        window: Shuffle window in samples of the shards.
        salt: Of the first stream; each has one of its own.
    """

    def __init__(self, streams: list[Stream], seed: int, window: int, salt: int = 0) -> None:
        self._streams, self.shards = list(streams), max(stream.first + len(stream.counts) for stream in streams)
        # a language's window spans as many shards as one of all samples, or each draw might open another file
        self._orders = [
            PassOrder(stream.counts, seed, max(1, round(window * stream.density)), number)
            for number, stream in enumerate(streams, salt)
        ]
        self.mix = Interleave([stream.weight for stream in streams])

    def draw(self, position: int, end: int = 0) -> Draw:
        return self.at(*self.mix(position), position, end)

    def at(self, number: int, place: int, position: int, end: int = 0) -> Draw:
        """The draw at a place of one of the streams, for a position in the whole."""
        stream = self._streams[number]
        shard, place = self._orders[number](place)
        return Draw(position, stream.first + shard, stream.sample(shard, place), end, stream.language)

    def ahead(self, places: list[int]) -> tuple[list[int], list[int]]:
        """The shards that are drawn from at a place of each stream, and those that come next, soonest first."""
        now: list[int] = []
        later: list[int] = []
        for stream, order, place in zip(self._streams, self._orders, places, strict=True):
            for numbers, shards in zip((now, later), order.ahead(place), strict=True):
                numbers += [stream.first + shard for shard in shards]
        return list(dict.fromkeys(now)), list(dict.fromkeys(later))


@dataclass
class Progress:
    """How far a part was read at a place of the whole stream.

    position    that place, in samples of all parts and ranks
    samples     of this part
    batches     global batches of this part
    sources     of each of its streams the samples read, where a batch takes one source
    """

    position: int = 0
    samples: int = 0
    batches: int = 0
    sources: list[int] = field(default_factory=list)


class PartStream:
    """The interval of each global batch that belongs to one part.

    After n batches of a run the part has been read n times its share of them further, so its place is arithmetic, and
    does not depend on the number of processes where that changes between batches.

    Args:
        batch_size: Its samples in a batch of one process.
        number: Of the part.
        mixing: "batches" takes each of its batches from one stream.
    """

    def __init__(self, stream: TrainingStream, batch_size: int, number: int = 0, mixing: Mixing = "samples") -> None:
        self.stream, self.batch_size, self._number, self._mixing = stream, batch_size, number, mixing
        self.progress = Progress()

    def draws(self, first: int, end: int, group: int, rank: int, world: int) -> Iterator[Draw]:
        """One rank's draws of the global batch of `group` samples that starts at `first`."""
        since = (first - self.progress.position) // group
        mine = self.progress.samples + since * self.batch_size * world + rank * self.batch_size
        if self._mixing == "samples":
            draws = (self.stream.draw(place, end) for place in range(mine, mine + self.batch_size))
        else:
            number, start = self._turn(since, world)
            start += rank * self.batch_size
            draws = (self.stream.at(number, start + i, mine + i, end) for i in range(self.batch_size))
        return (draw._replace(part=self._number) for draw in draws) if self._number else iter(draws)

    def ahead(self, first: int, group: int, world: int) -> tuple[list[int], list[int]]:
        """The shards drawn from at a place of the whole stream, and those that come next."""
        at = self.at(first, group, world)
        return self.stream.ahead(
            at.sources if self._mixing == "batches" else self.stream.mix.places(at.samples).tolist()
        )

    def at(self, position: int, group: int, world: int) -> Progress:
        """How far the part is read at a place of the whole stream."""
        since = (position - self.progress.position) // group
        samples = self.progress.samples + since * self.batch_size * world
        batches = self.progress.batches + since
        return Progress(position, samples, batches, self._places(batches, world) if self._mixing == "batches" else [])

    def _turn(self, since: int, world: int) -> tuple[int, int]:
        """(stream, place in it) of a batch that takes one stream."""
        batches = self.progress.batches + since
        number, _ = self.stream.mix(batches)
        return number, self._places(batches, world)[number]

    def _places(self, batches: int, world: int) -> list[int]:
        """Samples read of each stream before a batch."""
        before, now = (self.stream.mix.places(count).tolist() for count in (self.progress.batches, batches))
        read = self.progress.sources or [0] * len(now)
        share = self.batch_size * world
        return [place + (b - a) * share for place, a, b in zip(read, before, now, strict=True)]
