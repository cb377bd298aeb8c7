"""Thresholds from the parts of all captions, and which captions are kept by them."""

from __future__ import annotations

import hashlib
import heapq
import json
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from datamodules.curation.balancing import (
    caption_probabilities,
    entry_probabilities,
    number_of,
    tail_share,
    threshold,
)
from datamodules.curation.filters import CaptionFilter, Filter
from datamodules.curation.metadata import Metadata
from datamodules.curation.parts import Part
from datamodules.files import write_whole
from datamodules.shards.progress import with_progress

KEEP, CURATION, PAGE = "keep.jsonl", "curation.json", "curation.html"
TAIL = Fraction(6, 100)  # of the matches of English at OpenAI CLIP's and MetaCLIP's t
SHOWN = 5  # examples and entries of a language
Example = tuple[str, int, float, str]  # caption, entries, probability, the filter's cause or ""


@dataclass(frozen=True)
class Balance:
    """How captions are balanced.

    Args:
        head_language: Whose tail share all languages get, where `t` is given.
        t: Its threshold; published for 400 million pairs 20,000, for the whole web 170,000.
        tail: The tail share itself; 0.06 where neither is given.
        floor: The lowest threshold of a language.
        seed: Of what is kept.

    Raises:
        ValueError: for values out of range, and for both t and tail.
    """

    head_language: str = "en"
    t: int | None = None
    tail: float | None = None
    floor: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        if self.t is not None and self.tail is not None:
            raise ValueError(f"--t, --tail: got {self.t} and {self.tail}, expected one of them")
        for name, value in {"t": self.t, "floor": self.floor}.items():
            if value is not None and value < 1:
                raise ValueError(f"--{name}: got {value}, expected at least 1")
        if self.tail is not None and not 0 <= self.tail <= 1:
            raise ValueError(f"--tail: got {self.tail}, expected a share, 0 to 1")

    def share(self, counts: dict[str, np.ndarray]) -> Fraction:
        """The tail share of every language; `counts` are int64 by language. Raises ValueError, one line."""
        if self.t is None:
            return TAIL if self.tail is None else Fraction(repr(float(self.tail)))
        head = counts.get(self.head_language)
        if head is None or not head.any():
            raise ValueError(
                f"--head_language: no caption in {self.head_language!r} matches an entry; another language, or --tail"
            )
        return tail_share(head, self.t)


@dataclass
class Language:
    """What became of the captions of a language."""

    threshold: int = 0
    captions: int = 0
    matched: int = 0
    kept: int = 0
    let_go: list[tuple[float, Example]] = field(default_factory=list)  # examples, drawn by their numbers
    filtered: Counter[str] = field(default_factory=Counter)  # cause -> captions

    def add(self, example: Example, kept: bool, number: float) -> None:
        self.captions += 1
        self.matched += example[1] > 0
        self.kept += kept
        self.filtered.update([example[3]] if example[3] else ())
        if not kept:
            heapq.heappush(self.let_go, (-number, example))
            if len(self.let_go) > SHOWN:
                heapq.heappop(self.let_go)


class Joined:
    """Thresholds, and then what is kept, of parts that are all there.

    Args:
        parts: The parts' files in the order of SHARDS.
        metadata: What they were matched with.
        balance: How they are balanced.
        identity: Of the parts.
        filters: Those that the parts were made with; such as remember captions are asked now.
    """

    def __init__(
        self,
        parts: Sequence[Path],
        metadata: Metadata,
        balance: Balance,
        identity: str,
        filters: Sequence[Filter] = (),
    ) -> None:
        self._parts, self._metadata, self._balance, self._filters = parts, metadata, balance, filters
        self.identity = joined_identity(identity, balance)
        self.before = np.zeros(len(metadata), np.int64)
        self._marks: list[np.ndarray] = []  # of each part, where a filter remembers captions
        if any(each.remembers for each in filters):
            shown = with_progress(parts, "comparing", len(parts), "parts")
            self._marks = [self._remembered(Part.read(path)) for path in shown]
            for each in filters:
                each.begin()  # what they remember is large
        for number, path in enumerate(parts):
            entries = self._read(number).entries if self._marks else Part.entries_of(path)
            self.before += np.bincount(entries, minlength=len(metadata))
        counts = {name: self.before[own] for name, own in self._places().items()}
        self.share = balance.share(counts)
        self.thresholds = {name: threshold(own, self.share, balance.floor) for name, own in counts.items()}
        self.languages: dict[str, Language] = {}
        self.after = np.zeros(len(metadata), np.int64)
        self.skipped = Counter[str]()

    def _remembered(self, part: Part) -> np.ndarray:
        """int32 [n], -2 - k where filter k leaves out a caption because of what came before, else 0."""
        marks = np.zeros(len(part.captions), np.int32)
        every = enumerate(self._filters)
        asked = [(-2 - k, each) for k, each in every if isinstance(each, CaptionFilter) and each.remembers]
        for place in np.flatnonzero(part.matched >= 0).tolist():
            _, tag, _, caption = part.captions[place]
            marks[place] = next((mark for mark, each in asked if not each.keeps(caption, tag)), 0)
        return marks

    def _read(self, number: int) -> Part:
        part = Part.read(self._parts[number])
        return part.without(self._marks[number]) if self._marks else part

    def _places(self) -> dict[str, slice]:
        """Where the entries of each language are."""
        first = self._metadata.first
        return {name: slice(first[name], first[name] + len(own)) for name, own in self._metadata.entries.items()}

    def write(self, folder: Path) -> dict[str, Any]:
        """Writes keep.jsonl and curation.json; returns what the latter says."""
        probabilities = np.concatenate(
            [entry_probabilities(self.before[own], self.thresholds[name]) for name, own in self._places().items()]
        )
        with (folder / KEEP).open("w", encoding="utf-8") as file:
            for number in with_progress(range(len(self._parts)), "keeping", len(self._parts), "parts"):
                part = self._read(number)
                self.skipped += part.skipped
                self._keep(part, probabilities, file)
        facts = self._facts()
        write_whole(folder / CURATION, json.dumps(facts, ensure_ascii=False, indent=1) + "\n")
        return facts

    def _keep(self, part: Part, of_entries: np.ndarray, file: TextIO) -> None:
        matched = np.maximum(part.matched, 0)
        chances = caption_probabilities(of_entries[part.entries], matched).tolist()
        kept = []
        rows = zip(part.captions, part.matched.tolist(), chances, strict=True)
        for (id, tag, language, caption), count, chance in rows:
            number = number_of(self._balance.seed, id, language, caption)
            keep = number < chance
            record: dict[str, Any] = {"id": id, "language": language, "caption": caption, "matched": max(count, 0)}
            record |= {"probability": chance, "kept": keep}
            if tag != language:
                record["tag"] = tag
            cause = self._filters[-2 - count].cause if count < -1 else ""
            if cause:
                record["filter"] = cause
            elif count < 0:
                record["drawn"] = False
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
            if language not in self.languages:
                self.languages[language] = Language(self.thresholds.get(language, self._balance.floor))
            self.languages[language].add((caption, max(count, 0), chance, cause), keep, number)
            kept.append(keep)
        of_kept = part.entries[np.repeat(np.array(kept, bool), matched)] if kept else part.entries[:0]
        self.after += np.bincount(of_kept, minlength=len(self.after))

    def _facts(self) -> dict[str, Any]:
        rows = {}
        for name, own in sorted(self.languages.items()):
            row: dict[str, Any] = {"captions": own.captions, "matched": own.matched, "kept": own.kept}
            row |= {"threshold": own.threshold, "tail_before": 0.0, "tail_after": 0.0}
            if name in self._metadata.first:
                place = self._places()[name]
                before, after = self.before[place], self.after[place]
                in_tail = before <= own.threshold
                for when, counts in {"tail_before": before, "tail_after": after}.items():
                    row[when] = float(counts[in_tail].sum() / max(counts.sum(), 1))
            rows[name] = row | ({"filtered": dict(sorted(own.filtered.items()))} if self._filters else {})
        balance = vars(self._balance)
        return {"languages": rows, "tail_share": float(self.share), **balance, "skipped": dict(self.skipped)} | {
            "identity": self.identity
        }

    def most_frequent(self, language: str) -> list[tuple[str, int, int]]:
        """(entry, captions before, captions kept) of the entries in the most captions."""
        if language not in self._metadata.first:
            return []
        place, entries = self._places()[language], self._metadata.entries[language]
        before, after = self.before[place], self.after[place]
        best = np.argsort(-before, kind="stable")[:SHOWN].tolist()
        return [(entries[i], int(before[i]), int(after[i])) for i in best if before[i]]


def joined_identity(parts: str, balance: Balance) -> str:
    """Of what is made of such parts by a balance: equal for equal files."""
    return hashlib.sha256(json.dumps([parts, vars(balance)]).encode()).hexdigest()[:16]


def is_curation(folder: Path, identity: str) -> bool:
    """Whether a folder holds what is to be made already."""
    with suppress(OSError, ValueError, AttributeError):
        return json.loads((folder / CURATION).read_text(encoding="utf-8")).get("identity") == identity
    return False


def check_curation_folder(folder: Path) -> None:
    """Raises ValueError unless there is nothing at `folder`, or what `curate` writes."""
    if not folder.exists():
        return
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else {folder.name}
    if others := sorted(names - {KEEP, CURATION, PAGE}):
        raise ValueError(f"--out: {folder} holds other files, {others[0]} among them; give an empty folder")
