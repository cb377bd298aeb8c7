"""What the filters of a source leave of its shards, found when they are surveyed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from datamodules.curation.filters import CaptionFilter, Filter, Ids, PictureFilter
from datamodules.curation.kept import PLACES, Kept, drawable
from datamodules.shards.encoding import BadRow
from datamodules.shards.locations import Reading
from datamodules.shards.progress import with_progress
from datamodules.shards.reader import ShardReader
from datamodules.shards.remote import local_path
from datamodules.shards.samples import FEATURE_SUFFIX, IMAGE_SUFFIXES, IMAGES, BrokenSample
from datamodules.shards.survey import ShardSurvey


def filtered(
    shards: Sequence[ShardSurvey],
    filters: Sequence[Filter],
    kept: Kept | None,
    languages: Sequence[str] | None,
    reading: Reading,
) -> list[ShardSurvey]:
    """The shards without the samples and captions that filters leave out; each is counted under the first that does.

    The filters are asked in their order, sample by sample in the order of the shards, so every process finds the same.
    A sample of which no caption is left over is left out; one that cannot be read stays, and is counted when drawn.

    Args:
        shards: Of a source.
        filters: Its filters.
        kept: Captions that `curate` kept; others are not looked at.
        languages: Languages that are drawn, likewise; None for all.
        reading: How shards are read.
    """
    for each in filters:
        each.begin()
    shown = with_progress(shards, "filtering", len(shards))
    found = [_filtered(shard, filters, kept, languages, reading) for shard in shown]
    for each in filters:
        each.begin()  # what they remember is large
    return found


def _filtered(
    shard: ShardSurvey,
    filters: Sequence[Filter],
    kept: Kept | None,
    languages: Sequence[str] | None,
    reading: Reading,
) -> ShardSurvey:
    usable, let_go, counts, causes = [], [], Counter[str](), Counter[str]()
    reader = ShardReader()
    for number, id, captions in drawable(shard, kept, reading):
        every = [(language, text) for language, texts in (captions or {}).items() for text in texts]
        drawn = [place for place, (language, _) in enumerate(every) if languages is None or language in languages]
        left, whole = drawn, True
        for each in filters if captions is not None else ():
            if isinstance(each, CaptionFilter):
                before, left = left, [place for place in left if each.keeps(every[place][1], every[place][0])]
                causes[each.cause] += len(before) - len(left)
                whole = bool(left) or not drawn
            else:
                repeated = isinstance(each, PictureFilter) and _repeats(each, reader, shard, number, reading)
                whole = not repeated and not (isinstance(each, Ids) and not each.keeps(id))
                causes[each.cause] += not whole
            if not whole:
                break
        if whole:
            usable.append(number)
            let_go += [number << PLACES | place for place in drawn if place not in left]
            counts.update({every[place][0] for place in left})
    reader.close()
    return replace(
        shard,
        usable=np.array(usable, np.int32),
        let_go=np.array(let_go, np.int64),
        languages=counts,
        filtered=+causes,
    )


def _repeats(pictures: PictureFilter, reader: ShardReader, shard: ShardSurvey, number: int, reading: Reading) -> bool:
    """Whether a sample's picture repeats another; not so where there is none, or none that can be read."""
    try:
        key, files = reader.read(local_path(shard.shard, reading, shard.checksum), number, IMAGES)
        picture = next((files[suffix] for suffix in (*IMAGE_SUFFIXES, FEATURE_SUFFIX) if suffix in files), None)
        return picture is not None and pictures.repeats(picture, key)
    except (BrokenSample, BadRow, OSError):
        return False
