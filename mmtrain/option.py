"""Values of the command line that are more than one word; what is wrong with one is an ArgumentTypeError."""

import argparse


def items(text: str) -> list[str]:
    """[en,lv] or en,lv."""
    found = [item.strip().strip("'\"") for item in text.strip("[] ").split(",")]
    if not all(found):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a list like [en,lv]")
    return found


def positive(text: str) -> int:
    """A whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a whole number from 1")
    return int(text)


def integers(text: str) -> tuple[int, ...]:
    """1,5,10: whole numbers from 1."""
    try:
        values = tuple(int(item) for item in items(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected whole numbers like 1,5,10") from error
    if min(values) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected numbers from 1")
    return values


def numbers(text: str) -> tuple[float, ...]:
    """0.5,0.5."""
    try:
        return tuple(float(item) for item in items(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected numbers like 0.5,0.5") from error


def pairs(text: str) -> tuple[tuple[str, str], ...]:
    """de->en,lv->en."""
    found = tuple(tuple(item.split("->")) for item in items(text))
    if any(len(pair) != 2 for pair in found):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected pairs like de->en,lv->en")
    return found
