"""What is compared when negatives are mined: pictures with captions, queries with what answers them.

Letters: A anchors, T texts, D dimensions, W words, L lines.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from datamodules.batch import text_id
from mmtrain.embedding.rows import Text
from mmtrain.search.rows import RowSample

EMPTY = np.zeros((0, 0), np.float32)


@dataclass
class Contrast:
    """Anchors, pictures or queries, and texts, of which some are right for an anchor. Each of them is there once.

    Attributes:
        languages: Of the texts that are taken; None takes all.
        anchors: A rows float32 [D].
        anchor_owner: The first sample of each anchor.
        asked: The query that an anchor is, None for a picture.
        texts: T rows float32 [D], one for each text of a language.
        text_owner: The first sample of each text.
        written: (language, text) of each text.
        words: What a text says whatever its language: a number below W, equal for equal texts.
        right: (anchor, word) of what is said of an anchor anywhere.
        lines: (sample, anchor, text) of every caption.
    """

    languages: frozenset[str] | None = None
    anchors: list[np.ndarray] = field(default_factory=list)
    anchor_owner: list[int] = field(default_factory=list)
    asked: list[str | None] = field(default_factory=list)
    texts: list[np.ndarray] = field(default_factory=list)
    text_owner: list[int] = field(default_factory=list)
    written: list[Text] = field(default_factory=list)
    words: list[int] = field(default_factory=list)
    right: set[tuple[int, int]] = field(default_factory=set)
    lines: list[tuple[int, int, int]] = field(default_factory=list)
    _anchors: dict[object, int] = field(default_factory=dict)
    _texts: dict[tuple[str, int], int] = field(default_factory=dict)
    _words: dict[int, int] = field(default_factory=dict)

    @property
    def word_count(self) -> int:
        """W."""
        return len(self._words)

    def anchor(self, key: object, row: np.ndarray, owner: int, asked: str | None = None) -> int:
        """The number of an anchor; equal ones have equal keys."""
        number = self._anchors.setdefault(key, len(self.anchors))
        if number == len(self.anchors):
            self.anchors.append(row)
            self.anchor_owner.append(owner)
            self.asked.append(asked)
        return number

    def add(self, owner: int, anchor: int | None, texts: Sequence[Text], rows: np.ndarray) -> None:
        """Adds the texts of a sample, which are right for its anchor where it has one."""
        for (language, text), row in zip(texts, rows, strict=True):
            word = self.say(anchor, text)
            if self.languages is not None and language not in self.languages:
                continue
            number = self._texts.setdefault((language, word), len(self.texts))
            if number == len(self.texts):
                self.texts.append(row)
                self.text_owner.append(owner)
                self.written.append((language, text))
                self.words.append(word)
            if anchor is not None:
                self.lines.append((owner, anchor, number))

    def say(self, anchor: int | None, text: str) -> int:
        """The word of a text; it is right for the anchor, where there is one."""
        word = self._words.setdefault(text_id(text), len(self._words))
        if anchor is not None:
            self.right.add((anchor, word))
        return word


@dataclass
class Contrasts:
    """All that SHARDS hold to be compared.

    Attributes:
        captions: Pictures with captions.
        answers: Queries with positive texts.
        ids: Of the samples that have rows.
        place: int64, of each sample of SHARDS its number among these, -1 without rows.
    """

    captions: Contrast
    answers: Contrast
    ids: list[str]
    place: np.ndarray


def read_contrasts(rows: Iterator[RowSample], samples: int, languages: Sequence[str] | None) -> Contrasts:
    """Reads all rows.

    Args:
        rows: As `Rows.read` gives them.
        samples: How many SHARDS hold.
        languages: Of the texts that get negatives and are some; None for all.
    """
    chosen = None if languages is None else frozenset(languages)
    found = Contrasts(Contrast(chosen), Contrast(chosen), [], np.full(samples, -1))
    for each in rows:
        number, sample = len(found.ids), each.sample.sample
        found.place[each.row] = number
        found.ids.append(sample.id)
        texts, captions = each.sample.texts, found.captions
        picture = None if each.image is None else captions.anchor(sample.image_id, each.image, number)
        captions.add(number, picture, texts["captions"], each.rows.get("captions", EMPTY))
        positives = texts["positive"], each.rows.get("positive", EMPTY)
        if not texts["query"]:
            found.answers.add(number, None, *positives)
        for (language, query), row in zip(texts["query"], each.rows.get("query", EMPTY), strict=True):
            asked = found.answers.anchor((language, text_id(query)), row, number, query)
            found.answers.say(asked, query)
            found.answers.add(number, asked, *positives)
    return found
