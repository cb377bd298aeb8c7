"""Do two benchmarks agree? Correlations of two figures over languages within a model, over models within a language."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import pearsonr, rankdata

from mmtrain.evaluation.metrics.bootstrap import DRAWS, interval95

COUNTS = ("classes", "images", "queries", "n")  # of an entry of metrics.json, as far as it has them
SUMMARIES = ("mean", "groups")  # beside languages
FEWEST = 4  # pairs, for an interval


@dataclass(frozen=True)
class Figures:
    """Two figures of some models in some languages.

    Attributes:
        models: M names.
        languages: L languages.
        tables: The two figures, float64 [M, L] each, NaN where a model lacks one.
        counts: By language how many things each of the figures is of, such as {"classes": 100}.
        left_out: Models, and files without a model's name, that lack one of the figures or both.
    """

    models: list[str]
    languages: list[str]
    tables: tuple[np.ndarray, np.ndarray]
    counts: dict[str, tuple[dict[str, float], dict[str, float]]]
    left_out: list[str]


def read_figures(files: Sequence[str], figure: str, other: str) -> Figures:
    """Two figures from metrics.json, zero_shot.json and the like.

    A file that has both is of a model by itself; files that have one of them are joined where their "protocol" names
    the same model.

    Args:
        figure: Where it is in a file, "mean" in the place of the language: "questions.mean.nDCG@10".
        other: Likewise.

    Raises:
        ValueError: one line, for a file that cannot be read, a figure of one model in two files, and where nothing has
            both figures.
    """
    found: dict[str, list[dict[str, Mapping[str, Any]]]] = {}
    twice: dict[str, str] = {}
    for file in files:
        metrics = _read(Path(file))
        entries = [_entries(metrics, figure, "--figure"), _entries(metrics, other, "--with")]
        protocol = metrics.get("protocol")
        named = protocol.get("model") if isinstance(protocol, dict) else None
        model = file if all(entries) or not any(entries) or named is None else str(named)
        joined = found.get(model, [{}, {}])
        for name, old, new in zip((figure, other), joined, entries, strict=True):
            if old and new:
                twice.setdefault(model, f"{file} has {name} of {model}, which an earlier file has too; one of them")
        found[model] = [old or new for old, new in zip(joined, entries, strict=True)]
    left_out = [model for model, entries in found.items() if not all(entries)]
    found = {model: entries for model, entries in found.items() if all(entries)}
    if not found:
        raise ValueError(f"--metrics: none of {', '.join(files[:5])} has {figure} and {other}")
    if told := next((twice[model] for model in found if model in twice), None):
        raise ValueError(f"--metrics: {told}")
    languages = sorted({language for one, two in found.values() for language in one.keys() & two.keys()})
    if not languages:
        raise ValueError(f"--metrics: {figure} and {other} are of no common language")
    tables = tuple(
        np.array(
            [[each[side].get(language, {}).get(name, np.nan) for language in languages] for each in found.values()]
        )
        for side, name in enumerate((figure.rpartition(".")[2], other.rpartition(".")[2]))
    )
    counts: dict[str, Any] = {
        language: tuple(
            next(({name: each[name] for name in COUNTS if name in each} for each in of_models if each), {})
            for of_models in ([entries[side].get(language) for entries in found.values()] for side in (0, 1))
        )
        for language in languages
    }
    return Figures(list(found), languages, (tables[0], tables[1]), counts, left_out)


def correlations(figures: Figures, *, samples: int = DRAWS, seed: int = 0) -> dict[str, Any]:
    """{"over_languages": {model: ..., "mean"}, "over_models": {language: ..., "mean"}} of the two figures.

    Each has "pearson", "spearman", their "_ci95" (Fisher's transformation, for ranks with Bonett and Wright's (2000)
    variance) and "n"; None where fewer than three pairs, or a constant, tell nothing, and without an interval below
    four. The mean is over models or languages, its interval from resampling what they correlate over.
    """
    first, second = figures.tables
    result = {}
    for over, names, one, two in (
        ("over_languages", figures.models, first, second),
        ("over_models", figures.languages, first.T, second.T),
    ):
        result[over] = {name: correlation(*row) for name, *row in zip(names, one, two, strict=True)}
        result[over]["mean"] = _mean(one, two, samples, seed)
    return result


def correlation(first: np.ndarray, second: np.ndarray) -> dict[str, Any]:
    """Pearson's and Spearman's correlation of two figures [n], those that are NaN left out."""
    first, second = _present(first, second)
    n = len(first)
    entry: dict[str, Any] = {"n": n}
    for name, (r, spread) in _of_pairs(first, second).items():
        entry[name] = None if np.isnan(r) else r
        entry[f"{name}_ci95"] = None
        if n >= FEWEST and not np.isnan(r):
            centre, reach = np.arctanh(np.clip(r, -1 + 1e-12, 1 - 1e-12)), 1.959964 * np.sqrt(spread / (n - 3))
            entry[f"{name}_ci95"] = [float(np.tanh(centre - reach)), float(np.tanh(centre + reach))]
    return entry


def _of_pairs(first: np.ndarray, second: np.ndarray) -> dict[str, tuple[float, float]]:
    """The coefficients, and the variance of Fisher's z times n - 3."""
    if len(first) < 3 or np.ptp(first) < 1e-12 or np.ptp(second) < 1e-12:
        return {"pearson": (np.nan, 1.0), "spearman": (np.nan, 1.0)}
    pearson = float(pearsonr(first, second).statistic)
    spearman = float(pearsonr(rankdata(first), rankdata(second)).statistic)
    return {"pearson": (pearson, 1.0), "spearman": (spearman, 1 + spearman**2 / 2)}


def _mean(first: np.ndarray, second: np.ndarray, samples: int, seed: int) -> dict[str, Any]:
    """The mean over rows of tables [R, n], and its interval over draws of columns."""

    def means(columns: np.ndarray) -> tuple[float, float]:
        rows = [_of_pairs(*_present(one[columns], two[columns])) for one, two in zip(first, second, strict=True)]
        values = np.array([[row["pearson"][0], row["spearman"][0]] for row in rows])
        values = values[~np.isnan(values).any(1)]
        return (float(values[:, 0].mean()), float(values[:, 1].mean())) if len(values) else (np.nan, np.nan)

    n, random = first.shape[1], np.random.default_rng(seed)
    entry: dict[str, Any] = {"n": n}
    whole = means(np.arange(n))
    drawn_columns = random.integers(0, n, (samples if n >= FEWEST else 0, n))
    draws = np.array([means(columns) for columns in drawn_columns]).reshape(-1, 2)
    for column, name in enumerate(("pearson", "spearman")):
        drawn = draws[:, column][~np.isnan(draws[:, column])]
        entry[name] = None if np.isnan(whole[column]) else float(whole[column])
        entry[f"{name}_ci95"] = interval95(drawn) if len(drawn) and entry[name] is not None else None
    return entry


def _present(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    both = ~np.isnan(first + second)
    return first[both], second[both]


def _read(path: Path) -> dict[str, Any]:
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "no JSON"
        raise ValueError(f"--metrics: {path} cannot be read ({reason}); a metrics.json") from None
    if not isinstance(metrics, dict):
        raise ValueError(f"--metrics: {path} holds no JSON object; a metrics.json")
    return metrics


def _entries(metrics: Mapping[str, Any], path: str, option: str) -> dict[str, Mapping[str, Any]]:
    """By language the entries that have a figure; {} where the file has none."""
    *section, language, name = ["", *path.split(".")]
    if language != "mean" or not section[1:]:
        raise ValueError(f"{option}: got {path!r}, expected a figure by language, such as text_to_image.mean.R@1")
    table: Any = metrics
    for key in section[1:]:
        table = table.get(key, {}) if isinstance(table, Mapping) else {}
    if not isinstance(table, Mapping):
        return {}
    return {
        key: entry
        for key, entry in table.items()
        if key not in SUMMARIES and isinstance(entry, Mapping) and isinstance(entry.get(name), int | float)
    }
