"""Text files of sources, compressed or not."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

LANGUAGE_CODE = r"[A-Za-z]{2,3}(?:[-_][A-Za-z0-9]+)*"  # as file names spell it


def language_code(name: str) -> str:
    """A language's code as samples have it: pt_BR is pt-BR, EN is en."""
    language, *subtags = re.split("[-_]", name)
    return "-".join([language.lower(), *subtags])


@contextlib.contextmanager
def open_text(path: str | Path, *, newline: str = "\n", field: str = "source") -> Iterator[TextIO]:
    """A UTF-8 file, decompressed when it ends in .gz or .bz2; what ends a line is as for `open`.

    Bytes that are no UTF-8 become lone surrogates, and cost a row instead of the file. Raises ValueError, one line that
    begins with `field`, when the file cannot be read.
    """
    path = Path(path)
    try:
        opened = gzip.open if path.suffix == ".gz" else bz2.open if path.suffix == ".bz2" else open
        with opened(path, "rt", encoding="utf-8-sig", errors="surrogateescape", newline=newline) as text:
            yield text
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{field}: {path} cannot be read ({reason}); a UTF-8 text file, compressed or not") from None


def lines(path: str | Path, *, field: str = "source") -> Iterator[str]:
    """Its lines without their ends.

    Only line feeds end a line: captions hold U+2028, form feeds and lone carriage returns, which the line counts of
    aligned files take for part of the line.
    """
    with open_text(path, field=field) as text:
        for line in text:
            yield line.removesuffix("\n").removesuffix("\r")
