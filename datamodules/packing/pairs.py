"""Text pairs: queries, their answers or translations, and texts that are none."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from datamodules.packing.manifests import check_texts, objects
from datamodules.packing.rows import Row
from datamodules.packing.tables import header_and_rows
from datamodules.shards.encoding import BadRow, convert
from datamodules.shards.samples import read_texts

SEPARATORS = {".tsv": "\t", ".csv": ","}
COLUMNS = ("query", "positive", "score", "query_language", "positive_language", "id")


def read_pairs(source: str | Path, *, language: str | None = None, unquoted: bool = False) -> Iterator[Row | BadRow]:
    """JSON Lines with "query", "positive" and "negatives", or a TSV.

    In JSON Lines each of the three is a string, a list of strings, or an object of either by language; "score" is how
    similar query and positive are, "scores" a reranker's of the positives and then the negatives. A TSV has the columns
    query, positive, negative1 and so on, score, query_language, positive_language (the negatives' too) and id. Ids
    default to the row's number, from 0; other keys and columns travel in the record.

    Args:
        source: .jsonl, .tsv or .csv, .gz or not.
        language: Of texts that do not say theirs, where the row has no "language" either; default: und.
        unquoted: Take " as it stands: for tables written without quoting.

    Raises:
        ValueError: one line, for a table without the columns.
    """
    suffix = next((suffix for suffix in Path(source).suffixes if suffix in SEPARATORS), None)
    rows = objects(source) if suffix is None else _of_table(source, SEPARATORS[suffix], not unquoted)
    return convert(rows, partial(_pair, language=language))


def _pair(number: int, record: dict, *, language: str | None) -> Row:
    if record.get("id") in (None, ""):
        record = record | {"id": str(number)}
    if language is not None:
        record.setdefault("language", language)
    where = f"row {number + 1} ({record['id']})"
    check_texts(record, where)
    for key in ("query", "positive"):
        if not read_texts(record, key):
            raise BadRow(f"no {key}", where)
    return Row(number, record, (), complete=False)


def _of_table(source: str | Path, separator: str, quoted: bool) -> Iterator[tuple[int, dict] | BadRow]:
    header, rows = header_and_rows(source, separator, quoted)
    for name in COLUMNS[:2]:
        if name not in header:
            there = ", ".join(header)[:300] or "none"
            raise ValueError(f"source: {source} has no column {name!r}; its columns: {there}")
    negatives = [name for name in header if re.fullmatch(r"negative\d*", name)]

    def record(number: int, fields: list[str]) -> tuple[int, dict]:
        if len(fields) != len(header):
            raise BadRow("wrong number of fields", f"row {number + 1}")
        of_column = dict(zip(header, fields, strict=True))
        answers = of_column.get("positive_language", "").strip()
        made: dict = {"id": of_column.get("id", "")}
        made["query"] = _spoken(of_column["query"], of_column.get("query_language", "").strip())
        made["positive"] = _spoken(of_column["positive"], answers)
        if wrong := [text for name in negatives if (text := of_column[name]).strip()]:
            made["negatives"] = _spoken(wrong, answers)
        try:
            made |= {"score": float(score)} if (score := of_column.get("score", "").strip()) else {}
        except ValueError:
            raise BadRow("score is no finite number", f"row {number + 1}") from None
        return number, made | {name: of_column[name] for name in header if name not in {*COLUMNS, *negatives, ""}}

    yield from convert(rows, record)


def _spoken(texts: str | list[str], language: str) -> object:
    return {language: texts} if language else texts
