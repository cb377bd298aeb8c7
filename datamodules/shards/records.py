"""The records of a shard's samples, read without their pictures."""

from __future__ import annotations

from collections.abc import Iterator

from datamodules.shards.locations import Reading
from datamodules.shards.reader import ShardReader
from datamodules.shards.remote import local_path
from datamodules.shards.samples import BrokenSample, read_record
from datamodules.shards.survey import TEXT_FILES, ShardSurvey


def read_records(shard: ShardSurvey, reading: Reading) -> Iterator[tuple[dict, dict[str, list[str]]]]:
    """JSON object and captions of each usable sample, as `read_record` gives them.

    Both are empty where they cannot be read: such a sample is counted when it is drawn.
    """
    reader, numbers = ShardReader(), range(shard.samples) if shard.usable is None else shard.usable.tolist()
    try:
        path = local_path(shard.shard, reading, shard.checksum)
    except OSError:
        path = None
    for number in numbers:
        try:
            members = {} if path is None else reader.read(path, number, TEXT_FILES)[1]
            yield read_record(members, reading.text_language)
        except BrokenSample:
            yield {}, {}
    reader.close()
