"""A progress bar for work that takes long enough to be watched."""

from __future__ import annotations

import sys
import time

import rich.progress


class Progress:
    """Shows itself after two seconds, on a terminal only; `advance()` after each item."""

    PATIENCE_SECONDS = 2.0

    def __init__(self, title: str, total: int | None, unit: str) -> None:
        self._title, self._total, self._unit = title, total, unit
        self._done, self._begun = 0, time.monotonic()
        self._bar: rich.progress.Progress | None = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self) -> None:
        self._done += 1
        if self._bar is None and sys.stderr.isatty() and time.monotonic() - self._begun > self.PATIENCE_SECONDS:
            self._bar = rich.progress.Progress(
                *rich.progress.Progress.get_default_columns(),
                rich.progress.MofNCompleteColumn(),
                rich.progress.TextColumn(self._unit),
                transient=True,
                console=rich.console.Console(stderr=True),
            )
            self._bar.start()
            self._task = self._bar.add_task(self._title, total=self._total)
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done)
