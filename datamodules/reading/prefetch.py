"""Remote shards fetched before their turn: the order of the stream is known ahead."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from pathlib import Path

from datamodules.shards.cache_room import Holds
from datamodules.shards.locations import Reading, file_of, is_remote
from datamodules.shards.remote import cached_path, local_path
from datamodules.shards.survey import ShardSurvey

MOST_LATER = 8  # shards fetched before their turn


class Prefetch:
    """A thread that fetches the shards that are drawn from and the next few, and keeps them in the cache.

    What it cannot fetch is left to the readers, which count it.
    """

    def __init__(self, shards: Sequence[ShardSurvey], reading: Reading) -> None:
        self._shards, self._reading = shards, reading
        self._holds = Holds(len(shards))
        self._wanted: tuple[list[int], list[int]] = [], []
        self._news = threading.Condition()
        self._thread: threading.Thread | None = None

    def want(self, now: list[int], later: list[int]) -> None:
        """Tells which shards are drawn from, and which will be; both by number, soonest first."""
        with self._news:
            if self._wanted != (now, later):
                self._wanted = now, later
                self._news.notify()
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Ends the thread after the shard that it fetches."""
        with self._news:
            self._thread, self._wanted = None, ([], [])
            self._news.notify()
        self._holds.keep([])

    def _work(self) -> None:
        while threading.current_thread() is self._thread:
            wanted = self._wanted
            now = [shard for number in wanted[0] if is_remote((shard := self._shards[number]).shard)]
            later = [shard for number in wanted[1][:MOST_LATER] if is_remote((shard := self._shards[number]).shard)]
            self._holds.keep([cached_path(shard.shard, self._reading) for shard in [*now, *later]])
            for place, shard in enumerate([*now, *later]):
                if self._wanted is not wanted or (place >= len(now) and self._full()):
                    break
                with contextlib.suppress(OSError):
                    self._holds.take(Path(file_of(local_path(shard.shard, self._reading, shard.checksum))))
            with self._news:
                if self._wanted is wanted:
                    self._news.wait()

    def _full(self) -> bool:
        """Whether another shard like those that are held would not fit."""
        sizes = self._holds.sizes()
        limit = self._reading.cache_gb
        return limit is not None and sum(sizes) + max(sizes, default=0) > limit * 1e9
