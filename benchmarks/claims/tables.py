"""The Markdown of claims: the rows of one, and the systems of all."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in chain((header, ["---"] * len(header)), rows))


def rows_table(rows: Sequence[dict[str, Any]]) -> str:
    """A line for each metric, a column for each recipe or gain."""
    cells = {(row["recipe"], row["metric"]): cell(row) for row in rows}
    recipes, metrics = (list(dict.fromkeys(row[key] for row in rows)) for key in ("recipe", "metric"))
    return markdown(["", *recipes], [[m, *(cells.get((recipe, m), "") for recipe in recipes)] for m in metrics])


def cell(row: dict[str, Any]) -> str:
    return f"{row['mean']:.1f} (one seed)" if row["ci95"] is None else f"{row['mean']:.1f} ± {row['ci95']:.1f}"


def systems_table(folder: Path) -> str:
    """A line for each claim whose JSON file lies in a folder."""
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}
    lines = [
        [record["system"], f"`{name}`: {record['claim']}", record["verdict"], str(seeds_of(record)), record["date"]]
        for name, record in found.items()
    ]
    return markdown(["system", "claim", "verdict", "seeds", "date"], lines)


def seeds_of(record: dict[str, Any]) -> int:
    return max((row["seeds"] for row in record["rows"]), default=0)
