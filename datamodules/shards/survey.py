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
from datamodules.shards.locations import Reading, is_remote, read_listing
from datamodules.shards.progress import with_progress
from datamodules.shards.reader import ShardReader
from datamodules.shards.remote import listing_path, remembered
from datamodules.shards.samples import BrokenSample, read_labels, read_record
from datamodules.shards.servers import FILE_QUERY, shown

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
    checksum: str | None = None  # of a remote shard, where shards.json says it

    def __len__(self) -> int:
        return self.samples if self.usable is None else len(self.usable)

    @property
    def name(self) -> str:
        """What it is called in the account and in messages."""
        return shown(self.shard)

    @property
    def left_out(self) -> int:
        """Samples without a caption in any chosen language."""
        return self.samples - len(self)


def survey(shards: Sequence[str], languages: Sequence[str] | None, reading: Reading) -> list[ShardSurvey]:
    """One ShardSurvey a shard, in order; `languages` None takes every sample with a caption.

    Raises OSError, with the reason, for a remote shard that cannot be fetched.
    """
    entries = listed(shards, reading)
    with ThreadPoolExecutor(8) as threads:
        surveys = threads.map(lambda shard: survey_shard(shard, languages, reading, entries.get(shard)), shards)
        return list(with_progress(surveys, "reading shards", len(shards)))


def listed(shards: Sequence[str], reading: Reading) -> dict[str, dict]:
    """What the shards.json of their folders, each read once, say of these shards."""
    entries: dict[str, dict] = {}
    folders: dict[str, dict[str, dict]] = {}
    for shard in shards:
        folder, _, name = FILE_QUERY.sub(r"\1", shard).rpartition("/")
        if folder not in folders:
            path = listing_path(shard, reading, anew=True)
            folders[folder] = (read_listing(path) if path else None) or {}
        if name in folders[folder]:
            entries[shard] = folders[folder][name]
    return entries


def survey_shard(
    shard: str, languages: Sequence[str] | None, reading: Reading, entry: dict | None = None
) -> ShardSurvey:
    """One shard; `entry` is what shards.json says of it. Raises OSError as `survey` does."""
    checksum = entry["checksum"] if entry is not None and is_remote(shard) else None
    if entry is not None and _fits(shard, entry):
        labels = _labels_of(entry)
        result = ShardSurvey(shard, entry["samples"], None, Counter(entry["languages"]), labels, checksum=checksum)
        if languages is None or any(result.languages[language] == result.samples for language in languages):
            return result
    promised = entry["samples"] if entry is not None else None
    text, cache = reading.text_language, IndexCache(reading.cache_dir)
    kind = f"captions and labels, .txt is {text}"

    def find(path: str) -> dict:
        return cache.found(path, kind, lambda: _found(path, text, cache))

    try:
        found = remembered(shard, reading, checksum, kind, find)
    except BrokenSample as error:
        return ShardSurvey(shard, lost=Counter({error.cause: promised or 1}))
    of_sample = np.array(found["of_sample"], np.int32)
    result = ShardSurvey(shard, len(of_sample), labels=_labels_of(found), checksum=checksum)
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
        for task, value in labels_in(record).items():
            labels.setdefault(task, Counter())[json.dumps(value)] += 1
    reader.close()
    return {
        "languages": [list(names) for names in sets],
        "of_sample": of_sample,
        "labels": labels,
        "truncated": index.truncated,
        "faults": index.faults,
    }


def _fits(shard: str, entry: dict) -> bool:
    # a remote shard is fetched when it is first read; until then its listing is what there is
    return is_remote(shard) or (Path(shard).exists() and os.path.getsize(shard) == entry["bytes"])


def _labels_of(entry: dict) -> dict[str, Counter[int | str]]:
    labels: dict[str, Counter[int | str]] = {}
    for task, values in entry["labels"].items():
        for value, count in values.items():
            for label in labels_in({"labels": {task: json.loads(value)}}).values():
                labels.setdefault(task, Counter())[label] += count
    return labels


def labels_in(record: dict) -> dict[str, int | str]:
    """The labels of a record, none where they cannot be read: such a sample is counted when it is drawn."""
    try:
        return read_labels(record.get("labels"))
    except BrokenSample:
        return {}
