"""Parquet and arrow files as shards: a row is a sample, its files are made of the columns.

Parquet is read a row group at a time (see `row_groups`); arrow files are mapped into memory.
"""

from __future__ import annotations

import io
import json
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from datamodules.files import inside
from datamodules.shards.columns import choose_columns, named_columns
from datamodules.shards.headers import DAMAGED, TRUNCATED
from datamodules.shards.locations import Reading, split_columns
from datamodules.shards.row_groups import RECENT
from datamodules.shards.samples import FEATURE_SUFFIX, BrokenSample

AT_ONCE = 1000  # rows that become Python objects together
SIGNS = {b"\x89PNG": "png", b"RIFF": "webp", b"\x93NUM": FEATURE_SUFFIX}  # how files begin that are no JPEG
ENCODER = json.JSONEncoder(ensure_ascii=False, default=str)
MAGIC = b"ARROW1"  # of the arrow files that are no stream
ERRORS = (pa.ArrowException, OSError, ValueError)  # a damaged file may raise


class ParquetTable:
    """A parquet file. `starts` are the rows at which its groups begin, and their number."""

    truncated = False

    def __init__(self, file: str, copies: Reading | None = None) -> None:
        # no threads of arrow's: a reading process is a fork
        self._file, self._name, self._copies = pq.ParquetFile(file, pre_buffer=False), file, copies
        metadata = self._file.metadata
        self.schema = self._file.schema_arrow
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        self.starts = list(accumulate((group.num_rows for group in groups), initial=0))
        self._leaves: dict[str, list[int]] = {}  # of each column
        for number in range(metadata.num_columns):
            self._leaves.setdefault(metadata.schema.column(number).path.partition(".")[0], []).append(number)

    def group(self, number: int, columns: Sequence[str]) -> pa.Table:
        def read() -> pa.Table:
            return self._file.read_row_group(number, list(columns), use_threads=False)

        return RECENT.get((self, number, *columns), read, self._name, self._copies)

    def batches(self, number: int, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        return self._file.iter_batches(AT_ONCE, [number], list(columns), use_threads=False)

    def complete(self, number: int, column: str) -> bool:
        """Whether the statistics say that no row of the group lacks it."""
        group = self._file.metadata.row_group(number)
        facts = [group.column(leaf).statistics for leaf in self._leaves[column]]
        return any(each is not None and each.has_null_count and each.null_count == 0 for each in facts)


class ArrowTable:
    """An arrow file, as ParquetTable is one. A stream that ends too early has the batches before its end."""

    def __init__(self, file: str) -> None:
        source = pa.memory_map(file)
        self.truncated = False
        if source.read(len(MAGIC)) == MAGIC:
            reader = pa.ipc.open_file(source)
            self._batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        else:
            source.seek(0)
            reader, self._batches = pa.ipc.open_stream(source), []
            try:
                self._batches += reader
            except ERRORS:
                self.truncated = True
        self.schema = reader.schema
        for batch in self._batches:
            batch.validate()
        self.starts = list(accumulate((batch.num_rows for batch in self._batches), initial=0))

    def group(self, number: int, columns: Sequence[str]) -> pa.RecordBatch:
        return self._batches[number].select(list(columns))

    def batches(self, number: int, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        batch = self.group(number, columns)
        return (batch.slice(first, AT_ONCE) for first in range(0, batch.num_rows, AT_ONCE))

    def complete(self, number: int, column: str) -> bool:
        return False  # looking costs nothing


def open_table(file: str | Path, copies: Reading | None = None) -> ParquetTable | ArrowTable:
    """A parquet or arrow file. Raises BrokenSample when it is missing or neither.

    Args:
        copies: Where row groups may be copied that are decoded again and again; None for nowhere.
    """
    try:
        with open(file, "rb") as opened:
            parquet = opened.read(4) == b"PAR1"
        return ParquetTable(str(file), copies) if parquet else ArrowTable(str(file))
    except FileNotFoundError:
        raise BrokenSample("missing shard") from None
    except ERRORS:
        raise BrokenSample("unreadable shard") from None


class TableShard:
    """The rows of a table. See `reader.Shard` for what its methods do.

    Raises BrokenSample for a file that cannot be read, ValueError, one line, for columns that nobody knows.
    """

    def __init__(self, shard: str, copies: Reading | None = None) -> None:
        self._file, named = split_columns(shard)
        self._copies = copies
        self._opened: ParquetTable | ArrowTable | None = None
        table = self._table()
        self.truncated = table.truncated
        self.faults: Sequence[str] = [TRUNCATED] if table.truncated else []
        self.columns = choose_columns(table.schema, named_columns(named), self._file)
        self.described = self.columns.described()
        self._files: dict[str, str] = {}  # suffix -> column; of a picture "jpg", until its bytes tell
        for name, column in self.columns.files.items():
            ending = FEATURE_SUFFIX if column in self.columns.features else "jpg"
            self._files[ending if name == "image" else f"{name}.{ending}"] = column
        self._starts = table.starts
        self._there: dict[tuple[int, str], np.ndarray | None] = {}  # rows with a file; None for all

    def __len__(self) -> int:
        return self._starts[-1]

    def key(self, sample: int) -> str:
        return f"{Path(self._file).stem.replace('.', '_')}-{sample:09d}"

    def suffixes(self, sample: int) -> list[str]:
        group, row = self._place(sample)
        return ["json", *(suffix for suffix, column in self._files.items() if self._has(group, row, column))]

    def read(self, sample: int, wanted: Callable[[str], bool]) -> dict[str, bytes]:
        group, row = self._place(sample)
        files = {}
        try:
            if wanted("json"):
                table = self._table().group(group, self.columns.written)
                (values,) = table.slice(row, 1).to_pylist() if self.columns.written else [{}]
                files["json"] = _json(self.columns.record(values))
            for suffix, column in self._files.items():
                if wanted(suffix):
                    value = self._table().group(group, [column]).column(column)[row].as_py()
                    content = content_of(value, self._file)
                    if content is not None:
                        files[_renamed(suffix, content)] = content
        except UnicodeDecodeError:
            raise BrokenSample("invalid UTF-8") from None
        except ERRORS:
            raise BrokenSample(DAMAGED) from None
        return files

    def texts(self, samples: Sequence[int]) -> Iterator[dict[str, bytes] | BrokenSample]:
        numbers = np.asarray(samples, np.int64)
        for group, start in enumerate(self._starts[:-1]):
            first, end = np.searchsorted(numbers, [start, self._starts[group + 1]])
            rows, done = numbers[first:end] - start, 0
            try:
                for each in self._texts(group, rows):
                    yield each
                    done += 1
            except ERRORS:
                yield from (BrokenSample(DAMAGED) for _ in range(len(rows) - done))

    def close(self) -> None:
        self._opened = None

    def _table(self) -> ParquetTable | ArrowTable:
        if self._opened is None:
            self._opened = open_table(self._file, self._copies)
        return self._opened

    def _place(self, sample: int) -> tuple[int, int]:
        """Row group and row in it."""
        group = bisect_right(self._starts, sample) - 1
        return group, sample - self._starts[group]

    def _has(self, group: int, row: int, column: str) -> bool:
        key = group, column
        if key not in self._there:
            table = self._table()
            try:
                self._there[key] = None if table.complete(group, column) else _valid(table.group(group, [column]))
            except ERRORS:
                self._there[key] = None  # it is found out when it is read
        there = self._there[key]
        return there is None or bool(there[row])

    def _texts(self, group: int, rows: np.ndarray) -> Iterator[dict[str, bytes] | BrokenSample]:
        spoken, start = self.columns.spoken, 0
        if not spoken:
            yield from ({"json": b"{}"} for _ in rows)
            return
        for batch in self._table().batches(group, spoken) if len(rows) else ():
            first, end = np.searchsorted(rows, [start, start + batch.num_rows])
            chosen = batch.take(pa.array(rows[first:end] - start)) if end - first < batch.num_rows else batch
            start += batch.num_rows
            try:
                values: list[dict | None] = chosen.to_pylist()
            except UnicodeDecodeError:
                values = [_decoded(chosen.slice(row, 1)) for row in range(chosen.num_rows)]
            for each in values:
                yield BrokenSample("invalid UTF-8") if each is None else {"json": _json(self.columns.record(each))}


def content_of(value: Any, file: str) -> bytes | None:
    """The bytes of a picture or of features in a cell of a table; None without. A path leads from the table's folder.

    Raises:
        BrokenSample: for a path that leads out of the folder or to no file.
    """
    if isinstance(value, dict):
        value = value.get("path") if value.get("bytes") is None else value["bytes"]
    if isinstance(value, list):
        content = io.BytesIO()
        np.save(content, np.asarray(value, np.float32))
        return content.getvalue()
    if not isinstance(value, str):
        return value
    folder = Path(file).parent
    if not inside(folder, value):
        raise BrokenSample("image outside the folder of the shard")
    try:
        return (folder / value).read_bytes()
    except (OSError, ValueError):
        raise BrokenSample("missing image") from None


def _renamed(suffix: str, content: bytes) -> str:
    """A file's suffix with the ending that its bytes tell."""
    return suffix[: -len("jpg")] + SIGNS.get(content[:4], "jpg") if suffix.endswith("jpg") else suffix


def _json(record: dict) -> bytes:
    return ENCODER.encode(record).encode(errors="replace")


def _decoded(batch: pa.RecordBatch) -> dict | None:
    """The only row of a batch; None where a text of it is no UTF-8."""
    try:
        return batch.to_pylist()[0]
    except UnicodeDecodeError:
        return None


def _valid(table: pa.Table | pa.RecordBatch) -> np.ndarray:
    """bool [rows]: whether the one column holds something."""
    (column,) = table.columns
    if pa.types.is_struct(column.type):
        chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
        fields = [[field.is_valid().to_numpy(zero_copy_only=False) for field in chunk.flatten()] for chunk in chunks]
        return np.concatenate([np.any(each, axis=0) for each in fields]) if fields else np.zeros(0, bool)
    return np.asarray(column.is_valid())
