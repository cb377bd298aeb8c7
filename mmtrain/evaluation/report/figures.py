"""The report's figures, narrow enough for a phone; a desktop page shows several side by side."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from mmtrain.display.messages import printable
from mmtrain.evaluation.ranking.ranks import DIRECTIONS

INK, GREY, RULE = "#1f2933", "#67727e", "#d5dae0"
RIGHT, WRONG = "#1d4e79", "#c26a2d"
SEQUENTIAL = LinearSegmentedColormap.from_list("paper", ["#ffffff", "#c9dbea", "#6f9dc6", RIGHT])
WIDTH = 4.6  # inches
LANGUAGES_A_FIGURE = 38
CURVES = 8
CLOCKS = ("samples_seen", "samples", "step", "epoch")

Curves = Mapping[str, tuple[Sequence[float], Sequence[float]]]


def report_figures(
    metrics: Mapping[str, Any],
    score_histogram: Mapping[str, Sequence[float]] | None = None,
    similarity: np.ndarray | None = None,
    curves: Path | str | Curves | None = None,
) -> dict[str, Figure]:
    """Figures by caption, for the report and for a logger.

    metrics is what `retrieval_metrics` returns; similarity [K, K] compares the languages in the metrics' order; curves
    is a metrics.csv or {name: (x, y)}.
    """
    figures = recall_bars(metrics)
    if score_histogram:
        figures["Scores of right and of random wrong pairs"] = score_spread(score_histogram)
    languages = metrics["rank_correlation"]["languages"]
    if len(languages) > 1:
        if similarity is not None:
            figures["Similarity of captions of the same image (mean cosine)"] = language_map(languages, similarity)
        for direction in DIRECTIONS:
            table = np.array(metrics["rank_correlation"][direction], dtype=float)
            if np.isfinite(table).any():
                title = f"Rank correlation between languages, {direction.replace('_', ' ')} (Spearman)"
                figures[title] = language_map(languages, table)
    if isinstance(curves, str | Path):
        curves = read_curves(curves)
    if curves:
        figures["Training curves"] = training_curves(curves)
    return figures


def recall_bars(metrics: Mapping[str, Any]) -> dict[str, Figure]:
    """Recall of every language, best first, with the interval of the smallest k."""
    recall_at = metrics["protocol"]["recall_at"]
    first = f"R@{recall_at[0]}"
    by_language = {language: each for language, each in metrics["text_to_image"].items() if language != "mean"}
    languages = sorted(by_language, key=lambda language: -by_language[language][first])
    parts = -(-len(languages) // LANGUAGES_A_FIGURE)
    names = ", ".join(f"R@{k}" for k in recall_at)
    figures = {}
    for part, some in enumerate(np.array_split(np.array(languages, dtype=object), parts)):
        figure = _figure(0.75 + 0.185 * len(some))
        panels = figure.subplots(1, 2, sharey=True)
        for axes, direction in zip(panels, DIRECTIONS, strict=True):
            _recall_panel(axes, [metrics[direction][language] for language in some], recall_at)
            axes.set_title(direction.replace("_", " ").capitalize(), fontsize=9, color=INK, loc="left")
        panels[0].set_yticks(range(len(some)), list(map(printable, some)), parse_math=False)
        panels[0].set_ylim(len(some) - 0.4, -0.6)
        numbered = f" ({part + 1} of {parts})" if parts > 1 else ""
        figures[
            f"Recall by language{numbered}: {names} in percent, dark to light; the line is the 95 % interval of {first}"
        ] = figure
    return figures


def _recall_panel(axes: Axes, figures: Sequence[Mapping[str, Any]], recall_at: Sequence[int]) -> None:
    rows = range(len(figures))
    shades = dict(zip(recall_at, SEQUENTIAL(np.linspace(1, 0.35, len(recall_at))), strict=True))
    for k in sorted(recall_at, reverse=True):
        axes.barh(rows, [each[f"R@{k}"] for each in figures], height=0.72, color=shades[k])
    interval = f"R@{min(recall_at)}_ci95"
    for row, each in enumerate(figures):
        if interval in each:
            axes.plot(each[interval], [row, row], color=INK, linewidth=1, solid_capstyle="butt")
    axes.set_xlim(0, 100)
    axes.set_xticks([0, 50, 100])
    _plain(axes, grid="x")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def score_spread(histogram: Mapping[str, Sequence[float]]) -> Figure:
    figure = _figure(2.5)
    axes = figure.subplots()
    for name, label, colour in (("negative", "wrong, drawn at random", WRONG), ("positive", "right", RIGHT)):
        axes.stairs(histogram[name], histogram["edges"], fill=True, color=colour, alpha=0.35)
        axes.stairs(histogram[name], histogram["edges"], color=colour, linewidth=1.2, label=label)
    axes.set_xlabel("score", fontsize=8, color=GREY)
    axes.set_ylabel("share of pairs", fontsize=8, color=GREY)
    axes.legend(frameon=False, fontsize=8, labelcolor=INK)
    _plain(axes, grid="y")
    return figure


def language_map(languages: Sequence[str], table: np.ndarray) -> Figure:
    """A heat map of languages against languages [K, K] with an empty diagonal."""
    table = np.ma.masked_invalid(np.where(np.eye(len(languages), dtype=bool), np.nan, table))
    figure = _figure(WIDTH * 0.93)
    axes = figure.subplots()
    image = axes.imshow(table, cmap=SEQUENTIAL, interpolation="nearest")
    small = max(2.6, min(8, 260 / len(languages)))
    names = [printable(language) for language in languages]
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=small, parse_math=False)
    axes.set_yticks(range(len(names)), names, fontsize=small, parse_math=False)
    axes.tick_params(length=0, labelcolor=INK, pad=2)
    axes.spines[:].set_visible(False)
    if len(languages) <= 10 and table.count():
        middle = (table.min() + table.max()) / 2
        for row, column in np.argwhere(~table.mask):
            value = table[row, column]
            ink = "white" if value > middle else INK
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7, color=ink)
    bar = figure.colorbar(image, ax=axes, shrink=0.7, aspect=28, pad=0.02)
    bar.ax.tick_params(labelsize=7, length=0, labelcolor=GREY)
    bar.outline.set_visible(False)
    return figure


def read_curves(path: Path | str) -> dict[str, tuple[list[float], list[float]]]:
    """The curves of a metrics.csv: a metric in every column, empty in rows without it.

    Raises:
        ValueError: for a file without rows or without a column of `CLOCKS`.
    """
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise ValueError(f"{path}: no rows; a metrics.csv with a header and at least one row is needed")
    clock = next((name for name in CLOCKS if name in rows[0]), None)
    if clock is None:
        raise ValueError(f"{path}: columns {', '.join(rows[0])} hold no clock; one of {', '.join(CLOCKS)} is needed")
    curves = {}
    for name in rows[0]:
        points = [(float(row[clock]), float(row[name])) for row in rows if row[name] and row[clock]]
        points = [point for point in points if np.isfinite(point).all()]
        if name not in CLOCKS and len(points) > 1:
            curves[name] = [x for x, _ in points], [y for _, y in points]
    return curves


def training_curves(curves: Curves) -> Figure:
    """Small panels, at most `CURVES`: losses first, then recalls, then the rest."""

    def kind(name: str) -> int:
        words = name.lower()
        return 0 if "loss" in words else 1 if "r@" in words or "recall" in words else 2

    names = sorted(curves, key=kind)[:CURVES]
    rows = -(-len(names) // 2)
    figure = _figure(0.35 + 1.35 * rows)
    panels = figure.subplots(rows, 2, squeeze=False)
    panels[-1, 1].set_visible(len(names) % 2 == 0)
    for axes, name in zip(panels.flat, names, strict=False):
        axes.plot(*curves[name], color=RIGHT, linewidth=1.2)
        axes.set_title(printable(name), fontsize=8, color=INK, loc="left", parse_math=False)
        _plain(axes, grid="y")
    return figure


def _figure(height: float) -> Figure:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    figure.patch.set_alpha(0)
    return figure


def _plain(axes: Axes, grid: Literal["x", "y"]) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(RULE)
    axes.tick_params(labelsize=8, length=2, color=RULE, labelcolor=INK)
    axes.grid(axis=grid, color=RULE, linewidth=0.5)
    axes.set_axisbelow(True)
