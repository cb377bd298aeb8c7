"""What a claim comes to: trainings that are kept, means over seeds, a verdict by intervals, and DIR/NAME.json."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from benchmarks.number_features import Pictures, kept_pictures
from benchmarks.runs import half_width
from datamodules.files import write_whole

Figures = dict[str, float]
Verdict = Literal["shown", "refuted", "open"]

CHOOSING_SEEDS = (100, 101)  # a claim's seeds are 0, 1, 2, ...


@dataclass(frozen=True)
class Recipe:
    """A training: result(*settings, seed, split) trains, and measures on the validation or test numbers."""

    result: Callable[..., Figures]
    settings: tuple[float, ...] = ()


@dataclass(frozen=True)
class Row:
    """A figure of a recipe, or of a gain: mean over seeds and half-width of its 95 % interval, None of one seed."""

    recipe: str
    metric: str
    mean: float
    ci95: float | None
    seeds: int


@dataclass(frozen=True)
class Expected:
    """What is claimed of a row, one of three: its interval lies above a bound, below one, or reaches up to one."""

    recipe: str
    metric: str
    above: float | None = None
    below: float | None = None
    reaches: float | None = None

    def verdict(self, row: Row) -> Verdict:
        if row.ci95 is None:
            return "open"
        low, high = row.mean - row.ci95, row.mean + row.ci95
        if self.above is not None:
            return "shown" if low > self.above else "refuted" if high <= self.above else "open"
        if self.below is not None:
            return "shown" if high < self.below else "refuted" if low >= self.below else "open"
        assert self.reaches is not None
        return "shown" if high >= self.reaches else "refuted"


class Runs:
    """The trainings of one claim; each is kept in a file of its own, so that a stopped command goes on.

    Args:
        folder: Theirs; the features of the pictures lie beside it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, name: str, result: Callable[..., Figures], *arguments: Any) -> Figures:
        """result(*arguments), or what it gave before; a new result and its CPU seconds go to stderr."""
        title = " ".join(map(str, (name, *arguments)))
        path = self.folder / f"{re.sub(r'[^a-zA-Z0-9.]+', '-', title)}.json"
        if path.is_file():
            return json.loads(path.read_text(encoding="utf-8"))["figures"]
        start = time.process_time()
        figures = {key: float(value) for key, value in result(*arguments).items()}
        seconds = time.process_time() - start
        write_whole(path, json.dumps({"training": title, "figures": figures, "seconds": seconds}, indent=1))
        told = ", ".join(f"{key} {value:.1f}" for key, value in figures.items())
        print(f"{title}: {told}; {seconds:.0f} s", file=sys.stderr, flush=True)
        return figures

    def choose(
        self,
        name: str,
        options: Sequence[tuple[float, ...]],
        result: Callable[..., Figures],
        value: Callable[[Figures], float],
        seeds: Sequence[int] = CHOOSING_SEEDS,
    ) -> tuple[float, ...]:
        """The option whose validation figures have the highest value, on average over seeds that no row has."""
        found = {
            option: float(np.mean([value(self(name, result, *option, seed, "val")) for seed in seeds]))
            for option in options
        }
        told = "; ".join(f"{', '.join(map(str, option))}: {mean:.1f}" for option, mean in found.items())
        print(f"- {name}, validation: {told}", flush=True)
        return max(found, key=found.__getitem__)

    def pictures(self) -> dict[str, Pictures]:
        """The numbers corpus as features of a frozen network, see `benchmarks.number_features`."""
        return kept_pictures(self.folder.parent / "pictures.pt")


@dataclass(frozen=True)
class Claim:
    """What a paper says, and how it is measured here.

    Args:
        system: Whose claim it is.
        claim: One sentence.
        recipes: Makes the recipes by name; what they may choose is chosen on validation.
        gains: Pairs of recipes whose difference, paired by seed, is reported.
        expected: What the verdict depends on, all of it.
        trainings: Of the claim of this name, whose recipes it shares; default: its own.
    """

    system: str
    claim: str
    recipes: Callable[[Runs], dict[str, Recipe]]
    gains: Sequence[tuple[str, str]] = ()
    expected: Sequence[Expected] = ()
    trainings: str | None = None

    def measure(self, name: str, out: Path, seeds: int) -> Iterator[dict[str, Any]]:
        """The contents of out/NAME.json, before and after each training; trainings are kept in a folder of `out`."""
        figures: dict[str, list[Figures]] = {}
        runs = Runs(out / (self.trainings or name))
        yield self.record(figures, name, seeds)
        recipes = self.recipes(runs) if seeds else {}
        for seed in range(seeds):  # outermost, so that what was stopped has trained all recipes on the first seeds
            for title, recipe in recipes.items():
                found = runs(title, recipe.result, *recipe.settings, seed, "test")
                figures.setdefault(title, []).append(found)
                yield self.record(figures, name, seeds)

    def record(self, figures: dict[str, list[Figures]], name: str, seeds: int) -> dict[str, Any]:
        rows = list(rows_of(figures, self.gains))
        return {
            "system": self.system,
            "claim": self.claim,
            "rows": [asdict(row) for row in rows],
            "verdict": verdict_of(rows, self.expected),
            "command": f"python -m benchmarks.claims {name} --seeds {seeds}",
            "date": str(date.today()),
            "hardware": hardware(),
        }


def rows_of(figures: dict[str, list[Figures]], gains: Iterable[tuple[str, str]] = ()) -> Iterator[Row]:
    """A row for each metric of each recipe, and of each gain of the first of two over the second, paired by seed."""
    differences = {
        f"{first} over {second}": [
            {key: a[key] - b[key] for key in a if key in b}
            for a, b in zip(figures[first], figures[second], strict=False)  # a stopped run may have one seed less
        ]
        for first, second in gains
        if first in figures and second in figures
    }
    for recipe, found in (figures | differences).items():
        for metric in found[0]:
            values = [each[metric] for each in found]
            yield Row(
                recipe, metric, float(np.mean(values)), half_width(values) if len(values) > 1 else None, len(values)
            )


def verdict_of(rows: Iterable[Row], expected: Iterable[Expected]) -> Verdict:
    """Refuted where a row contradicts, shown where all rows agree, else open, as where a row is missing."""
    found = {(row.recipe, row.metric): row for row in rows}
    named = [(each, found.get((each.recipe, each.metric))) for each in expected]
    verdicts = [each.verdict(row) if row else "open" for each, row in named]
    if "refuted" in verdicts:
        return "refuted"
    return "shown" if verdicts and set(verdicts) == {"shown"} else "open"


def hardware() -> str:
    accelerator = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{os.cpu_count()} cores, {accelerator}, torch {torch.__version__}"
