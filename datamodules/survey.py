"""What the shards of a split hold: which samples can be used, in which languages, and what is already lost.

`shards.json` answers where it is there and fits the file; otherwise the headers and the JSON are read once. A sample
belongs to the data set when it has a caption in at least one of the chosen languages; the others are left out here, so
that training never meets them. A sample whose JSON cannot be read stays in, to be counted when it is drawn.
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

from datamodules.progress import Progress
from datamodules.samples import BrokenSample, read_record
from datamodules.shards import ShardReader
from datamodules.sources import is_remote, listing_of, local_path, read_listing

TEXT_FILES = frozenset(("json", "txt"))


@dataclass
class ShardSurvey:
    """One shard as the data module sees it."""

    shard: str
    samples: int = 0  # in the file
    usable: np.ndarray | None = None  # numbers of those with a chosen language; None when all have one
    languages: Counter[str] = field(default_factory=Counter)  # samples with a caption in it
    labels: dict[str, Counter[int | str]] = field(default_factory=dict)
    lost: Counter[str] = field(
        default_factory=Counter
    )  # cause -> samples that are no more, 1 where the number is unknown

    def __len__(self) -> int:
        return self.samples if self.usable is None else len(self.usable)

    @property
    def left_out(self) -> int:
        """Samples without a caption in any chosen language."""
        return self.samples - len(self)


def survey(
    shards: Sequence[str], languages: Sequence[str] | None, text_language: str = "und", cache_dir: str | None = None
) -> list[ShardSurvey]:
    """One ShardSurvey a shard, in order; `languages` None takes every sample with a caption."""
    folders = {shard.rsplit("/", 1)[0]: shard for shard in shards}
    listings = {folder: _listing(shard, cache_dir) for folder, shard in folders.items()}

    def one(shard: str) -> ShardSurvey:
        entry = listings[shard.rsplit("/", 1)[0]].get(shard.rsplit("/", 1)[-1])
        return survey_shard(shard, languages, text_language, cache_dir, entry)

    with ThreadPoolExecutor(8) as threads, Progress("reading shards", len(shards), "shards") as progress:
        found = []
        for result in threads.map(one, shards):
            found.append(result)
            progress.advance()
    return found


def survey_shard(
    shard: str,
    languages: Sequence[str] | None,
    text_language: str = "und",
    cache_dir: str | None = None,
    entry: dict | None = None,
) -> ShardSurvey:
    """One shard; `entry` is what shards.json says of it."""
    if entry is not None and _fits(shard, entry):
        result = _from_entry(shard, entry)
        if languages is None or any(result.languages[language] == result.samples for language in languages):
            return result
    promised = entry["samples"] if entry is not None else None
    reader = ShardReader()
    try:
        path = local_path(shard, cache_dir)
        index = reader.index(path)
    except (BrokenSample, OSError) as error:
        cause = error.cause if isinstance(error, BrokenSample) else "missing shard"
        return ShardSurvey(shard, lost=Counter({cause: promised or 1}))
    result = ShardSurvey(shard, samples=len(index))
    if promised is None:
        result.lost.update(index.faults)
    elif promised > len(index):
        result.lost["truncated shard" if index.truncated else "missing from the shard"] = promised - len(index)
    chosen = None if languages is None else frozenset(languages)
    usable = []
    for sample in range(len(index)):
        try:
            members = reader.read(path, sample, TEXT_FILES)[1]
            record, captions = read_record(members, text_language)
        except BrokenSample:
            usable.append(sample)
            continue
        result.languages.update(captions.keys())
        for task, value in _labels(record):
            result.labels.setdefault(task, Counter())[value] += 1
        # neither JSON nor text is damage (half a sample), to be counted when drawn
        if (captions if chosen is None else chosen & captions.keys()) or not members:
            usable.append(sample)
    if len(usable) < len(index):
        result.usable = np.array(usable, np.int32)
    reader.close()
    return result


def _listing(shard: str, cache_dir: str | None) -> dict[str, dict]:
    path = listing_of(shard, cache_dir)
    return (read_listing(path) if path else None) or {}


def _fits(shard: str, entry: dict) -> bool:
    # a remote shard is fetched when it is first read; until then its listing is what there is
    if is_remote(shard):
        return True
    return Path(shard).exists() and os.path.getsize(shard) == entry["bytes"]


def _from_entry(shard: str, entry: dict) -> ShardSurvey:
    labels = {
        task: Counter({json.loads(value): count for value, count in values.items()})
        for task, values in entry["labels"].items()
    }
    return ShardSurvey(shard, entry["samples"], None, Counter(entry["languages"]), labels)


def _labels(record: dict) -> list[tuple[str, int | str]]:
    labels = record.get("labels")
    if not isinstance(labels, dict):
        return []
    return [(task, value) for task, value in labels.items() if isinstance(value, int | str)]
