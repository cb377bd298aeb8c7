"""Which captions of a source are packed: each filter says why it leaves one out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence

from datamodules.curation.identification import identified, language_of
from datamodules.packing.row import Row
from datamodules.shards.encoding import BadRow


class CaptionFilter(ABC):
    """What it keeps may depend on what it saw before, in the order of the source.

    Attributes:
        cause: Under which shards.json counts the captions left out.
    """

    cause: str

    @abstractmethod
    def keeps(self, text: str, language: str) -> bool:
        """Whether a caption, which is not empty, is packed."""


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
        self._shortest, self._longest = shortest, longest
        if shortest < 1 or (longest is not None and longest < shortest):
            raise ValueError(
                f"shortest_caption, longest_caption: got {shortest} and {longest}, expected numbers from 1 that rise"
            )

    def keeps(self, text: str, language: str) -> bool:
        letters = len(text.strip())
        return letters >= self._shortest and (self._longest is None or letters <= self._longest)


class SpokenLanguage(CaptionFilter):
    """Captions whose language is identified as that of their tag. One without a tag (und), in a language that is not
    among those identified, or shorter than what can be told stays.

    Args:
        shortest: Letters from which on a language is told.
    """

    cause = "caption in another language"

    def __init__(self, shortest: int = 20) -> None:
        self._known, self._shortest = identified(), shortest

    def keeps(self, text: str, language: str) -> bool:
        tag = language.replace("_", "-").split("-")[0].lower()
        return tag not in self._known or len(text.strip()) < self._shortest or language_of(text) == tag


def filtered(rows: Iterable[Row | BadRow], filters: Sequence[CaptionFilter]) -> Iterator[Row | BadRow]:
    """The rows without the captions that a filter leaves out, the first that does.

    Each caption that is left out is a BadRow; a row that has none left over is gone.
    """
    for row in rows:
        if isinstance(row, BadRow) or not isinstance(captions := row.record.get("captions"), dict):
            yield row
            continue
        record = row.record | {"captions": dict(captions)}
        if isinstance(fields := record.get("fields"), dict):
            record["fields"] = dict(fields)
        causes: list[str] = []
        for language, texts in captions.items():
            why = [_cause(text, language, filters) for text in (texts if isinstance(texts, list) else [texts])]
            if not any(why):
                continue
            causes += [cause for cause in why if cause]
            for texts_of in (record["captions"], record.get("fields")):
                if isinstance(texts_of, dict) and language in texts_of:
                    of_language = texts_of[language] if isinstance(texts_of[language], list) else [texts_of[language]]
                    texts_of[language] = [each for each, cause in zip(of_language, why, strict=False) if not cause]
            if all(why):
                del record["captions"][language]
        yield from (BadRow(cause, f"row {row.number + 1} ({record.get('id')})") for cause in causes)
        if record["captions"] or not causes:
            yield row._replace(record=record)


def _cause(text: object, language: str, filters: Sequence[CaptionFilter]) -> str | None:
    if not isinstance(text, str) or not text.strip():
        return None  # whoever reads the record says what is wrong with it
    return next((each.cause for each in filters if not each.keeps(text, language)), None)
