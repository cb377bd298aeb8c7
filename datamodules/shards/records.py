"""The records of a shard's samples, read without their pictures."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice, repeat

from datamodules.shards.locations import Reading
from datamodules.shards.reader import ShardReader
from datamodules.shards.remote import local_path
from datamodules.shards.samples import (
    FEATURE_SUFFIX,
    SUFFIXES,
    BrokenSample,
    missing,
    read_features,
    read_record,
    read_sample,
)
from datamodules.shards.survey import ShardSurvey

PROBED = 3  # samples that say whether there are pictures or features


def features_shape(
    reader: ShardReader, places: Iterable[tuple[str, int]], text_language: str = "und"
) -> tuple[int, ...]:
    """(F,) or (P, F), the shape of the features that most of the first samples with an image have; () for pictures.

    Args:
        reader: Of the shards.
        places: Path and number of samples; no more are taken than it needs.
        text_language: Language of `.txt` captions.
    """
    shapes: Counter[tuple[int, ...]] = Counter()
    for path, number in places:
        with contextlib.suppress(BrokenSample):
            sample = read_sample(*reader.read(path, number, SUFFIXES), text_language)
            if sample.image is not None:
                shapes[read_features(sample.image).shape if sample.suffix == FEATURE_SUFFIX else ()] += 1
        if shapes.total() == PROBED:
            break
    return shapes.most_common(1)[0][0] if shapes else ()


def read_records(shard: ShardSurvey, reading: Reading) -> Iterator[tuple[dict, dict[str, list[str]]]]:
    """JSON object and captions of each usable sample, as `read_record` gives them.

    Both are empty where they cannot be read: such a sample is counted when it is drawn.
    """
    reader, numbers = ShardReader(), range(shard.samples) if shard.usable is None else shard.usable.tolist()
    found: Iterator[dict[str, bytes] | BrokenSample] = iter(())
    with contextlib.suppress(OSError, BrokenSample):
        found = reader.texts(local_path(shard.shard, reading, shard.checksum), numbers)
    for members in islice(chain(found, repeat(BrokenSample("missing shard"))), len(numbers)):
        try:
            yield ({}, {}) if isinstance(members, BrokenSample) else read_record(members, reading.text_language)
        except BrokenSample:
            yield {}, {}
    reader.close()


def sample_captions(
    reader: ShardReader, path: str, numbers: Sequence[int], text_language: str
) -> Iterator[tuple[str, dict[str, list[str]]] | BrokenSample]:
    """Id and captions by language of these samples of a shard, in rising order, or what is wrong with one."""
    try:
        shard = reader.index(path)
        found = reader.texts(path, numbers)
    except BrokenSample as error:
        yield from repeat(error, len(numbers))
        return
    for number, members in zip(numbers, found, strict=True):
        try:
            if isinstance(members, BrokenSample):
                raise members
            record, captions = read_record(members, text_language)
            name = record.get("id")
            yield (shard.key(number) if missing(name) else str(name)), captions
        except BrokenSample as error:
            yield error
