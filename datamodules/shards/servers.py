"""Servers that shards come from: asked again with patience, and their refusals in words."""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import fsspec

T = TypeVar("T")
FILE_QUERY = re.compile(
    r"(\.(?:tar|json|parquet|arrow))[?#].*", re.DOTALL
)  # a signature, which changes from day to day


@dataclass(frozen=True)
class Patience:
    """With servers.

    Args:
        retry_seconds: Waits before a request is made again.
        timeout_seconds: So long a server may send nothing.
    """

    retry_seconds: Sequence[float] = (1, 4, 16)
    timeout_seconds: float = 10

    def __post_init__(self) -> None:
        if not all(seconds >= 0 for seconds in self.retry_seconds):
            raise ValueError(f"data.retry_seconds: {self.retry_seconds}; seconds to wait before each further try")
        if not self.timeout_seconds > 0:
            raise ValueError(f"data.timeout_seconds: {self.timeout_seconds} is too small; above 0")


PATIENCE = Patience()


class Changed(Exception):
    """What a server has now is not what the run began with."""


def shown(address: str) -> str:
    """An address without a password, key or signature in it."""
    return re.sub(r"(?<=://)[^/@]*@", "", FILE_QUERY.sub(r"\1", address)) if "://" in address else address


def tried(action: Callable[[], T], address: str, patience: Patience) -> T:
    """What `action` returns, tried again after each wait unless that is of no use.

    Raises OSError, one line with the reason; FileNotFoundError when the server refuses for good.
    """
    waits = list(patience.retry_seconds)
    while True:
        try:
            return action()
        except Exception as error:  # each file system of fsspec raises its own kind
            reason, final = reason_of(error, patience)
        if final:
            raise FileNotFoundError(f"{shown(address)} cannot be fetched: {reason}")
        if not waits:
            raise OSError(
                f"{shown(address)} cannot be fetched: {reason}; tried {len(patience.retry_seconds) + 1} times"
            )
        warnings.warn(f"{shown(address)}: {reason}; trying again in {waits[0]:g} s", stacklevel=2)
        time.sleep(waits.pop(0))


def reason_of(error: BaseException, patience: Patience) -> tuple[str, bool]:
    """An error in words, and whether trying again is of no use."""
    if isinstance(error, FileNotFoundError) and error.__cause__ is not None:
        error = error.__cause__  # fsspec calls every failure a missing file
    status = getattr(error, "status", None)
    if isinstance(error, Changed):
        return "it has changed on the server; start the run again", True
    if isinstance(error, FileNotFoundError):
        return "404, it is not there", True
    if isinstance(error, PermissionError):
        return "403, it is not allowed", True
    if isinstance(status, int):
        again = status >= 500 or status in (408, 425, 429)
        return f"{status} {getattr(error, 'message', '')}".strip(), not again
    if isinstance(error, TimeoutError) or "Timeout" in type(error).__name__:
        return f"time-out, nothing came for {patience.timeout_seconds:g} s", False
    return (str(error).strip().splitlines() or [type(error).__name__])[0], False


def file_system(address: str, patience: Patience) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system of an address, and the path there."""
    options = {}
    if address.startswith(("http://", "https://")):
        import aiohttp

        # the default is five minutes for a whole file, however well it comes
        seconds = patience.timeout_seconds
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=seconds, sock_read=seconds)
        options = {"client_kwargs": {"timeout": timeout}}
    return fsspec.core.url_to_fs(address, **options)


def files_in(address: str, patience: Patience) -> list[str]:
    """The addresses of what is in a folder, sorted. Raises OSError with the reason."""

    def listed() -> list[str]:
        files, root = file_system(address, patience)
        paths = sorted(files.ls(root, detail=False))
        return [path if "://" in path else files.unstrip_protocol(path) for path in paths]

    return tried(listed, address, patience)
