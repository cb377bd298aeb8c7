"""What the shards of a split hold: which samples can be used, in which languages, and what is missing.

`shards.json` is taken where it fits the file; otherwise headers and JSON are read once and cached for the next run. A
sample belongs to the data set when it holds all that is needed of it, texts in at least one of the chosen languages;
training never reads the others. A sample whose JSON cannot be read stays in, and is counted when it is drawn.
"""

from __future__ import annotations

import json
import os
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.shards.index_cache import Content, IndexCache
from datamodules.shards.locations import Reading, file_of, held_by, is_remote, read_listing
from datamodules.shards.progress import with_progress
from datamodules.shards.reader import ShardReader
from datamodules.shards.remote import listing_path, remembered
from datamodules.shards.samples import (
    PAIR_TEXTS,
    BrokenSample,
    languages_held,
    read_labels,
    read_record,
)
from datamodules.shards.servers import FILE_QUERY, shown

CAPTIONED = frozenset(("image", "texts"))  # what a contrast of images and captions needs of a sample
TEXTS = frozenset(("texts", *PAIR_TEXTS))
PAIRED = frozenset((*PAIR_TEXTS, "score", "scores"))  # what a record may hold beside captions
UNREADABLE = -1
PARALLEL_BYTES = 1 << 24  # of shards to read through; fewer are read before processes have begun
KEPT = "kept"  # what a sample lacks of which `curate` kept no caption
NAMES = {"image": "a picture", "texts": "a caption in a chosen language", KEPT: "a caption that is kept"}


@dataclass
class ShardSurvey:
    """One shard as the data module sees it."""

    shard: str
    samples: int = 0  # in the file
    usable: np.ndarray | None = None  # numbers of those that hold what is needed; None when all do
    languages: Counter[str] = field(default_factory=Counter)  # samples with a text in it, of those that hold any
    labels: dict[str, Counter[int | str]] = field(default_factory=dict)
    lost: Counter[str] = field(default_factory=Counter)  # cause -> missing samples, 1 where the number is unknown
    lacking: Counter[str] = field(default_factory=Counter)  # need -> samples left out because they lack it
    let_go: np.ndarray | None = None  # captions that filters leave out, rising: number of the sample << 32 | its place
    filtered: Counter[str] = field(default_factory=Counter)  # cause -> captions, or samples, that filters left out
    holds: Counter[str] = field(default_factory=Counter)  # what a sample may hold -> samples
    columns: str = ""  # for a line: which column of a table is what
    checksum: str | None = None  # of a remote shard, where shards.json says it

    def __len__(self) -> int:
        return self.samples if self.usable is None else len(self.usable)

    @property
    def name(self) -> str:
        """What it is called in the account and in messages."""
        return shown(self.shard)

    @property
    def numbers(self) -> np.ndarray:
        """int [len(self)], the samples that are used."""
        return np.arange(self.samples, dtype=np.int32) if self.usable is None else self.usable

    @property
    def left_out(self) -> int:
        """Samples that are not used."""
        return self.samples - len(self)


def survey(
    shards: Sequence[str],
    languages: Sequence[str] | None,
    reading: Reading,
    needs: frozenset[str] = CAPTIONED,
) -> list[ShardSurvey]:
    """One ShardSurvey a shard, in order.

    Args:
        languages: A needed text must be in one of them; None takes any language.
        needs: What a sample must hold to be used, as `samples.holds` names it.

    A sample that lacks something is counted once in `lacking`, under the first need in the order image, texts, others
    by name. Languages are counted of captions, or where only query, positive or negatives are needed, of those; of
    samples that hold all that is needed, in whatever language.

    Raises OSError, with the reason, for a remote shard that cannot be fetched, and for a process that is killed.
    """
    entries = listed(shards, reading)
    with _executor([shard for shard in shards if shard not in entries]) as executor:
        of_shards = shards, repeat(languages), repeat(reading), map(entries.get, shards), repeat(needs)
        surveys = executor.map(survey_shard, *of_shards)
        try:
            return list(with_progress(surveys, "reading shards", len(shards)))
        except BrokenProcessPool:
            raise OSError("a process that read shards was killed; is there memory enough?") from None


def _executor(unlisted: Sequence[str]) -> Executor:
    """A process a core where reading through is much work for Python; else threads, which wait together."""
    cores = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if min(cores, len(unlisted)) < 2 or any(map(is_remote, unlisted)):
        return ThreadPoolExecutor(8)
    files = map(file_of, unlisted)
    if sum(os.path.getsize(file) for file in files if os.path.isfile(file)) < PARALLEL_BYTES:
        return ThreadPoolExecutor(8)
    # forked, as torch's readers are: another start would run the user's program again
    return ProcessPoolExecutor(min(cores, len(unlisted)), get_context("fork"))


def lacking_shown(lacking: Mapping[str, int]) -> str:
    """For a line: "12 samples without a caption, 3 samples without a picture"."""
    return ", ".join(
        f"{lacking[need]:,} samples without {NAMES.get(need, repr(need))}" for need in sorted(lacking, key=_order)
    )


def filtered_shown(causes: Mapping[str, int]) -> str:
    """For a line: "caption of another length (12), near-duplicate image (3)"."""
    return ", ".join(f"{cause} ({causes[cause]:,})" for cause in sorted(causes))


def _order(need: str) -> tuple[bool, bool, str]:
    return need != "image", need != "texts", need


def listed(shards: Sequence[str], reading: Reading) -> dict[str, dict]:
    """What the shards.json of their folders, each read once, say of these shards."""
    entries: dict[str, dict] = {}
    folders: dict[str, dict[str, dict]] = {}
    for shard in shards:
        folder, _, name = FILE_QUERY.sub(r"\1", file_of(shard)).rpartition("/")
        if folder not in folders:
            path = listing_path(shard, reading, anew=True)
            folders[folder] = (read_listing(path) if path else None) or {}
        if name in folders[folder]:
            entries[shard] = folders[folder][name]
    return entries


def survey_shard(
    shard: str,
    languages: Sequence[str] | None,
    reading: Reading,
    entry: dict | None = None,
    needs: frozenset[str] = CAPTIONED,
) -> ShardSurvey:
    """One shard; `entry` is what shards.json says of it. Raises OSError as `survey` does."""
    checksum = entry["checksum"] if entry is not None and is_remote(shard) else None
    if entry is not None and _fits(shard, entry):
        result = ShardSurvey(shard, entry["samples"], None, Counter(entry["languages"]), _labels_of(entry))
        result.holds, result.checksum = held_by(entry), checksum
        if _all_usable(result, languages, needs):
            return result
    promised = entry["samples"] if entry is not None else None
    text, cache = reading.text_language, IndexCache(reading.cache_dir)
    kind = f"what samples hold, .txt is {text}"

    def find(path: str) -> Content:
        return cache.found(path, kind, lambda: _found(path, text, cache))

    try:
        found = remembered(shard, reading, checksum, kind, find)
    except BrokenSample as error:
        return ShardSurvey(shard, lost=Counter({error.cause: promised or 1}))
    of_sample, facts = found.arrays["of_sample"], found.facts
    result = ShardSurvey(shard, len(of_sample), labels=_labels_of(facts), columns=facts["columns"], checksum=checksum)
    if promised is None:
        result.lost.update(facts["faults"])
    elif promised > len(of_sample):
        result.lost["truncated shard" if facts["truncated"] else "missing from the shard"] = promised - len(of_sample)
    usable = of_sample == UNREADABLE  # damage, to be counted when drawn
    for number, held in enumerate(facts["kinds"]):
        having = of_sample == number
        count = int(having.sum())
        result.holds.update(dict.fromkeys(held, count))
        lacking = _first_lacking(held, None, needs)
        if lacking is None:
            names = {language for text in _counted(needs) for language in held.get(text, ())}
            result.languages.update(dict.fromkeys(names, count))
            lacking = _first_lacking(held, languages, needs)
        if lacking is None:
            usable |= having
        else:
            result.lacking[lacking] += count
    if not usable.all():
        result.usable = np.flatnonzero(usable).astype(np.int32)
    return result


def _all_usable(shard: ShardSurvey, languages: Sequence[str] | None, needs: frozenset[str]) -> bool:
    """Whether counts alone say that every sample can be used and how many have each of the languages."""
    texts = needs & TEXTS
    if {text for text in TEXTS if shard.holds[text]} - _counted(needs):
        return False  # the languages are counted of other texts too
    if any(shard.holds[need] != shard.samples for need in needs):
        return False
    if languages is None or not texts:
        return True
    return texts == {"texts"} and any(shard.languages[language] == shard.samples for language in languages)


def _counted(needs: frozenset[str]) -> frozenset[str]:
    """The texts whose languages are counted."""
    return frozenset(("texts",)) if needs.isdisjoint(PAIR_TEXTS) else needs & {"texts"} | frozenset(PAIR_TEXTS)


def _first_lacking(
    held: Mapping[str, Sequence[str]], languages: Sequence[str] | None, needs: frozenset[str]
) -> str | None:
    """The first need that a sample does not meet. `held` has the languages of each text that it holds."""
    for need in sorted(needs, key=_order):
        if need not in held or (need in TEXTS and languages is not None and set(languages).isdisjoint(held[need])):
            return need
    return None


def _found(path: str, text_language: str, cache: IndexCache) -> Content:
    """What a shard's headers and records say, whatever is needed and chosen.

    "of_sample" is int32 [N], the number of each sample's kind or UNREADABLE. The facts are "kinds", which lists what
    samples hold, each thing with the languages that it is in, "labels" task -> value as JSON -> count, and "truncated"
    and "faults" of the shard.
    """
    reader = ShardReader(cache=cache)
    shard = reader.index(path)
    kinds: dict[tuple, int] = {}
    plain: dict[tuple, int] = {}  # by suffixes and languages, of samples with captions alone
    of_sample = array("i")
    labels: dict[str, Counter[str]] = {}
    for sample, members in enumerate(reader.texts(path)):
        try:
            if isinstance(members, BrokenSample):
                raise members
            record, captions = read_record(members, text_language)
        except BrokenSample:
            of_sample.append(UNREADABLE)
            continue
        suffixes = shard.suffixes(sample)
        for task, value in record.get("labels", {}).items():
            labels.setdefault(task, Counter())[json.dumps(value)] += 1
        alike = (*suffixes, "", *captions) if members and record.keys().isdisjoint(PAIRED) else ()
        if alike in plain and sample + 1 < len(shard):
            of_sample.append(plain[alike])
            continue
        held = languages_held(record, captions, suffixes, text_language)
        # neither JSON nor text is half a sample, and so is what the end of the file cut off
        half = not members or ("image" not in held and reader.cut(path, sample))
        kind = tuple((what, tuple(languages)) for what, languages in sorted(held.items()))
        of_sample.append(UNREADABLE if half else kinds.setdefault(kind, len(kinds)))
        if alike and not half:
            plain[alike] = of_sample[-1]
    reader.close()
    facts: dict[str, Any] = {"kinds": [dict(kind) for kind in kinds], "labels": labels}
    facts |= {"truncated": shard.truncated, "faults": list(shard.faults), "columns": shard.described}
    return Content({"of_sample": np.frombuffer(of_sample, np.int32)}, facts)


def _fits(shard: str, entry: dict) -> bool:
    # a remote shard is fetched when it is first read; until then its listing is what there is
    file = file_of(shard)
    return is_remote(shard) or (Path(file).exists() and os.path.getsize(file) == entry["bytes"])


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
