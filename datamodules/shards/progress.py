"""How far long work is: a bar on a terminal, elsewhere a line on stderr every so often."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Generator, Iterable
from datetime import timedelta
from typing import TypeVar

T = TypeVar("T")
PATIENCE_SECONDS = 2.0  # before the bar
FIRST_SECONDS, EVERY_SECONDS = 10.0, 60.0  # between lines
INTERVAL = "MMTRAIN_PROGRESS_SECONDS"


def with_progress(
    items: Iterable[T],
    title: str,
    total: int | None,
    unit: str = "shards",
    size: Callable[[T], int] = lambda item: 1,
    *,
    quiet: bool = False,
) -> Generator[T, None, None]:
    """The same items. How many are done is shown by a bar after two seconds, or by `Lines`, in the first process alone.

    Args:
        title: What is done with them; it may name a file.
        total: How much there is to do, in units; None where nobody knows.
        unit: What is counted, in the plural.
        size: How many units an item is.
        quiet: Shows nothing.
    """
    title = "".join(letter if letter.isprintable() else "\ufffd" for letter in title)
    if quiet or not is_first_process():
        yield from items
    elif sys.stderr.isatty():
        yield from _with_bar(items, title, total, unit, size)
    else:
        lines, done = Lines(title, total, unit), 0
        for item in items:
            yield item
            done += size(item)
            lines.at(done)


class Lines:
    """Says on stderr how far work is: after ten seconds, then every minute.

    MMTRAIN_PROGRESS_SECONDS gives another interval, for the first line too: 0 a line whenever something is done, inf
    none.

    Args:
        title: What is done.
        total: How much there is to do, in units; None where nobody knows.
        unit: What is counted, in the plural.
        done: How much of it was done before, by a run that this one goes on with.

    Raises:
        ValueError: when MMTRAIN_PROGRESS_SECONDS is no number of seconds.
    """

    def __init__(self, title: str, total: int | None, unit: str = "samples", done: int = 0) -> None:
        given = os.environ.get(INTERVAL)
        try:
            first, self._every = (FIRST_SECONDS, EVERY_SECONDS) if given is None else (float(given), float(given))
        except ValueError as error:
            raise ValueError(f"{INTERVAL}: got {given!r}, expected a number of seconds, or inf") from error
        self._title, self.total, self._unit, self._before = title, total, unit, done
        self._begun = time.monotonic()
        self._due = self._begun + first

    def at(self, done: int, more: Callable[[], str] = str) -> None:
        """Says that so much is done, and what `more` returns, when it is time for a line."""
        if (now := time.monotonic()) < self._due:
            return
        self._due = now + self._every
        rate = (done - self._before) / max(now - self._begun, 1e-9)
        line = f"{self._title}: {done:,} {self._unit}"
        if self.total:
            line = f"{self._title}: {done:,} of {self.total:,} {self._unit} ({done / self.total:.0%})"
        line += f", {rate:,.{0 if rate >= 10 else 2}f} a second"
        if self.total and rate > 0:
            line += f", {timedelta(seconds=min(round(max(self.total - done, 0) / rate), 10**10))} left"
        print(line + more(), file=sys.stderr, flush=True)


def is_first_process() -> bool:
    """Whether this is the first of several processes, as what launched them says; or the only one."""
    ranks = (os.environ.get(name) for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
    return next((rank for rank in ranks if rank is not None), "0") == "0"


def _with_bar(
    items: Iterable[T], title: str, total: int | None, unit: str, size: Callable[[T], int]
) -> Generator[T, None, None]:
    import rich.markup
    import rich.progress

    bar = rich.progress.Progress(
        *rich.progress.Progress.get_default_columns(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TextColumn(unit),
        transient=True,
        console=rich.console.Console(stderr=True),
    )
    task, begin = bar.add_task(rich.markup.escape(title), total=total), time.monotonic()
    try:
        for item in items:
            yield item
            bar.advance(task, size(item))
            if time.monotonic() - begin > PATIENCE_SECONDS:
                bar.start()
    finally:
        if bar.live.is_started:
            bar.stop()
