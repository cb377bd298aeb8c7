"""What the shards of a split hold: which samples can be used, in which languages, and what is missing.

`shards.json` is taken where it fits the file; otherwise headers and JSON are read once and cached for the next run. A
sample belongs to the data set when it has a caption in at least one of the chosen languages; training never reads the
others. A sample whose JSON cannot be read stays in, and is counted when it is drawn.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from datamodules.shards.index_cache import IndexCache
from datamodules.shards.locations import Reading, is_remote, listing_of, local_path, read_listing
from datamodules.shards.progress import with_progress
from datamodules.shards.reader import ShardReader
from datamodules.shards.samples import BrokenSample, read_record

TEXT_FILES = frozenset(("json", "txt"))
UNREADABLE = -1


@dataclass
class ShardSurvey:
    """One shard as the data module sees it."""

    shard: str
    samples: int = 0  # in the file
    usable: np.ndarray | None = None  # numbers of those with a chosen language; None when all have one
    languages: Counter[str] = field(default_factory=Counter)  # samples with a caption in it
    labels: dict[str, Counter[int | str]] = field(default_factory=dict)
    lost: Counter[str] = field(default_factory=Counter)  # cause -> missing samples, 1 where the number is unknown

    def __len__(self) -> int:
        return self.samples if self.usable is None else len(self.usable)

    @property
    def left_out(self) -> int:
        """Samples without a caption in any chosen language."""
        return self.samples - len(self)


def survey(shards: Sequence[str], languages: Sequence[str] | None, reading: Reading) -> list[ShardSurvey]:
    """One ShardSurvey a shard, in order; `languages` None takes every sample with a caption."""
    folders = {shard.rsplit("/", 1)[0]: shard for shard in shards}
    listings = {folder: _listing(shard, reading.cache_dir) for folder, shard in folders.items()}

    def one(shard: str) -> ShardSurvey:
        entry = listings[shard.rsplit("/", 1)[0]].get(shard.rsplit("/", 1)[-1])
        return survey_shard(shard, languages, reading, entry)

    with ThreadPoolExecutor(8) as threads:
        return list(with_progress(threads.map(one, shards), "reading shards", len(shards)))


def survey_shard(
    shard: str, languages: Sequence[str] | None, reading: Reading, entry: dict | None = None
) -> ShardSurvey:
    """One shard; `entry` is what shards.json says of it."""
    if entry is not None and _fits(shard, entry):
        result = ShardSurvey(shard, entry["samples"], None, Counter(entry["languages"]), _labels_of(entry))
        if languages is None or any(result.languages[language] == result.samples for language in languages):
            return result
    promised = entry["samples"] if entry is not None else None
    try:
        path, cache = local_path(shard, reading.cache_dir), IndexCache(reading.cache_dir)
        text = reading.text_language
        found = cache.found(path, f"captions, .txt is {text}", lambda: _found(path, text, cache))
    except (BrokenSample, OSError) as error:
        cause = error.cause if isinstance(error, BrokenSample) else "missing shard"
        return ShardSurvey(shard, lost=Counter({cause: promised or 1}))
    of_sample = np.array(found["of_sample"], np.int32)
    result = ShardSurvey(shard, len(of_sample), labels=_labels_of(found))
    if promised is None:
        result.lost.update(found["faults"])
    elif promised > len(of_sample):
        result.lost["truncated shard" if found["truncated"] else "missing from the shard"] = promised - len(of_sample)
    chosen = None if languages is None else frozenset(languages)
    usable = of_sample == UNREADABLE  # damage, to be counted when drawn
    for number, names in enumerate(found["languages"]):
        having = of_sample == number
        result.languages.update(dict.fromkeys(names, int(having.sum())))
        if names if chosen is None else not chosen.isdisjoint(names):
            usable |= having
    if not usable.all():
        result.usable = np.flatnonzero(usable).astype(np.int32)
    return result


def _found(path: str, text_language: str, cache: IndexCache) -> dict:
    """What headers and JSON of a shard say, whatever languages are chosen, as an object for JSON.

    "languages" lists the sets of languages that samples have, "of_sample" the number of each sample's set or
    UNREADABLE, "labels" task -> value as JSON -> count, "truncated" and "faults" are the index's.
    """
    reader = ShardReader(cache=cache)
    index = reader.index(path)
    sets: dict[tuple[str, ...], int] = {}
    of_sample: list[int] = []
    labels: dict[str, Counter[str]] = {}
    for sample in range(len(index)):
        try:
            members = reader.read(path, sample, TEXT_FILES)[1]
            record, captions = read_record(members, text_language)
        except BrokenSample:
            of_sample.append(UNREADABLE)
            continue
        # neither JSON nor text is half a sample
        of_sample.append(sets.setdefault(tuple(sorted(captions)), len(sets)) if members else UNREADABLE)
        for task, value in (record.get("labels") or {}).items():
            labels.setdefault(task, Counter())[json.dumps(value)] += 1
    reader.close()
    return {
        "languages": [list(names) for names in sets],
        "of_sample": of_sample,
        "labels": labels,
        "truncated": index.truncated,
        "faults": index.faults,
    }


def _listing(shard: str, cache_dir: str | None) -> dict[str, dict]:
    path = listing_of(shard, cache_dir)
    return (read_listing(path) if path else None) or {}


def _fits(shard: str, entry: dict) -> bool:
    # a remote shard is fetched when it is first read; until then its listing is what there is
    return is_remote(shard) or (Path(shard).exists() and os.path.getsize(shard) == entry["bytes"])


def _labels_of(entry: dict) -> dict[str, Counter[int | str]]:
    return {
        task: Counter({json.loads(value): count for value, count in values.items()})
        for task, values in entry["labels"].items()
    }
