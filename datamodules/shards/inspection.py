"""What is in shards, and what is broken: every sample read once, every image decoded."""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image

from datamodules.batch import stable_id
from datamodules.images import BrokenImage, ImagePipeline, ImageTooLarge
from datamodules.shards.locations import Reading, expand, file_of
from datamodules.shards.progress import with_progress
from datamodules.shards.reader import ShardReader
from datamodules.shards.records import PROBED, features_shape
from datamodules.shards.remote import local_path
from datamodules.shards.samples import (
    FEATURE_SUFFIX,
    PAIR_TEXTS,
    SUFFIXES,
    TEXT_FILES,
    BrokenSample,
    Sample,
    further_name,
    holds,
    read_features,
    read_sample,
    read_scores,
    read_texts,
)
from datamodules.shards.survey import listed

LISTED_BROKEN = 200
FIRST_BROKEN = 20  # of them in the facts
EXAMPLES = {"sample": 48, "language": 6}  # of all samples; of each language


class Broken(NamedTuple):
    """What training would skip; `key` is empty, or says how many, where a whole shard is meant."""

    shard: str
    cause: str
    key: str

    def __str__(self) -> str:
        return f"{self.shard}: {self.cause}{f' ({self.key})' if self.key else ''}"


class Place(NamedTuple):
    """A whole sample; `draw` is drawn from shard and key, so that the same samples come first in any order."""

    draw: int
    shard: str
    path: str
    number: int


@dataclass
class Inspection:
    """What `inspect_shards` returns: the facts, the first broken samples, and examples.

    `examples` are places by language, that of most samples first, or all under "" when they are not grouped.
    """

    facts: dict[str, Any]
    broken: list[Broken]
    examples: dict[str, list[Place]]

    def samples(self, group: str) -> Iterator[tuple[Place, Sample]]:
        """The examples of a group, read again."""
        reader = ShardReader()
        for place in sorted(self.examples[group], key=lambda place: (place.shard, place.number)):
            yield place, read_sample(*reader.read(place.path, place.number))
        reader.close()


def inspect_shards(
    spec: str,
    *,
    workers: int | None = None,
    examples: Literal["sample", "language"] = "sample",
) -> Inspection:
    """Reads SHARDS through and counts.

    The facts are a dict: "shards", "samples" (all in the tars), "images", "bytes", "captions" and "samples by language"
    (language -> count, most first), "labels" (task -> value -> count), "image sizes" ({"smallest", "median", "largest"}
    as "W x H" by area), "image formats", "duplicate images" (samples whose image an earlier one shows), "broken"
    (cause -> count) and "broken samples" (the first few: shard, cause, key). A sample is broken when training would
    skip it. "without a picture" and "without a caption" count samples that lack one, "further" (name -> samples) texts
    of pairs and further files, "pairs by language" samples with such a text, "files passed over" (what follows the key
    -> files) those that nobody reads. The examples are whole samples drawn from all of them, or from those of each
    language. Raises ValueError, one line, when SHARDS names nothing.
    """
    shards = [shard for source in expand(spec, field="SHARDS") for shard in source.shards]
    whole, reader = _Tally(examples), ShardReader()
    shape = features_shape(reader, _first_places(shards))
    reader.close()
    entries = listed(shards, Reading())
    # decoding leaves the interpreter, so threads do
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as threads:
        tallies = threads.map(lambda shard: _tally(shard, examples, entries.get(shard), shape), shards)
        for tally in with_progress(tallies, "reading shards", len(shards)):
            whole.add(tally)
    groups = dict(sorted(whole.examples.items(), key=lambda group: -whole.languages[group[0]]))
    return Inspection(whole.summary(len(shards)), whole.listed, groups)


class _Tally:
    """Counts of one shard, or of several added up."""

    def __init__(self, examples: str) -> None:
        self.examples_by = examples
        self.samples = self.images = self.features = self.bytes = self.imageless = self.captionless = 0
        self.further: Counter[str] = Counter()
        self.passed_over: Counter[str] = Counter()
        self.pair_languages: Counter[str] = Counter()
        self.captions: Counter[str] = Counter()
        self.languages: Counter[str] = Counter()
        self.formats: Counter[str] = Counter()
        self.sizes: Counter[tuple[int, int]] = Counter()
        self.labels: dict[str, Counter[str]] = {}
        self.image_ids: Counter[int] = Counter()
        self.columns: Counter[str] = Counter()
        self.broken: Counter[str] = Counter()
        self.listed: list[Broken] = []
        self.examples: dict[str, list[Place]] = {}

    def add(self, other: _Tally) -> None:
        for name, value in vars(other).items():
            mine = getattr(self, name)
            if isinstance(value, int):
                setattr(self, name, mine + value)
            elif isinstance(value, Counter):
                mine.update(value)
        for task, counts in other.labels.items():
            self.labels.setdefault(task, Counter()).update(counts)
        for group, places in other.examples.items():
            self._add_examples(group, places)
        self.listed += other.listed[: LISTED_BROKEN - len(self.listed)]

    def look_at(self, sample: Sample, shape: tuple[int, ...]) -> None:
        """Counts a sample, with everything in it read. Raises BrokenSample, BrokenImage or ImageTooLarge."""
        pair = {language for key in PAIR_TEXTS for language, _ in read_texts(sample.record, key)}
        if "query" in sample.record:
            read_scores(sample.record, "score")
            read_scores(sample.record)
        for suffix, content in sample.files.items():
            if suffix.endswith(FEATURE_SUFFIX):
                read_features(content)
            else:
                _decoded(content)
        if sample.image is None:
            self.imageless += 1
        elif sample.suffix == FEATURE_SUFFIX:
            if shape not in ((), read_features(sample.image).shape):
                raise BrokenSample("features of another size")
            self.features += 1
        else:
            picture = _decoded(sample.image)
            self.formats[str(picture.format)] += 1
            self.sizes[picture.size] += 1
            self.images += 1
        self.image_ids.update([sample.image_id] if sample.image is not None else ())
        self.captionless += not sample.captions
        self.further.update(holds(sample.record, sample.captions, sample.files) - {"texts"})
        self.pair_languages.update(pair)
        self.languages.update(sample.captions.keys())
        self.captions.update({language: len(texts) for language, texts in sample.captions.items()})
        for task, value in sample.labels.items():
            self.labels.setdefault(task, Counter())[json.dumps(value, ensure_ascii=False)] += 1

    def example(self, place: Place, languages: list[str]) -> None:
        for group in languages if self.examples_by == "language" else [""]:
            self._add_examples(group, [place])

    def _add_examples(self, group: str, places: list[Place]) -> None:
        self.examples[group] = sorted([*self.examples.get(group, ()), *places])[: EXAMPLES[self.examples_by]]

    def fault(self, shard: str, cause: str, key: str, count: int = 1) -> None:
        self.broken[cause] += count
        if len(self.listed) < LISTED_BROKEN:
            self.listed.append(Broken(shard, cause, key))

    def summary(self, shards: int) -> dict[str, Any]:
        facts = {
            "shards": shards,
            "samples": self.samples,
            "images": self.images,
            "features": self.features,
            "without a picture": self.imageless,
            "without a caption": self.captionless,
            "further": dict(sorted(self.further.items())),
            "bytes": self.bytes,
            "languages": len(self.languages),
            "captions": dict(self.captions.most_common()),
            "samples by language": dict(self.languages.most_common()),
            "pairs by language": dict(self.pair_languages.most_common()),
            "labels": {task: dict(sorted(counts.items())) for task, counts in sorted(self.labels.items())},
            "image sizes": self._sizes(),
            "image formats": dict(self.formats.most_common()),
            "columns": "; ".join(self.columns),
            "duplicate images": sum(count - 1 for count in self.image_ids.values()),
            "files passed over": dict(self.passed_over.most_common()),
            "broken": dict(self.broken.most_common()),
            "broken samples": [str(broken) for broken in self.listed[:FIRST_BROKEN]],
        }
        return {name: value for name, value in facts.items() if value or name in ("samples", "images", "broken")}

    def _sizes(self) -> dict[str, str]:
        if not self.sizes:
            return {}
        ordered = sorted(self.sizes, key=lambda size: (size[0] * size[1], size))
        counted = np.cumsum([self.sizes[size] for size in ordered])
        median = ordered[int(np.searchsorted(counted, (counted[-1] + 1) // 2))]
        sizes = {"smallest": ordered[0], "median": median, "largest": ordered[-1]}
        return {name: f"{width} x {height}" for name, (width, height) in sizes.items()}


def _decoded(content: bytes) -> Image.Image:
    """The picture, opened and decoded once. Raises BrokenImage or ImageTooLarge."""
    pipeline = ImagePipeline()
    picture = pipeline.open(content)
    pipeline.evaluate(picture)
    return picture


def _first_places(shards: list[str]) -> Iterator[tuple[str, int]]:
    for shard in shards:
        with contextlib.suppress(OSError):
            path = local_path(shard, Reading())
            yield from ((path, number) for number in range(PROBED))


def _tally(shard: str, examples: str, entry: dict | None, shape: tuple[int, ...]) -> _Tally:
    """Counts of one shard; `entry` is what shards.json says of it, `shape` that of features."""
    tally, reader = _Tally(examples), ShardReader()
    promised = entry["samples"] if entry else 0
    try:
        path = local_path(shard, Reading())
        index = reader.index(path)
    except (BrokenSample, OSError) as error:
        tally.fault(shard, error.cause if isinstance(error, BrokenSample) else "missing shard", "", promised or 1)
        return tally
    tally.columns.update([index.described] if index.described else [])
    tally.bytes, tally.samples = Path(file_of(path)).stat().st_size, len(index)
    if promised > len(index):
        cause = "truncated shard" if index.truncated else "missing from the shard"
        tally.fault(shard, cause, f"{promised - len(index)} samples", promised - len(index))
    elif not entry:
        for cause, count in Counter(index.faults).items():
            tally.fault(shard, cause, "" if count == 1 else f"{count} times", count)
    for number in range(len(index)):
        key = index.key(number)
        suffixes = reader.suffixes(path, number)
        names = list(map(further_name, suffixes))
        tally.passed_over.update(s for s, name in zip(suffixes, names, strict=True) if not name and s not in SUFFIXES)
        try:
            sample = read_sample(*reader.read(path, number, SUFFIXES, frozenset(filter(None, names))))
            if TEXT_FILES.isdisjoint(suffixes) or (sample.image is None and reader.cut(path, number)):
                raise BrokenSample("no caption")  # half a sample
            if sample.image is not None and (sample.suffix == FEATURE_SUFFIX) != bool(shape):
                tally.fault(shard, "pictures and features mixed", key)  # whole, and training skips it
            tally.look_at(sample, shape)
        except (BrokenSample, BrokenImage, ImageTooLarge) as error:
            tally.fault(shard, "truncated shard" if reader.cut(path, number) else error.cause, key)
            continue
        draw = stable_id(f"{shard.rsplit('/', 1)[-1]}/{key}".encode(errors="backslashreplace"))
        tally.example(Place(draw, shard, path, number), list(sample.captions))
    reader.close()
    return tally
