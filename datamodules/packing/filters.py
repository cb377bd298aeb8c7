"""Rows of a source without the captions that filters leave out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from datamodules.curation.filters import CaptionFilter
from datamodules.packing.row import Row
from datamodules.shards.encoding import BadRow


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
