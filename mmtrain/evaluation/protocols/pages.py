"""Retrieval sets of queries, corpus and qrels, as BEIR and MTEB lay them out in parquet files, with pictures in them.

    [POOL/]corpus/*.parquet, [POOL/]queries/*.parquet, [POOL/]qrels/*.parquet     or corpus.parquet ... in the folder
    corpus-LANGUAGE/*.parquet ...                                                  the same by language

A pool is a corpus with its own queries; POOL may be several folders. Pictures may stand in a table of their own,
images, whose file names are the corpus' image ids.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from datamodules.packing import Row
from datamodules.packing.cells import cell, columns_of, table_rows
from datamodules.packing.spelling import language_of
from datamodules.shards.encoding import BadRow

TABLE = re.compile(r"(?:(.+)/)?(corpus|images|queries|query|qrels)(?:-([a-z]{2,3}))?(?:[/._-].*)?\.parquet")
OTHER_SPLITS = re.compile(r"(train|dev|validation|val)\b")
ITEM = {
    "id": ("corpus-id", "corpus_id", "_id", "id"),
    "image_id": ("image_id", "image-id"),
    "text": ("text", "markdown", "text_description"),
    "title": ("title",),
    "document": ("doc_id", "doc-id"),
    "modality": ("modality",),
}
QUERY = {
    "id": ("query-id", "query_id", "_id", "id"),
    "text": ("query", "text"),
    "language": ("language", "lang"),
    "modality": ("modality",),
}
QREL = {"query": ("query-id", "query_id"), "item": ("corpus-id", "corpus_id"), "score": ("score",)}
PICTURES = "image"  # the column


@dataclass
class PagePool:
    """The tables of a corpus and its queries, by kind."""

    name: str
    tables: dict[str, list[Path]] = field(default_factory=lambda: defaultdict(list))

    @property
    def named(self) -> dict[str, str]:
        """What items and queries say of it."""
        return {"pool": self.name} if self.name else {}

    def item_id(self, id: object) -> str:
        """The id of an item among those of all pools."""
        return f"{self.name}/{id}" if self.name else str(id)

    @cached_property
    def grades(self) -> dict[str, dict[str, float]]:
        """Query -> item -> grade, at least 0."""
        grades: dict[str, dict[str, float]] = defaultdict(dict)
        for file in self.tables["qrels"]:
            for row in rows_of(file, QREL, "query", "item", "score"):
                grades[str(row["query"])][self.item_id(row["item"])] = max(float(row["score"]), 0)
        return grades


def pools_in(source: Path) -> list[PagePool]:
    """The pools of a folder, in the order of their names.

    Raises:
        ValueError: one line, for a folder without the tables.
    """
    pools: dict[str, PagePool] = {}
    for file in sorted(source.rglob("*.parquet")):
        found = TABLE.fullmatch(file.relative_to(source).as_posix())
        if found and not OTHER_SPLITS.match(file.name):
            parts = [*(found[1] or "").split("/"), found[3]]
            name = "/".join(part for part in parts if part and part != "data")
            kind = "queries" if found[2] == "query" else found[2]
            pools.setdefault(name, PagePool(name)).tables[kind].append(file)
    if not pools:
        raise ValueError(f"--data: {source} holds no corpus, queries and qrels in parquet files; the data set's folder")
    for pool in pools.values():
        if lacking := {"corpus", "queries", "qrels"} - pool.tables.keys():
            raise ValueError(f"--data: {source / pool.name} lacks {', '.join(sorted(lacking))}; the complete data set")
    return list(pools.values())


def read_pages(source: Path) -> Iterator[Row | BadRow]:
    """The items of all pools: {"id": POOL/ID, "pool": POOL, "text", "title", "document"}, as far as a corpus says them.

    An item without a picture has its title and text as a caption of the language und.
    """
    number = 0
    for pool in pools_in(source):
        by_image: dict[str, list[dict[str, Any]]] = {}
        for file in pool.tables["corpus"]:
            columns = columns_of(file)
            for place, row in enumerate(rows_of(file, ITEM, "id")):
                record = {name: row[name] for name in ("text", "title", "document") if row.get(name)}
                record |= {"id": pool.item_id(row["id"])} | pool.named
                if pool.tables.get("images"):
                    by_image.setdefault(str(row.get("image_id")), []).append(record)
                    continue
                pictured = _pictured(row, columns)
                if not pictured:
                    record["captions"] = {"und": " ".join(record.pop(name, "") for name in ("title", "text"))}
                name = cell(file.relative_to(source).as_posix(), PICTURES, place)
                yield Row(number, record, (name,) if pictured else (), complete=False)
                number += 1
        for file in pool.tables.get("images", ()):
            for place, row in enumerate(rows_of(file, {"name": ("file_name", "image_id")}, "name")):
                found = by_image.pop(str(row["name"]), [])
                if not found:
                    yield BadRow("a picture that is no item's", f"row {number + 1}", str(row["name"]))
                for record in found:
                    image = cell(file.relative_to(source).as_posix(), PICTURES, place)
                    yield Row(number, record, (image,), complete=False)
                    number += 1
        for record in (record for records in by_image.values() for record in records):
            yield BadRow("missing image", f"row {number + 1} ({record['id']})")
            number += 1


def page_questions(
    source: Path, language: Callable[[str], str], of_pool: Callable[[str], dict[str, Any]] = lambda pool: {}
) -> Iterator[dict[str, Any]]:
    """The queries of all pools, also those that no item answers.

    Args:
        source: The folder.
        language: Of a pool's queries that do not say theirs.
        of_pool: What else its questions say.
    """
    for pool in pools_in(source):
        for file in pool.tables["queries"]:
            columns = columns_of(file)
            for place, row in enumerate(rows_of(file, QUERY, "id")):
                spoken = language_of(row["language"]) if row.get("language") else language(pool.name)
                question = {"id": pool.item_id(row["id"]), "text": row.get("text") or "", "language": spoken}
                question |= {"relevant": pool.grades.get(str(row["id"]), {})} | pool.named | of_pool(pool.name)
                if _pictured(row, columns):
                    question["images"] = [cell(file.relative_to(source).as_posix(), PICTURES, place)]
                yield question


def _pictured(row: Mapping[str, Any], columns: Sequence[str]) -> bool:
    """Whether a row of a table with these columns has a picture: as its modality says, else where there is a column."""
    return "image" in (row.get("modality") or columns)


def rows_of(file: Path, columns: Mapping[str, Sequence[str]], *needed: str) -> Iterator[dict[str, Any]]:
    """The rows of a table, see `table_rows`. Raises ValueError, one line, where a needed column is missing or empty."""
    for number, row in enumerate(table_rows(file, columns)):
        for name in needed:
            if row.get(name) is None:
                raise ValueError(f"--data: {file}, row {number + 1} has no {' or '.join(columns[name])}")
        yield row
