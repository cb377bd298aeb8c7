"""Files and folders that appear whole or not at all: written under a name of their own, then renamed."""

import ctypes
import errno
import fcntl
import glob
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

UNFINISHED = ".mmtrain-unfinished"  # beside a folder that is being written; its writer holds a lock on it


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


def write_whole(path: str | Path, text: str, *, errors: str = "backslashreplace") -> None:
    """Writes a text file in UTF-8; what is no Unicode, as in file names of another encoding, is spelt out."""
    with whole_file(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8", errors=errors)


def inside(folder: str | Path, name: str) -> bool:
    """Whether a path, as data from elsewhere names it, stays in a folder."""
    root = os.path.abspath(folder)
    return os.path.commonpath([root, os.path.abspath(os.path.join(root, name))]) == root


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
def whole_folder(path: str | Path, check: Callable[[Path], None] | None = None) -> Iterator[Path]:
    """Gives an empty folder beside `path` to fill; it takes the place of `path` when the block ends.

    Of two writers at once the later one's folder stays. A kill leaves the older folder or the new one, whole; what it
    leaves beside them the next writer removes.

    Args:
        path: The folder's name in the end; where it is a link, what the link names.
        check: Raises ValueError when what is at `path` must stay. Called before the block and again after it.

    Raises:
        ValueError: as `check` does, for a mount point, which cannot be renamed, or where nothing can be written.
    """
    path = Path(path).resolve()
    check = check or (lambda path: None)
    check(path)
    if path.is_mount():
        raise ValueError(f"{path}: a mount point cannot be replaced; name a folder in it")
    _make(path.parent)
    with ExitStack() as written:
        with _lock(path.parent):
            for abandoned in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
                _remove_abandoned(abandoned)
            place = _unused(path)
            _make(place)
            written.callback(shutil.rmtree, place, ignore_errors=True)
            (place / UNFINISHED).touch()
            written.enter_context(_lock(place / UNFINISHED))
        unfinished = place / path.name
        unfinished.mkdir()
        written.callback(shutil.rmtree, unfinished, ignore_errors=True)  # the older one in the end; before the marker
        yield unfinished
        with _lock(path.parent):
            check(path)
            if not (path.exists() and _exchange(unfinished, path)):
                older = _unused(path)
                if path.exists():
                    path.rename(older)
                unfinished.rename(path)
                shutil.rmtree(older, ignore_errors=True)


def _remove_abandoned(folder: Path) -> None:
    """Removes an unfinished folder whose writer was killed: it is empty, or nobody holds the lock of its marker."""
    with suppress(OSError):
        folder.rmdir()
    with suppress(ValueError, OSError), _lock(folder / UNFINISHED, wait=False) as locked:
        if locked:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def writing_into(folder: str | Path) -> Iterator[None]:
    """Keeps a folder for one writer; another one, in any process, is refused. The folder is made when missing.

    Raises:
        ValueError: when another run writes into it, or it cannot be made.
    """
    folder = Path(folder)
    _make(folder)
    with _lock(folder, wait=False):
        yield


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{folder} cannot be written ({error.strerror}); a folder with room") from error


@contextmanager
def one_at_a_time(path: str | Path) -> Iterator[None]:
    """Keeps the making of `path` to one process of the node, or of the file system where it has locks; others wait."""
    lock = Path(path).with_name(f".{Path(path).name}.lock")
    _make(lock.parent)
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        with _held(descriptor):
            try:
                current = os.path.samestat(os.fstat(descriptor), lock.stat())
            except FileNotFoundError:
                current = False
            if not current:  # whoever had it took it away: this is no longer the one that others wait for
                continue
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)
            return


@contextmanager
def _lock(path: Path, wait: bool = True) -> Iterator[bool]:
    """Holds the lock of a file or folder; yields False on a file system without locks."""
    try:
        with _held(os.open(path, os.O_RDONLY), wait) as locked:
            yield locked
    except BlockingIOError:
        raise ValueError(f"{path}: another run writes here; wait for it, or give another folder") from None


@contextmanager
def _held(descriptor: int, wait: bool = True) -> Iterator[bool]:
    """Holds a descriptor's lock. Raises BlockingIOError when it need not wait and another process has it."""
    _LOCKS.add(descriptor)
    try:
        locked = True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise
        except OSError:
            locked = False
        yield locked
    finally:
        _LOCKS.discard(descriptor)
        os.close(descriptor)


@contextmanager
def room_for(folder: str | Path, size: int = 0) -> Iterator[None]:
    """Lets the block write into `folder`; where the disk is full, one line names the folder and the room needed.

    Args:
        folder: May be missing.
        size: Bytes that will be written at least.

    Raises:
        ValueError: before the block when so much is not free, or when the disk is full in it.
    """
    folder = Path(folder).absolute()
    there = next(parent for parent in folder.parents if parent.is_dir())
    free, room = shutil.disk_usage(there).free, f"{size / 2**20:,.1f} MiB"
    if free < size:
        raise ValueError(f"--out: {folder} needs at least {room}, {free / 2**20:,.1f} MiB are free; another disk")
    try:
        yield
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else None
        # libraries of other languages keep the number in their text alone, SQLite has words of its own
        words = (*map(os.strerror, FULL), "disk is full", "disk I/O error")
        if number not in FULL and not any(each in str(error) for each in words):
            raise
        reason = os.strerror(number) if number else str(error).strip().splitlines()[-1][-200:]
        room = f"{room} and more" if size else "room"
        raise ValueError(f"--out: {folder} cannot be written ({reason}); a folder with {room}") from error


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)

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
