"""Which samples and captions of a source are used: each filter counts what it leaves out under one cause."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from pathlib import Path

from datamodules.curation.identification import identified, language_of
from datamodules.packing.texts import lines


class Filter(ABC):
    """What it keeps may depend on what it saw before, in the order of the source. Public attributes say how it is set.

    Attributes:
        cause: Under which it is counted what is left out.
        remembers: Whether it depends on what came before.
    """

    cause: str
    remembers = False

    def begin(self) -> None:  # noqa: B027, most have nothing to forget
        """Forgets what came before."""


class CaptionFilter(Filter):
    """Leaves captions out; a sample that has none left over is left out too."""

    @abstractmethod
    def keeps(self, text: str, language: str) -> bool:
        """Whether a caption, which is not empty, is used."""


class PictureFilter(Filter):
    """Leaves samples out by their pictures."""

    @abstractmethod
    def repeats(self, content: bytes, where: str) -> bool:
        """Whether a picture is one that came before. Raises BadRow for one that cannot be read."""


class Ids(Filter):
    """Leaves samples out by lists of ids, text files with one a line.

    Args:
        exclude: Those that are left out.
        only: Those that are used, but for the former; None for all.

    Raises:
        ValueError: for a file that cannot be read, or neither.
    """

    cause = "excluded id"

    def __init__(self, exclude: str | None = None, only: str | None = None) -> None:
        if exclude is None and only is None:
            raise ValueError("Ids: exclude, only: got neither, expected a file of ids")
        self._excluded = frozenset() if exclude is None else read_ids(exclude, "exclude")
        self._only = None if only is None else read_ids(only, "only")
        content = [sorted(self._excluded), self._only and sorted(self._only)]
        self.digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    def keeps(self, id: str) -> bool:
        """Whether a sample is used."""
        return id not in self._excluded and (self._only is None or id in self._only)


def read_ids(path: str | Path, field: str) -> frozenset[str]:
    """The lines of a file that are not blank. Raises ValueError, one line, for one that cannot be read."""
    return frozenset(name for line in lines(path, field=field) if (name := line.strip()))


class Length(CaptionFilter):
    """Captions of so many letters, spaces included.

    Args:
        shortest: At least so many.
        longest: At most so many; None for any number.

    Raises:
        ValueError: for numbers that leave nothing.
    """

    cause = "caption of another length"

    def __init__(self, shortest: int = 1, longest: int | None = None) -> None:
        self.shortest, self.longest = shortest, longest
        if shortest < 1 or (longest is not None and longest < shortest):
            raise ValueError(
                f"shortest_caption, longest_caption: got {shortest} and {longest}, expected numbers from 1 that rise"
            )

    def keeps(self, text: str, language: str) -> bool:
        letters = len(text.strip())
        return letters >= self.shortest and (self.longest is None or letters <= self.longest)


class SpokenLanguage(CaptionFilter):
    """Captions whose language is identified as that of their tag. One without a tag (und), in a language that is not
    among those identified, or shorter than what can be told stays.

    Args:
        shortest: Letters from which on a language is told.
    """

    cause = "caption in another language"

    def __init__(self, shortest: int = 20) -> None:
        self._known, self.shortest = identified(), shortest

    def keeps(self, text: str, language: str) -> bool:
        tag = language.replace("_", "-").split("-")[0].lower()
        return tag not in self._known or len(text.strip()) < self.shortest or language_of(text) == tag
