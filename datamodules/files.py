"""Files and folders that appear whole or not at all: written under a name of their own, then renamed."""

import ctypes
import fcntl
import os
import secrets
import shutil
import tempfile
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


def try_writing(folder: str | Path, option: str) -> None:
    """Whether files can be written into a folder, which may be missing, is tried before hours of work.

    Raises:
        ValueError: when they cannot, with the option that named the folder.
    """
    folder = Path(folder).absolute()
    there = next(place for place in (folder, *folder.parents) if place.exists())
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(bytes(2**20))
    except OSError as error:
        raise ValueError(f"{option}: {folder} cannot be written ({error.strerror}); a folder with room") from None


@contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """Gives an empty folder beside `path` to fill; it takes the place of `path` when the block ends.

    Of two writers at once the later one's folder stays. A kill leaves the older folder or the new one, whole.
    """
    path = Path(path)
    unfinished = _unused(path)
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        with _lock(path.parent):
            if not (path.exists() and _exchange(unfinished, path)):
                older = _unused(path)
                if path.exists():
                    path.rename(older)
                unfinished.rename(path)
                shutil.rmtree(older, ignore_errors=True)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


@contextmanager
def writing_into(folder: str | Path) -> Iterator[None]:
    """Keeps a folder for one writer; another one, in any process, is refused. The folder is made when missing.

    Raises:
        ValueError: when another run writes into it.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with _lock(folder, wait=False):
        yield


@contextmanager
def _lock(folder: Path, wait: bool = True) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    _LOCKS.add(descriptor)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise ValueError(f"{folder}: another run writes here; wait for it, or give another folder") from None
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        _LOCKS.discard(descriptor)
        os.close(descriptor)


_LOCKS: set[int] = set()


def _forget_locks() -> None:
    while _LOCKS:
        os.close(_LOCKS.pop())


# a lock lasts as long as any process that inherited it: a reader process outlives a killed training by seconds
os.register_at_fork(after_in_child=_forget_locks)


def _exchange(one: Path, other: Path) -> bool:
    """Swaps two names in one step; False where the system cannot."""
    try:
        rename = ctypes.CDLL(None).renameat2  # glibc 2.28 and later; the two -100 stand for the working directory
    except AttributeError:
        return False
    exchange = 2
    return rename(-100, os.fsencode(one), -100, os.fsencode(other), exchange) == 0


def _unused(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
