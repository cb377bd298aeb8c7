"""metrics.json, and the one HTML file that shows it."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from datamodules.files import write_whole
from mmtrain.display.html import data_uri, picture_uri, write_page
from mmtrain.evaluation.ranking.protocol_statement import in_words, unequal_pools
from mmtrain.evaluation.ranking.ranks import DIRECTIONS
from mmtrain.evaluation.report.examples import Example, Examples
from mmtrain.evaluation.report.figures import SEQUENTIAL, Curves, report_figures

PICTURE_SIDE = 104  # pixels; shown at about half of that, so that they stay sharp on a phone
TEMPLATES = Path(__file__).parent
COLUMNS_A_TABLE = 28  # languages beside each other in the table of ranks
TITLES = {direction: direction.replace("_", " ").capitalize() for direction in DIRECTIONS}


def write_metrics(path: Path | str, metrics: Mapping[str, Any]) -> None:
    """Writes metrics as JSON, NaN and infinity as null, whole or not at all."""
    text = json.dumps(_plain_json(metrics), ensure_ascii=False, indent=1, allow_nan=False) + "\n"
    write_whole(path, text, errors="backslashreplace")  # half surrogates, as JSON itself spells them


def write_report(
    path: Path | str,
    metrics: Mapping[str, Any],
    *,
    title: str,
    run: Mapping[str, Any],
    examples: Examples | None = None,
    score_histogram: Mapping[str, Sequence[float]] | None = None,
    similarity: np.ndarray | None = None,
    curves: Path | str | Curves | None = None,
    relations: Mapping[str, Mapping[str, Any]] | None = None,
    relation: Any = None,
    questions: Mapping[str, Any] | None = None,
) -> None:
    """Writes the report of `retrieval_metrics` as one HTML file.

    run says what was measured (model, data, date, command, ...) and is shown as it is. examples, score_histogram and
    similarity [K, K] come from `report_parts`; curves is a metrics.csv or {name: (samples seen, values)};
    relations holds the tables of `relation_metrics` by task and system, and relation what
    `mmtrain.evaluation.measuring.relation.relation_results` returns, where a head was trained; questions is what
    `shown_questions` gives. Without captions there are no tables of retrieval.
    """
    captioned = DIRECTIONS[0] in metrics
    examples = examples or Examples([], [], np.empty((0, 0)), {})
    figures = report_figures(metrics, score_histogram, similarity, curves)
    write_page(
        path,
        TEMPLATES / "report.html.jinja",
        filters={"shade": shade, "picture": lambda content: picture_uri(content, PICTURE_SIDE)},
        title=title,
        run=run,
        metrics=metrics,
        directions=TITLES if captioned else {},
        recall_at=metrics["protocol"]["recall_at"],
        languages=[language for language in metrics.get(DIRECTIONS[0], ()) if language != "mean"],
        protocol=in_words(metrics["protocol"]) if captioned else [],
        unequal=unequal_pools(metrics["protocol"]) if captioned else [],
        figures=[(caption, _figure_uri(figure), _pixels(figure)) for caption, figure in figures.items()],
        examples=_by_language(examples),
        rank_tables=_rank_tables(examples, metrics["rank_correlation"]["languages"]) if captioned else [],
        rank_scale=metrics["protocol"]["images"],
        pictures={image: picture_uri(content, PICTURE_SIDE) for image, content in examples.pictures.items()},
        relations=relations or {},
        relation=relation,
        reranked=metrics.get("rerank"),
        probed=metrics.get("probe"),
        questions=questions,
    )


def _by_language(examples: Examples) -> dict[str, list[list[Example]]]:
    """The queries of each language in both directions, those with a right first answer first."""
    ordered = sorted(examples.queries, key=lambda each: each.rank > 1)
    return {
        language: [
            [each for each in ordered if each.language == language and each.direction == direction]
            for direction in DIRECTIONS
        ]
        for language in dict.fromkeys(each.language for each in examples.queries)
    }


def _rank_tables(examples: Examples, languages: Sequence[str]) -> list[dict[str, Any]]:
    """The table of ranks in parts that fit a page; each is {"languages", "rows": [(image, [rank or None])]}."""
    if not examples.rank_images:
        return []
    tables = []
    for columns in np.array_split(np.arange(len(languages)), -(-len(languages) // COLUMNS_A_TABLE)):
        ranks = [[None if np.isnan(rank) else int(rank) for rank in row] for row in examples.rank_table[:, columns]]
        rows = list(zip(examples.rank_images, ranks, strict=True))
        tables.append({"languages": [languages[column] for column in columns], "rows": rows})
    return tables


def shade(rank: int, worst: int) -> str:
    """CSS colours of a cell: white for rank 1, darker with the logarithm of the rank, up to the size of the pool."""
    depth = np.log(rank) / np.log(max(worst, 2))
    colour = SEQUENTIAL(min(1.0, float(depth)))[:3]
    # relative luminance of WCAG 2: at 0.179 black and white letters stand out alike, by 4.6
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour]
    light = float(np.dot(linear, [0.2126, 0.7152, 0.0722])) > 0.179
    red, green, blue = (round(255 * part) for part in colour)
    return f"background:rgb({red},{green},{blue});color:{'#000' if light else '#fff'}"


def _pixels(figure: Figure) -> list[int]:
    """Width and height of a figure in a page."""
    return [round(96 * inches) for inches in figure.get_size_inches()]


def _figure_uri(figure: Figure) -> str:
    file = io.BytesIO()
    # Text stays text, in the reader's fonts; without a date the same figures make the same file.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "mmtrain", "font.family": "sans-serif"}):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return data_uri(file.getvalue(), "image/svg+xml")


def _plain_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain_json(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain_json(each) for each in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value
