"""Texts, with pictures or without, as rows of documents: what `PageLayout` makes pages of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datamodules.packing.manifests import read_jsonl
from datamodules.packing.row import Row
from datamodules.packing.texts import lines
from datamodules.shards.encoding import BadRow, convert
from datamodules.shards.samples import blank, without_missing


def read_documents(
    source: str | Path, *, language: str | None = None, document: str = "document"
) -> Iterator[Row | BadRow]:
    """JSON Lines as `read_jsonl` reads them, or a text file, whose paragraphs between blank lines are rows.

    Of each row one text is shown: {"text", "language"} of the record say it. All its captions stay, for questions.

    Args:
        source: .jsonl; .txt.
        language: Of the captions that are shown; default: that of the record's "text", or of its only captions.
        document: Key of the document that a row belongs to, which becomes its pool; default: "document", or the row's
            id where it has none.
    """
    if Path(source).suffix == ".txt":
        rows: Iterator[Row | BadRow] = _paragraphs(Path(source), language or "und")
    else:
        rows = read_jsonl(source)

    def row(number: int, record: dict, *rest: Any) -> Row:
        where = f"row {number + 1} ({record.get('id')})"
        shown, text = _shown(record, language, where)
        name = str(record.get(document) if record.get(document) is not None else record.get("id"))
        captions = without_missing(record.get("captions") or {shown: text})
        record.pop("image_id", None)  # a page is another picture
        own = {"captions": captions, "document": name, "pool": name, "language": shown, "text": text}
        if not text and not rest[0]:
            raise BadRow("no picture and no text", where)
        return Row(number, record | own, *rest)

    return convert(rows, row)


def _shown(record: dict, language: str | None, where: str) -> tuple[str, str]:
    """Language and text of what a row shows."""
    captions, text = record.get("captions") or {}, record.get("text")
    if not isinstance(captions, dict):
        raise BadRow("captions is no object", where)
    if isinstance(text, str) and language in (None, record.get("language", language)):
        return str(record.get("language") or language or "und"), text
    if language is None and len(captions) > 1:
        raise BadRow("captions in several languages, and no --language", where)
    shown = language or next(iter(captions), "und")
    texts = captions.get(shown) or []
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, list) or not all(isinstance(each, str) for each in texts):
        raise BadRow("captions are no texts", where)
    if language is not None and not any(not blank(each) for each in texts):
        raise BadRow(f"no captions in {language}", where)
    return shown, "\n".join(texts)


def _paragraphs(source: Path, language: str) -> Iterator[Row]:
    paragraph: list[str] = []
    number = 0
    for line in (*lines(source), ""):
        if line.strip():
            paragraph.append(line)
        elif paragraph:
            record = {"id": f"{source.stem}-{number:04d}", "document": source.stem, "text": "\n".join(paragraph)}
            yield Row(number, record | {"language": language}, (), complete=False)
            number, paragraph = number + 1, []
