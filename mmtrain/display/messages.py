"""Messages for a person: one line each."""

import re
import sys
from collections.abc import Sequence
from typing import Any, TextIO

from datamodules.shards.progress import is_first_process

SHOWN = 6
_NOISE = re.compile(r"^(usage:|tip:|note:|-{3,}|\s*$)", re.IGNORECASE)
_NAMED = re.compile(r"[\w.]+(?:Error|Exception|Interrupt)(?=:|$)")
_RAISED = re.compile(f"^{_NAMED.pattern}", re.MULTILINE)
# C0 without tab and newline, delete and C1, with which text from data would command a terminal; half surrogates
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def printable(text: Any) -> str:
    """Text as a terminal may get it: what would control it, and what is no Unicode, is replaced by U+FFFD."""
    return _CONTROL.sub("\ufffd", str(text)).replace("\t", " ")


def say(text: Any, *, file: TextIO | None = None) -> None:
    """Prints a line, on stdout where no file is given. Nothing else prints what may come from data."""
    print(printable(text), file=file)


def note(text: str) -> None:
    """A line on stderr, from the first of several processes."""
    if is_first_process():
        say(text, file=sys.stderr)


def first_line(error: Exception) -> str:
    """The first line of an error's message; its class where there is none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def line_of(error: BaseException) -> str:
    """An error as one line: its class where that says more than the message, the message, what was noted on its way."""
    text = one_line("\n".join([str(error), *getattr(error, "__notes__", ())]))
    plain = isinstance(error, (ValueError, OSError)) or _NAMED.match(text)
    return text if plain else f"{type(error).__name__}: {text}"


def brief(names: Sequence[str]) -> str:
    """The first few of many names, and how many more there are."""
    if not names:
        return "none"
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def one_line(message: str) -> str:
    """A message of many lines as one, without usage text; of a reader process's traceback what was raised in it."""
    if "Original Traceback" in message and (raised := list(_RAISED.finditer(message))):
        message = message[raised[-1].start() :].removeprefix("ValueError: ")
    lines = [line.strip() for line in str(message).splitlines() if not _NOISE.match(line.strip())]
    return re.sub(r"\s+", " ", " ".join(lines)) or "unknown error"
