"""What is in shards, and what is broken: every sample read once, every picture decoded."""

from __future__ import annotations

import json
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.images import BrokenImage, ImagePipeline, ImageTooLarge
from datamodules.progress import Progress
from datamodules.samples import FEATURE_SUFFIX, BrokenSample, read_sample
from datamodules.shards import ShardReader
from datamodules.sources import expand, listing_of, local_path, read_listing

LISTED_BROKEN = 20


def inspect_shards(
    spec: str,
    *,
    text_language: str = "und",
    cache_dir: str | None = None,
    allow_pipe: bool = False,
    workers: int | None = None,
) -> dict[str, Any]:
    """Reads SHARDS through and counts.

    Returns a dict: "shards", "samples" (all in the tars), "images", "bytes", "captions" and "samples by language"
    (language -> count, most first), "labels" (task -> value -> count), "image sizes" ({"smallest", "median", "largest"}
    as "W x H" by area), "image formats", "duplicate images" (samples whose picture an earlier one shows), "broken"
    (cause -> count) and "broken samples" (the first few: shard, cause, key). A sample is broken when training would
    skip it. Raises ValueError, one line, when SHARDS names nothing.
    """
    shards = [
        shard
        for source in expand(spec, field="SHARDS", cache_dir=cache_dir, allow_pipe=allow_pipe)
        for shard in source.shards
    ]
    whole = _Tally()
    # decoding leaves the interpreter, so threads do
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as threads:
        with Progress("reading shards", len(shards), "shards") as progress:
            for tally in threads.map(lambda shard: _tally(shard, text_language, cache_dir), shards):
                whole.add(tally)
                progress.advance()
    return whole.summary(len(shards))


class _Tally:
    """Counts of one shard, or of several added up."""

    def __init__(self) -> None:
        self.samples = self.images = self.features = self.bytes = 0
        self.captions: Counter[str] = Counter()
        self.languages: Counter[str] = Counter()
        self.formats: Counter[str] = Counter()
        self.sizes: Counter[tuple[int, int]] = Counter()
        self.labels: dict[str, Counter[str]] = {}
        self.image_ids: Counter[int] = Counter()
        self.broken: Counter[str] = Counter()
        self.listed: list[str] = []

    def add(self, other: _Tally) -> None:
        for name, value in vars(other).items():
            mine = getattr(self, name)
            if isinstance(value, int):
                setattr(self, name, mine + value)
            elif isinstance(value, Counter):
                mine.update(value)
            elif isinstance(value, list):
                mine += value[: LISTED_BROKEN - len(mine)]
            else:
                for task, counts in value.items():
                    mine.setdefault(task, Counter()).update(counts)

    def fault(self, shard: str, cause: str, key: str, count: int = 1) -> None:
        self.broken[cause] += count
        if len(self.listed) < LISTED_BROKEN:
            self.listed.append(f"{shard}: {cause}{f' ({key})' if key else ''}")

    def summary(self, shards: int) -> dict[str, Any]:
        facts = {
            "shards": shards,
            "samples": self.samples,
            "images": self.images,
            "features": self.features,
            "bytes": self.bytes,
            "languages": len(self.languages),
            "captions": dict(self.captions.most_common()),
            "samples by language": dict(self.languages.most_common()),
            "labels": {task: dict(sorted(counts.items())) for task, counts in sorted(self.labels.items())},
            "image sizes": self._sizes(),
            "image formats": dict(self.formats.most_common()),
            "duplicate images": sum(count - 1 for count in self.image_ids.values()),
            "broken": dict(self.broken.most_common()),
            "broken samples": self.listed,
        }
        return {name: value for name, value in facts.items() if value or name in ("samples", "images", "broken")}

    def _sizes(self) -> dict[str, str]:
        if not self.sizes:
            return {}
        ordered = sorted(self.sizes, key=lambda size: (size[0] * size[1], size))
        counted = np.cumsum([self.sizes[size] for size in ordered])
        median = ordered[int(np.searchsorted(counted, (counted[-1] + 1) // 2))]
        places = {"smallest": ordered[0], "median": median, "largest": ordered[-1]}
        return {name: f"{width} x {height}" for name, (width, height) in places.items()}


def _tally(shard: str, text_language: str, cache_dir: str | None) -> _Tally:
    tally, reader, images = _Tally(), ShardReader(), ImagePipeline()
    listing = listing_of(shard, cache_dir)
    entry = ((read_listing(listing) if listing else None) or {}).get(shard.rsplit("/", 1)[-1])
    promised = entry["samples"] if entry else 0
    try:
        path = local_path(shard, cache_dir)
        index = reader.index(path)
    except (BrokenSample, OSError) as error:
        tally.fault(shard, error.cause if isinstance(error, BrokenSample) else "missing shard", "", promised or 1)
        return tally
    tally.bytes, tally.samples = Path(path).stat().st_size, len(index)
    if promised > len(index):
        cause = "truncated shard" if index.truncated else "missing from the shard"
        tally.fault(shard, cause, f"{promised - len(index)} samples", promised - len(index))
    elif not entry:
        for cause in index.faults:
            tally.fault(shard, cause, "")
    for number in range(len(index)):
        try:
            sample = read_sample(*reader.read(path, number), text_language)
            if sample.suffix == FEATURE_SUFFIX:
                tally.features += 1
            else:
                image = images.open(sample.image)
                tally.formats[image.format] += 1
                tally.sizes[image.size] += 1
                images.evaluate(image)
                tally.images += 1
        except (BrokenSample, BrokenImage, ImageTooLarge) as error:
            causes = {BrokenImage: "broken image", ImageTooLarge: "image too large"}
            cause = causes.get(type(error)) or error.cause
            tally.fault(shard, "truncated shard" if reader.cut(path, number) else cause, index.keys[number])
            continue
        tally.image_ids[sample.image_id] += 1
        tally.languages.update(sample.captions.keys())
        tally.captions.update({language: len(texts) for language, texts in sample.captions.items()})
        for task, value in sample.labels.items():
            tally.labels.setdefault(task, Counter())[json.dumps(value, ensure_ascii=False)] += 1
    reader.close()
    return tally
