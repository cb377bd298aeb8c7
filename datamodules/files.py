"""Files and folders that appear whole or not at all: written under a name of their own, then renamed."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: str | Path, *, sync: bool = False, make_folder: bool = True) -> Iterator[Path]:
    """Gives a name beside `path` to write to; the file takes its place when the block ends, and is gone if it fails.

    Two writers at once have names of their own; one of their files stays, whole.

    Args:
        path: The file's name in the end.
        sync: Wait for the disk before renaming, so that not even a power cut leaves half a file.
        make_folder: Whether the folder is made when missing.
    """
    path = Path(path)
    if make_folder:
        path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = _unused(path)
    try:
        yield unfinished
        if sync:
            with unfinished.open("rb") as file:
                os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_whole(path: str | Path, text: str, *, errors: str = "strict") -> None:
    """Writes a text file in UTF-8."""
    with whole_file(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8", errors=errors)


@contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """Gives an empty folder beside `path` to fill; it takes the place of `path` when the block ends."""
    path = Path(path)
    unfinished, older = _unused(path), _unused(path)
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        if path.exists():
            path.rename(older)
        try:
            unfinished.rename(path)
        except OSError:
            if older.exists():
                older.rename(path)
            raise
        shutil.rmtree(older, ignore_errors=True)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _unused(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
