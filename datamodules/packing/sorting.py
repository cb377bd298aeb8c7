"""Sorting what does not fit into memory."""

from __future__ import annotations

import heapq
import json
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

MOST_CHARACTERS = 2**26  # of JSON, sorted in memory at once


def sorted_on_disk(items: Iterable[list], width: int, most: int = MOST_CHARACTERS) -> Iterator[list]:
    """Lists of JSON in the order of their first `width` values, which no two may share.

    Parts of at most `most` characters are sorted in memory, written to a folder that the system keeps for such things
    (TMPDIR names another) and merged. Raises ValueError, one line, when there is no room.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="mmtrain-sort-") as folder:
            runs: list[Path] = []
            part: list[tuple[list, str]] = []
            size = 0
            for item in items:
                part.append((item[:width], json.dumps(item)))
                size += len(part[-1][1])
                if size > most:
                    runs.append(Path(folder, str(len(runs))))
                    runs[-1].write_text("".join(f"{line}\n" for _, line in sorted(part)), encoding="ascii")
                    part, size = [], 0
            rest = (json.loads(line) for _, line in sorted(part))
            yield from heapq.merge(rest, *map(_lines, runs), key=lambda item: item[:width])
    except OSError as error:
        raise ValueError(
            f"source: it cannot be sorted in {tempfile.gettempdir()} ({error.strerror or error}); "
            "TMPDIR names a folder with room"
        ) from None


def _lines(run: Path) -> Iterator[list]:
    with run.open(encoding="ascii") as file:
        yield from map(json.loads, file)
