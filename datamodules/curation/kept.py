"""What a training draws of curated shards."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import compress
from pathlib import Path

import numpy as np

from datamodules.packing.texts import lines
from datamodules.shards.locations import Reading
from datamodules.shards.reader import ShardReader
from datamodules.shards.records import sample_captions
from datamodules.shards.remote import local_path
from datamodules.shards.samples import BrokenSample, Sample
from datamodules.shards.survey import KEPT, ShardSurvey

Captions = Mapping[str, list[str]]  # of a sample, by language
Flags = Mapping[str, list[bool]]  # which of them may be drawn
Found = tuple[int, str, dict[str, list[str]] | None]  # number, id and captions of a sample
PLACES = 32  # bits of a caption's place among those of its sample


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

    def of(self, id: str, captions: Captions) -> Flags:
        """Which of a sample's captions by language are kept."""
        return {
            language: [self._found(id, language, text) is not None for text in texts]
            for language, texts in captions.items()
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


def chosen(captions: Captions, flags: Flags) -> dict[str, list[str]]:
    """The captions that may be drawn."""
    found = {language: list(compress(texts, flags[language])) for language, texts in captions.items()}
    return {language: texts for language, texts in found.items() if texts}


def of_shard(shard: ShardSurvey, number: int, captions: Captions) -> Flags:
    """Which captions of a sample the filters of its source leave."""
    flags = {language: [True] * len(texts) for language, texts in captions.items()}
    if shard.let_go is not None:
        first, end = np.searchsorted(shard.let_go, [number << PLACES, (number + 1) << PLACES])
        places = [(language, place) for language, texts in captions.items() for place in range(len(texts))]
        for each in shard.let_go[first:end].tolist():
            language, place = places[each - (number << PLACES)]
            flags[language][place] = False
    return flags


def restrict(sample: Sample, number: int, shard: ShardSurvey, kept: Kept | None) -> None:
    """Takes from sample `number` of a shard the captions that are not kept or that filters leave out, and WIT's names
    of their fields.
    """
    if kept is not None:
        _restrict(sample, kept.of(sample.id, sample.captions))
    if shard.let_go is not None:
        _restrict(sample, of_shard(shard, number, sample.captions))


def _restrict(sample: Sample, flags: Flags) -> None:
    fields, every = sample.record.get("fields"), sample.captions
    sample.captions = chosen(every, flags)
    if isinstance(fields, dict):
        sample.record["fields"] = {
            language: list(compress(own, flags[language]))
            for language in sample.captions
            if isinstance(own := fields.get(language), list) and len(own) == len(every[language])
        }


def drawable(shard: ShardSurvey, kept: Kept | None, reading: Reading) -> Iterator[Found]:
    """Of each usable sample its number, its id and the captions that may be drawn; None where it cannot be read."""
    reader, numbers = ShardReader(), shard.numbers.tolist()
    try:
        path = local_path(shard.shard, reading, shard.checksum)
    except OSError:
        yield from ((number, "", None) for number in numbers)
        return
    for number, found in zip(numbers, sample_captions(reader, path, numbers, reading.text_language), strict=True):
        if isinstance(found, BrokenSample):
            yield number, "", None
            continue
        id, captions = found
        if kept is not None:
            captions = chosen(captions, kept.of(id, captions))
        yield number, id, chosen(captions, of_shard(shard, number, captions))
    reader.close()


def kept_of(shard: ShardSurvey, kept: Kept, languages: list[str] | None, reading: Reading) -> ShardSurvey:
    """A shard without the samples of which no caption in the languages is kept. A sample that cannot be read stays: it
    is counted when it is drawn.
    """
    keeping, counts = [], Counter[str]()
    for _, _, captions in drawable(shard, kept, reading):
        own = [name for name in captions or () if languages is None or name in languages]
        counts.update(own)
        keeping.append(captions is None or bool(own))
    usable = shard.numbers[np.array(keeping, bool)]
    lacking = Counter({KEPT: len(keeping) - len(usable)})
    return replace(shard, usable=usable, languages=counts, lacking=shard.lacking + lacking)
