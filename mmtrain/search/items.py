"""Ids, captions and thumbnails of an index, in one SQLite file: any item is read without the others."""

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

TABLES = """
CREATE TABLE items (number INTEGER PRIMARY KEY, id TEXT NOT NULL, thumbnail BLOB NOT NULL);
CREATE TABLE captions (item INTEGER NOT NULL, language TEXT NOT NULL, caption TEXT NOT NULL);
"""


@dataclass(frozen=True)
class Item:
    """One image of an index."""

    number: int
    id: str
    captions: dict[str, list[str]]  # by language
    thumbnail: bytes  # JPEG of the whole picture, made smaller


class ItemWriter:
    """Writes items by number; the file is complete after `close`."""

    def __init__(self, path: Path) -> None:
        # nolock: cluster file systems often have no locks, and no other process has the file yet
        self._file = sqlite3.connect(f"{path.absolute().as_uri()}?nolock=1", uri=True)
        self._file.executescript(f"PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; {TABLES}")

    def add(self, items: Iterable[tuple[int, str, bytes]], captions: Iterable[tuple[int, str, str]]) -> None:
        """Adds items (number, id, thumbnail) and captions (number of the item, language, text)."""
        self._file.executemany("INSERT INTO items VALUES (?, ?, ?)", items)
        self._file.executemany("INSERT INTO captions VALUES (?, ?, ?)", captions)

    def close(self) -> None:
        self._file.execute("CREATE INDEX captions_of_item ON captions (item)")
        self._file.commit()
        self._file.close()


class Items:
    """The items of a finished index. Raises ValueError when the file or an item is not there or cannot be read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            # any thread may read it, one at a time
            address = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
            self._file = sqlite3.connect(address, uri=True, check_same_thread=False)
            self._file.execute("SELECT number, id, thumbnail FROM items LIMIT 1")
        except sqlite3.Error as error:
            raise ValueError(f"{path}: cannot be read ({error}); build the index again") from error

    def read(self, numbers: Sequence[int]) -> list[Item]:
        """The items of these numbers, in this order."""
        try:
            return [self._item(int(number)) for number in numbers]
        except (sqlite3.Error, TypeError) as error:  # a number that is not there is None
            raise ValueError(f"{self._path}: an item cannot be read ({error}); build the index again") from error

    def _item(self, number: int) -> Item:
        select = "SELECT id, thumbnail FROM items WHERE number = ?"
        name, thumbnail = self._file.execute(select, (number,)).fetchone()
        captions: dict[str, list[str]] = {}
        select = "SELECT language, caption FROM captions WHERE item = ? ORDER BY rowid"
        for language, caption in self._file.execute(select, (number,)):
            captions.setdefault(language, []).append(caption)
        return Item(number, name, captions, thumbnail)
