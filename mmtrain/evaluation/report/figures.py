"""The report's figures, for a phone as they are; a desktop page shows several side by side."""

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from mmtrain.display.languages import language_name
from mmtrain.display.messages import printable
from mmtrain.evaluation.ranking.ranks import DIRECTIONS

INK, GREY, RULE = "#1f2933", "#5c6773", "#d5dae0"
RIGHT, WRONG = "#1d4e79", "#c26a2d"
SEQUENTIAL = LinearSegmentedColormap.from_list("paper", ["#ffffff", "#c9dbea", "#6f9dc6", RIGHT])
WIDTH, LETTERS = 3.7, 8.4  # inches and points: 355 and 11 pixels of a page, where a figure has its own size
CELL = 0.155  # inches of a language in a figure
LANGUAGES_A_FIGURE = 38
CLOCKS = {"samples_seen": "samples seen", "samples": "samples", "step": "step", "epoch": "epoch"}

Curves = Mapping[str, tuple[Sequence[float], Sequence[float]]]


def report_figures(
    metrics: Mapping[str, Any],
    score_histogram: Mapping[str, Sequence[float]] | None = None,
    similarity: np.ndarray | None = None,
    curves: Path | str | Curves | None = None,
) -> dict[str, Figure]:
    """Figures by caption, for the report and for a logger.

    metrics is what `retrieval_metrics` returns; similarity [K, K] compares the languages in the metrics' order; curves
    is a metrics.csv, or {name: (samples seen, values)} with the names that it has.
    """
    figures = recall_bars(metrics) if DIRECTIONS[0] in metrics else {}
    if score_histogram:
        figures["Scores of right and of random wrong pairs"] = score_spread(score_histogram)
    languages = metrics["rank_correlation"]["languages"] if figures else []
    if len(languages) > 1:
        if similarity is not None:
            figures["Similarity of captions of the same image (mean cosine)"] = language_map(languages, similarity)
        for direction in DIRECTIONS:
            table = np.array(metrics["rank_correlation"][direction], dtype=float)
            if np.isfinite(table).any():
                title = f"Rank correlation between languages, {direction.replace('_', ' ')} (Spearman)"
                figures[title] = language_map(languages, table)
    clock = "samples seen"
    if isinstance(curves, str | Path):
        clock, curves = read_curves(curves)
    return figures | training_curves(curves or {}, clock)


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
        figure = _figure(0.75 + 0.19 * len(some))
        panels = figure.subplots(1, 2, sharey=True)
        for axes, direction in zip(panels, DIRECTIONS, strict=True):
            _recall_panel(axes, [metrics[direction][language] for language in some], recall_at)
            axes.set_title(direction.replace("_", " ").capitalize(), fontsize=LETTERS, color=INK, loc="left")
        panels[0].set_yticks(range(len(some)), list(map(_called, some)), parse_math=False)
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
    _named(axes, "score", "share of pairs")
    return figure


def language_map(languages: Sequence[str], table: np.ndarray) -> Figure:
    """A heat map of languages against languages [K, K] with an empty diagonal; columns by their codes."""
    table = np.ma.masked_invalid(np.where(np.eye(len(languages), dtype=bool), np.nan, table))
    cells = max(CELL * len(languages), 1.9)
    figure = _figure(cells + 1.2, max(WIDTH, cells + 1.5))
    axes = figure.subplots()
    image = axes.imshow(table, cmap=SEQUENTIAL, interpolation="nearest")
    codes, names = list(map(printable, languages)), list(map(_called, languages))
    axes.set_xticks(range(len(codes)), codes, rotation=90, fontsize=LETTERS, parse_math=False)
    axes.set_yticks(range(len(names)), names, fontsize=LETTERS, parse_math=False)
    axes.tick_params(length=0, labelcolor=INK, pad=2)
    axes.spines[:].set_visible(False)
    if len(languages) <= 5 and table.count():
        middle = (table.min() + table.max()) / 2
        for row, column in np.argwhere(~table.mask):
            value = table[row, column]
            ink = "white" if value > middle else INK
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=LETTERS, color=ink)
    bar = figure.colorbar(image, ax=axes, location="bottom", shrink=0.8, aspect=30, pad=0.02, ticks=MaxNLocator(4))
    bar.ax.tick_params(labelsize=LETTERS, length=0, labelcolor=GREY)
    bar.outline.set_visible(False)
    return figure


def read_curves(path: Path | str) -> tuple[str, dict[str, tuple[list[float], list[float]]]]:
    """The name of the clock and the curves of a metrics.csv: a metric in every column, empty in rows without it.

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
    return CLOCKS[clock], curves


def training_curves(curves: Curves, clock: str) -> dict[str, Figure]:
    """The curves that tell how a training went, by caption: losses, validation, rates.

    Of figures by language, those at the least k, the mean is drawn and the language that is worst in the end.
    """
    losses = {name.removeprefix("train/"): curve for name, curve in curves.items() if name.startswith("train/")}
    if len(losses) == 2 and "loss" in losses:  # of one objective, which it is
        losses = {"loss": losses["loss"]}
    panels = {"Training loss; less is better": (losses, "loss")}
    for name in curves:
        figure = name.removeprefix("val/").removesuffix("/mean")
        if name != f"val/{figure}/mean":
            continue
        languages = {each: curves[each] for each in curves if each.startswith(f"val/{figure}/") and each != name}
        base, _, k = figure.partition("@")
        ks = re.findall(rf"^val/{re.escape(base)}@(\d+)/mean$", "\n".join(curves), re.MULTILINE)
        if languages and k in ("", min(ks, key=int, default="")):
            worst = min(languages, key=lambda each: languages[each][1][-1])
            lines = {"mean": curves[name], f"worst: {_called(worst.rpartition('/')[2])}": languages[worst]}
            title = figure.replace("_", " ").replace("/", ", ")
            panels[f"Validation, {title} in percent; more is better"] = lines, "percent"
    rates = {name: curve for name, curve in curves.items() if name.startswith("learning_rate")}
    panels["Learning rate"] = rates, "learning rate"
    speed = {name: curve for name, curve in curves.items() if name == "speed/samples_per_second"}
    panels["Speed of the training"] = speed, "samples a second"
    return {caption: _lines(lines, clock, unit) for caption, (lines, unit) in panels.items() if lines}


def _lines(lines: Curves, clock: str, unit: str) -> Figure:
    figure = _figure(2.3)
    axes = figure.subplots()
    for number, (name, curve) in enumerate(lines.items()):
        label = printable(name) if len(lines) > 1 else None
        axes.plot(*curve, color=(RIGHT, WRONG, GREY)[min(number, 2)], linewidth=1.3, label=label, alpha=0.9)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    _named(axes, clock, unit)
    return figure


def _called(language: str) -> str:
    return language_name(language) or printable(language)


def _named(axes: Axes, across: str, up: str) -> None:
    axes.set_xlabel(across, fontsize=LETTERS, color=GREY)
    axes.set_ylabel(up, fontsize=LETTERS, color=GREY)
    if axes.get_legend_handles_labels()[1]:
        legend = axes.legend(frameon=False, fontsize=LETTERS, labelcolor=INK)
        for text in legend.get_texts():
            text.set_parse_math(False)
    _plain(axes, grid="y")


def _figure(height: float, width: float = WIDTH) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0)
    return figure


def _plain(axes: Axes, grid: Literal["x", "y"]) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(RULE)
    axes.tick_params(labelsize=LETTERS, length=2, color=RULE, labelcolor=INK)
    axes.grid(axis=grid, color=RULE, linewidth=0.5)
    axes.set_axisbelow(True)
