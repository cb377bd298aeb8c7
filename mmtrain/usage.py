"""What the command line says when something is wrong: one line."""

import argparse
import re
import sys
from typing import NoReturn

_NOISE = re.compile(r"^(usage:|tip:|note:|-{3,}|\s*$)", re.IGNORECASE)


class OneLineParser(argparse.ArgumentParser):
    """argparse without the page of usage: the error in one line, exit code 2."""

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: error: {one_line(message)} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(2)


def one_line(message: str) -> str:
    """A message of many lines as one, without usage text."""
    lines = [line.strip() for line in str(message).splitlines() if not _NOISE.match(line.strip())]
    # jsonargparse lists what each type that an option may have said, the types within it indented below; None is
    # never the interesting one, nor is the heading of a list within
    tried = [line[2:] for line in lines if line.startswith("- ")]
    tried = [line for line in tried if "<class 'NoneType'>" not in line and "Union subtypes" not in line]
    if "Union subtypes" in message and tried:
        return tried[0]
    return re.sub(r"\s+", " ", " ".join(lines)) or "unknown error"
