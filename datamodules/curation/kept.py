"""What a training draws of curated shards."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import repeat
from pathlib import Path

import numpy as np

from datamodules.packing.texts import lines
from datamodules.shards.locations import Reading
from datamodules.shards.reader import ShardReader
from datamodules.shards.records import sample_captions
from datamodules.shards.remote import local_path
from datamodules.shards.samples import BrokenSample, Sample
from datamodules.shards.survey import KEPT, ShardSurvey


class Kept:
    """The captions that `mmtrain curate` kept, as its keep.jsonl says: 8 bytes each.

    Attributes:
        digest: Equal for the same captions.
    """

    def __init__(self, folder: str | Path) -> None:
        path = Path(folder) / "keep.jsonl"
        self._numbers = np.unique(np.fromiter(_numbers(path), np.uint64))
        if not len(self._numbers):
            raise ValueError(f"keep: {path} keeps no caption; curate with a higher --floor or --tail")
        self.digest = hashlib.sha256(self._numbers.tobytes()).hexdigest()[:16]

    def __repr__(self) -> str:
        return f"Kept({self.digest})"

    def of(self, id: str, captions: Mapping[str, list[str]]) -> dict[str, list[str]]:
        """Those of a sample's captions by language that are kept."""
        found = {
            language: [text for text in texts if self._found(id, language, text) is not None]
            for language, texts in captions.items()
        }
        return {language: texts for language, texts in found.items() if texts}

    def restrict(self, sample: Sample) -> None:
        """Takes from a sample the captions that are not kept, and WIT's names of their fields."""
        fields, every = sample.record.get("fields"), sample.captions
        sample.captions = self.of(sample.id, every)
        if isinstance(fields, dict):
            sample.record["fields"] = {
                language: [field for text, field in zip(every[language], own, strict=True) if text in there]
                for language, there in sample.captions.items()
                if isinstance(own := fields.get(language), list) and len(own) == len(every[language])
            }

    def in_tail(self, id: str, language: str, caption: str) -> bool:
        """Whether a caption that is kept matches an entry of which all captions are."""
        return self._found(id, language, caption) == 1

    def _found(self, id: str, language: str, caption: str) -> int | None:
        """0 for one of the head, 1 for one of the tail, None for one that is not kept."""
        number = _number(id, language, caption)
        place = int(np.searchsorted(self._numbers, np.uint64(number)))
        if place == len(self._numbers) or int(self._numbers[place]) >> 1 != number >> 1:
            return None
        return int(self._numbers[place]) & 1


def _number(id: str, language: str, caption: str) -> int:
    """63 bits of a caption; the lowest bit is left for where it is."""
    content = "\0".join((id, language, caption)).encode(errors="surrogatepass")
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest()) & ~1


def _numbers(path: Path) -> Iterator[int]:
    for number, line in enumerate(lines(path, field="keep"), start=1):
        try:
            record = json.loads(line)
            if record["kept"]:
                tail = record["matched"] > 0 and record["probability"] == 1
                yield _number(record["id"], record.get("tag", record["language"]), record["caption"]) | tail
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"keep: {path}, line {number} is none of curate's ({error!r}); curate anew") from None


def kept_captions(shard: ShardSurvey, kept: Kept, reading: Reading) -> Iterator[dict[str, list[str]] | None]:
    """Of each usable sample the captions that are kept; None where it cannot be read."""
    reader, numbers = ShardReader(), np.arange(shard.samples) if shard.usable is None else shard.usable
    try:
        path = local_path(shard.shard, reading, shard.checksum)
    except OSError:
        yield from repeat(None, len(numbers))
        return
    for found in sample_captions(reader, path, numbers.tolist(), reading.text_language):
        yield None if isinstance(found, BrokenSample) else kept.of(*found)
    reader.close()


def kept_of(shard: ShardSurvey, kept: Kept, languages: list[str] | None, reading: Reading) -> ShardSurvey:
    """A shard without the samples of which no caption in the languages is kept. A sample that cannot be read stays: it
    is counted when it is drawn.
    """
    keeping, counts = [], Counter[str]()
    for captions in kept_captions(shard, kept, reading):
        own = [name for name in captions or () if languages is None or name in languages]
        counts.update(own)
        keeping.append(captions is None or bool(own))
    numbers = np.arange(shard.samples, dtype=np.int32) if shard.usable is None else shard.usable
    usable = numbers[np.array(keeping, bool)]
    lacking = Counter({KEPT: len(numbers) - len(usable)})
    return replace(shard, usable=usable, languages=counts, lacking=shard.lacking + lacking)
