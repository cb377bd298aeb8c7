"""Pictures in the cells of parquet and arrow files, named as if they were files: TABLE#COLUMN:ROW."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datamodules.shards.samples import BrokenSample

if TYPE_CHECKING:
    from datamodules.shards.tables import ArrowTable, ParquetTable

CELL = re.compile(r"(.+\.(?:parquet|arrow))#([^#]+):(\d+)", re.DOTALL)


def cell(table: str | Path, column: str, row: int) -> str:
    """The name of a cell."""
    return f"{table}#{column}:{row}"


def file_of(path: str) -> str:
    """The file that a path, or the name of a cell, leads to."""
    found = CELL.fullmatch(path)
    return found[1] if found else path


def read_path(folder: str | Path, path: str) -> bytes:
    """The content of a file of the folder, or of a cell of one.

    Raises:
        OSError: for what is not there: a file, a row, an empty cell; a table that cannot be read.
    """
    found = CELL.fullmatch(path)
    if not found:
        return Path(folder, path).read_bytes()
    from datamodules.shards.tables import ERRORS, content_of

    file, column, row = str(Path(folder, found[1])), found[2], int(found[3])
    try:
        table = _opened(file, os.getpid())
        group = max(number for number, start in enumerate(table.starts) if start <= row)
        content = content_of(table.group(group, [column]).column(column)[row - table.starts[group]].as_py(), file)
    except (BrokenSample, LookupError, *ERRORS):
        content = None
    if content is None:
        raise FileNotFoundError(2, "no such cell", path)
    return content


def table_rows(file: str | Path, columns: Mapping[str, Sequence[str]]) -> Iterator[dict[str, Any]]:
    """The rows of a table, of each name the first of its columns that is there; names without one are left out.

    Raises:
        ValueError: one line, for a file that cannot be read.
    """
    table = _readable(file)
    from datamodules.shards.tables import ERRORS

    there = set(table.schema.names)
    found = {name: next((each for each in names if each in there), None) for name, names in columns.items()}
    wanted = list(dict.fromkeys(column for column in found.values() if column is not None))
    if not wanted:
        known = ", ".join(name for names in columns.values() for name in names)
        raise ValueError(f"{file}: its columns are {', '.join(sorted(there))}; expected some of {known}")
    try:
        for group in range(len(table.starts) - 1):
            for batch in table.batches(group, wanted):
                for row in batch.to_pylist():
                    yield {name: row[column] for name, column in found.items() if column is not None}
    except ERRORS as error:
        raise ValueError(f"{file}: cannot be read ({str(error).splitlines()[0]}); a parquet or arrow file") from None


def columns_of(file: str | Path) -> list[str]:
    """The names of a table's columns. Raises ValueError, one line, for a file that cannot be read."""
    return list(_readable(file).schema.names)


def _readable(file: str | Path) -> ParquetTable | ArrowTable:
    """A table. Raises ValueError, one line, for a file that is none."""
    if find_spec("pyarrow") is None:
        raise ValueError(f"{file}: parquet and arrow files need pyarrow: pip install 'mmtrain[documents]'")
    from datamodules.shards.tables import open_table

    try:
        return open_table(file)
    except BrokenSample as error:
        raise ValueError(f"{file}: {error.cause}; a parquet or arrow file") from None


@lru_cache(maxsize=4)
def _opened(file: str, process: int) -> ParquetTable | ArrowTable:
    """A table, opened once in each process: a fork shares the place in an open file."""
    from datamodules.shards.tables import open_table

    return open_table(file)
