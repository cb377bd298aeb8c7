"""Messages for a person: one line each."""

import os
import re
import sys
from collections.abc import Sequence

SHOWN = 6
_NOISE = re.compile(r"^(usage:|tip:|note:|-{3,}|\s*$)", re.IGNORECASE)


def note(text: str) -> None:
    """A line on stderr, from the first of several processes."""
    ranks = (os.environ.get(name) for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
    if next((rank for rank in ranks if rank is not None), "0") == "0":
        print(text, file=sys.stderr)


def first_line(error: Exception) -> str:
    """The first line of an error's message; its class where there is none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def brief(names: Sequence[str]) -> str:
    """The first few of many names, and how many more there are."""
    if not names:
        return "none"
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def one_line(message: str) -> str:
    """A message of many lines as one, without usage text."""
    lines = [line.strip() for line in str(message).splitlines() if not _NOISE.match(line.strip())]
    # jsonargparse lists the error of every type that an option may have; that of None and headings explain nothing
    noise = ("<class 'NoneType'>", "Union subtypes", "Expected a path but")
    errors = [line[2:] for line in lines if line.startswith("- ") and not any(each in line for each in noise)]
    if "Union subtypes" in message and errors:
        key = re.search(r'Parser key "([\w.]+)"', message)
        return f"{key[1]}: {errors[0]}" if key else errors[0]
    return re.sub(r"\s+", " ", " ".join(lines)) or "unknown error"
