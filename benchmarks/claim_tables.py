"""What the benchmarks of claims share: recipes chosen on validation, means over seeds, tables in Markdown."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any

import numpy as np

from benchmarks.number_features import Schedule
from benchmarks.runs import interval

Figures = dict[str, float]

CHOOSING_SEEDS = (100, 101)  # the table's seeds are 0, 1, 2, ...


def choose(
    name: str,
    options: Sequence[tuple[float, ...]],
    result: Callable[..., Figures],
    value: Callable[[Figures], float],
    seeds: Sequence[int] = CHOOSING_SEEDS,
) -> tuple[float, ...]:
    """The option whose validation figures have the highest value, on average over seeds that are not in the table."""
    found = {
        option: float(np.mean([value(timed(name, result, *option, seed, "val")) for seed in seeds]))
        for option in options
    }
    print(
        f"- {name}, validation: " + "; ".join(f"{', '.join(map(str, o))}: {v:.1f}" for o, v in found.items()),
        flush=True,
    )
    return max(found, key=found.get)


def timed(name: str, result: Callable[..., Figures], *arguments: Any) -> Figures:
    """The result; it, what it was and its CPU seconds go to stderr, for a person watching."""
    start = time.process_time()
    found = result(*arguments)
    told = ", ".join(f"{key} {value:.1f}" for key, value in found.items())
    print(f"{name} {arguments}: {told}; {time.process_time() - start:.0f} s", file=sys.stderr, flush=True)
    return found


def difference(first: list[Figures], second: list[Figures]) -> list[Figures]:
    return [{key: a[key] - b[key] for key in a} for a, b in zip(first, second, strict=True)]


def cells(found: list[Figures], columns: Sequence[str]) -> list[str]:
    return [interval([each[column] for each in found]) for column in columns]


def described(schedule: Schedule, seeds: int) -> str:
    return f"{schedule.steps} steps of {schedule.batch} pictures, mean and 95 % interval of {seeds} seeds"


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Prints each row as soon as it is there: an interrupted table is still one."""
    for row in chain((header, ["---"] * len(header)), rows):
        print(f"| {' | '.join(row)} |", flush=True)
