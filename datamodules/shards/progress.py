"""A progress bar for work that takes long enough to be watched."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

import rich.markup
import rich.progress

T = TypeVar("T")
PATIENCE_SECONDS = 2.0


def with_progress(shards: Iterable[T], title: str, total: int | None) -> Iterator[T]:
    """The same items, one a shard; a bar counts them after two seconds, on a terminal only."""
    bar = rich.progress.Progress(
        *rich.progress.Progress.get_default_columns(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TextColumn("shards"),
        transient=True,
        console=rich.console.Console(stderr=True),
    )
    title = "".join(letter if letter.isprintable() else "\ufffd" for letter in title)  # it may name a file
    task, begin = bar.add_task(rich.markup.escape(title), total=total), time.monotonic()
    try:
        for shard in shards:
            yield shard
            bar.advance(task)
            if sys.stderr.isatty() and time.monotonic() - begin > PATIENCE_SECONDS:
                bar.start()
    finally:
        if bar.live.is_started:
            bar.stop()
