"""The captions of SHARDS beside the entries that they match: in parts, each a file of its own."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from datamodules.curation.balancing import number_of
from datamodules.curation.filters import CaptionFilter, Filter, Ids, PictureFilter
from datamodules.curation.matching import Matcher
from datamodules.curation.metadata import Metadata
from datamodules.files import whole_file
from datamodules.reading.whole import WholeSamples, runs
from datamodules.shards.samples import BrokenSample

SAMPLES = 10_000  # of a part; a kill costs no more


@dataclass
class Part:
    """n captions of consecutive samples.

    Attributes:
        captions: (id, tag, language, caption); the language is that of the entries, the tag what the sample says.
        matched: int32 [n], entries that each caption matches, -1 where another caption of the sample was drawn, -2 - k
            where filter k leaves it out.
        entries: int32, their numbers, caption after caption.
        skipped: Samples that could not be read, by cause.
    """

    captions: list[tuple[str, str, str, str]]
    matched: np.ndarray
    entries: np.ndarray
    skipped: Counter[str]

    def write(self, path: Path) -> None:
        texts = json.dumps([self.captions, self.skipped]).encode()
        tensors = {"matched": self.matched, "entries": self.entries, "texts": np.frombuffer(texts, np.uint8)}
        with whole_file(path, make_folder=False) as unfinished:
            save_file(tensors, unfinished)

    @classmethod
    def read(cls, path: Path) -> Part:
        with safe_open(path, framework="numpy") as file:
            captions, skipped = json.loads(file.get_tensor("texts").tobytes())
            return cls(captions, file.get_tensor("matched"), file.get_tensor("entries"), Counter(skipped))

    def without(self, marks: np.ndarray) -> Part:
        """Without the captions whose mark, int32 [n], is not 0, which becomes their `matched`."""
        stay = marks == 0
        entries = self.entries[np.repeat(stay, np.maximum(self.matched, 0))]
        return replace(self, matched=np.where(stay, self.matched, marks), entries=entries)

    @staticmethod
    def entries_of(path: Path) -> np.ndarray:
        """The entries alone."""
        with safe_open(path, framework="numpy") as file:
            return file.get_tensor("entries")


class CurationParts:
    """Makes the parts. What is in one does not depend on who makes it.

    Args:
        data: SHARDS.
        metadata: What captions are matched with.
        text_language: Language of `.txt` captions.
        identify: Gives captions without a language (und) one.
        one_of: Seed by which one caption of each sample is drawn first; None takes all.
        filters: Leave captions and samples out before that, those that remember captions when the parts are joined.

    Raises:
        ValueError: for filters of pictures, which are not read.
    """

    def __init__(
        self,
        data: str,
        metadata: Metadata,
        *,
        text_language: str = "und",
        identify: Callable[[str], str] | None = None,
        one_of: int | None = None,
        filters: Sequence[Filter] = (),
    ) -> None:
        for each in filters:
            if isinstance(each, PictureFilter):
                kind = type(each).__name__
                raise ValueError(f"--filters: {kind} looks at pictures, which are not read; at packing or in a source")
        self._samples = WholeSamples.named(data, "SHARDS", text_language=text_language)
        self.runs = runs(self._samples, SAMPLES)
        self._metadata, self._identify, self._one_of, self._filters = metadata, identify, one_of, filters
        self._match = Matcher(metadata)
        options = [metadata.digest, text_language, identify is not None, one_of, self._samples.stamps]
        set_as = [[type(each).__qualname__, _public(each)] for each in filters]
        content = json.dumps([*options, set_as] if filters else options, default=repr)
        self.identity = hashlib.sha256(content.encode()).hexdigest()[:16]

    def make(self, number: int) -> Part:
        """Reads and matches the captions of a part."""
        captions, matched, entries, skipped = [], [], [], Counter[str]()
        for found in self._samples.captions(self.runs[number]):
            if isinstance(found, BrokenSample):
                skipped[found.cause] += 1
                continue
            own = list(self._own(*found))
            marks = [self._mark(*caption) for caption in own]
            drawn = [place for place, mark in enumerate(marks) if not mark]
            if self._one_of is not None and drawn:
                drawn = [drawn[int(number_of("one", self._one_of, found[0]) * len(drawn))]]
            for place, caption in enumerate(own):
                numbers = self._match(caption[3], caption[2]) if place in drawn else []
                captions.append(caption)
                matched.append(len(numbers) if place in drawn else marks[place] or -1)
                entries += numbers
        return Part(captions, np.array(matched, np.int32), np.array(entries, np.int32), skipped)

    def _mark(self, id: str, tag: str, language: str, text: str) -> int:
        """-2 - k of the first filter that leaves a caption out, 0 for none."""
        for number, each in enumerate(self._filters):
            if isinstance(each, CaptionFilter) and not each.remembers:
                left_out = not each.keeps(text, tag)
            else:
                left_out = isinstance(each, Ids) and not each.keeps(id)
            if left_out:
                return -2 - number
        return 0

    def _own(self, id: str, captions: dict[str, list[str]]) -> Iterator[tuple[str, str, str, str]]:
        for tag, texts in captions.items():
            for text in texts:
                spoken = self._identify(text) if self._identify and tag == "und" else tag
                yield id, tag, self._metadata.language_of(spoken), text


def _public(thing: object) -> dict[str, object]:
    return {name: value for name, value in vars(thing).items() if not name.startswith("_")}
