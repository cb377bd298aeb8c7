"""What is in a folder that is being packed into: a line for each finished shard, and shards.json in the end.

The journal grows by a line a shard, where shards.json would be written whole each time. It takes the place of
shards.json once a shard is written over, which that one would describe wrongly; a run that is killed goes on from it.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from datamodules.files import write_whole
from datamodules.shards.locations import LISTING, held_by, read_listing

FORMAT = 1
JOURNAL = ".shards.jsonl"
OUR_NAME = re.compile(r"shard-\d{6,}\.tar")


def finished_shards(out: Path) -> dict[str, dict]:
    """The entries by name of an earlier run. Raises ValueError where shards lie that nobody listed."""
    listed = read_listing(out / LISTING)
    if (out / JOURNAL).is_file():
        listed = listed or {}
        for line in (out / JOURNAL).read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError):  # the line that a kill cut short
                entry = json.loads(line)
                listed[entry["name"]] = entry
    tars = {tar.name for tar in out.glob("*.tar")}
    foreign = sorted(name for name in tars if listed is None or not OUR_NAME.fullmatch(name))
    if foreign:
        raise ValueError(f"out: {out} holds shards of something else ({foreign[0]}); an empty folder")
    return {name: entry for name, entry in (listed or {}).items() if name in tars}


def begin_journal(out: Path, entries: Iterable[dict]) -> IO[str]:
    """A journal with these entries, open for more."""
    write_whole(out / JOURNAL, "".join(map(_line, entries)))
    return (out / JOURNAL).open("a", encoding="utf-8")


def note(journal: IO[str], entry: dict) -> None:
    """Adds a shard to the journal."""
    journal.write(_line(entry))
    journal.flush()


def _line(entry: dict) -> str:
    return json.dumps(entry, ensure_ascii=False) + "\n"


def end_journal(out: Path, entries: list[dict]) -> dict:
    """Writes shards.json, which says what it returns, in place of the journal."""
    captions, skipped, held = Counter[str](), Counter[str](), Counter[str]()
    for entry in entries:
        captions.update(entry["captions"])
        skipped.update(entry["skipped"])
        held.update(held_by(entry))
    listing = {
        "format": FORMAT,
        "samples": sum(entry["samples"] for entry in entries),
        "images": sum(entry["images"] for entry in entries),
        "captions": dict(sorted(captions.items())),
        "holds": dict(sorted(held.items())),
        "bytes": sum(entry["bytes"] for entry in entries),
        "skipped": dict(sorted(skipped.items())),
        "shards": entries,
    }
    write_whole(out / LISTING, json.dumps(listing, ensure_ascii=False, indent=1) + "\n")
    (out / JOURNAL).unlink()
    return listing


def drop_journal(out: Path) -> None:
    """Removes the journal of a run that wrote nothing, and shards.json where there are no shards either."""
    shards = any(out.glob("*.tar"))
    if not shards:
        (out / LISTING).unlink(missing_ok=True)
    if not shards or (out / LISTING).exists():
        (out / JOURNAL).unlink()
