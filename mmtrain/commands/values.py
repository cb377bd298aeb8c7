"""Values of the command line that are more than one word; what is wrong with one is an ArgumentTypeError."""

import argparse


def items(text: str) -> list[str]:
    """[en,lv] or en,lv."""
    parts = [item.strip().strip("'\"") for item in text.strip("[] ").split(",")]
    if not all(parts):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a list like [en,lv]")
    return parts


def integers(text: str) -> tuple[int, ...]:
    """1,5,10: whole numbers from 1."""
    try:
        numbers = tuple(int(item) for item in items(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected whole numbers like 1,5,10") from error
    if min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected numbers from 1")
    return numbers


def numbers(text: str) -> list[float]:
    """0.5,0.5."""
    try:
        return [float(item) for item in items(text)]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected numbers like 0.5,0.5") from error


def pairs(text: str) -> list[tuple[str, str]]:
    """de->en,lv->en."""
    parts = [tuple(item.split("->")) for item in items(text)]
    if any(len(part) != 2 for part in parts):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected pairs like de->en,lv->en")
    return [(first, second) for first, second in parts]


def column_each(text: str) -> dict[str, str]:
    """[en=a,lv=b]: a name has one value."""
    by_name = columns(text)
    for name, several in by_name.items():
        if len(several) > 1:
            raise argparse.ArgumentTypeError(f"got {', '.join(several)} for {name}, expected one for each")
    return {name: column for name, (column,) in by_name.items()}


def columns(text: str) -> dict[str, list[str]]:
    """[en=a,en=b,lv=c]: a name may have several values."""
    by_name: dict[str, list[str]] = {}
    for pair in items(text):
        name, equals, column = pair.partition("=")
        if not (name and equals and column):
            raise argparse.ArgumentTypeError(f"got {pair!r}, expected NAME=VALUE, as in [en=caption]")
        by_name.setdefault(name, []).append(column)
    return by_name
