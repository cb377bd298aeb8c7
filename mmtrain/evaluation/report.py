"""metrics.json, and one HTML file that shows it: it opens offline, on a phone and on paper, and asks for nothing
outside itself.
"""

import base64
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure
from PIL import Image

from mmtrain.evaluation.examples import Example, Examples
from mmtrain.evaluation.figures import SEQUENTIAL, Curves, report_figures

PICTURE_SIDE = 104  # pixels; shown at about half of that, so that they stay sharp on a phone
COLUMNS_A_TABLE = 28  # languages beside each other in the table of ranks
DIRECTIONS = {"text_to_image": "Text to image", "image_to_text": "Image to text"}


def write_metrics(path: Path | str, metrics: Mapping[str, Any]) -> None:
    """Write metrics as JSON, NaN and infinity as null; the file appears whole or not at all."""
    _write_whole(Path(path), json.dumps(_plain_json(metrics), ensure_ascii=False, indent=1, allow_nan=False) + "\n")


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
    language_names: Mapping[str, str] | None = None,
    relations: Mapping[str, Mapping[str, Any]] | None = None,
    relation: Any = None,
) -> None:
    """Write the report of `retrieval_metrics` as one HTML file.

    run says what was measured (model, data, date, command, ...) and is shown as it is. examples, score_histogram and
    similarity come from `report_parts`; curves is a metrics.csv or {name: (x, y)}; language_names maps codes to names;
    relations holds the tables of `relation_metrics` by task and system, and relation what
    `mmtrain.relation_evaluation.evaluate_relation` returns, where a head was trained.
    """
    pictures = {image: _picture_uri(data) for image, data in examples.pictures.items()} if examples else {}
    figures = report_figures(metrics, score_histogram, similarity, curves)
    languages = [language for language in metrics["text_to_image"] if language != "mean"]
    write_page(
        path,
        "report.html.jinja",
        title=title,
        run=run,
        metrics=metrics,
        directions=DIRECTIONS,
        recall_at=metrics["protocol"]["recall_at"],
        languages=languages,
        names=language_names or {},
        protocol=protocol_in_words(metrics["protocol"]),
        figures=[(caption, _figure_uri(figure)) for caption, figure in figures.items()],
        examples=_by_language(examples) if examples else {},
        rank_tables=_rank_tables(examples, metrics["rank_correlation"]["languages"]) if examples else [],
        rank_scale=metrics["protocol"]["images"],
        pictures=pictures,
        relations=relations or {},
        relation=relation,
        reranked=metrics.get("rerank"),
    )


def write_page(path: Path | str, template: str, **values: Any) -> None:
    """Renders a template of this folder into one file, whole or not at all."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["shade"] = _shade
    environment.filters["picture"] = _picture_uri
    _write_whole(Path(path), environment.get_template(template).render(values))


def protocol_in_words(protocol: Mapping[str, Any]) -> list[str]:
    """The protocol as sentences for a reader who wants to compare the figures with others."""
    images, texts, used = protocol["images"], protocol["texts"], protocol["texts_used"]
    count = protocol["languages"]
    sentences = [
        f"{images:,} images and {used:,} captions in {count} language{'s' * (count != 1)}"
        + (f" ({texts - used:,} further captions left out)." if used < texts else "."),
        "Every caption of an image counts, as query and as answer."
        if protocol["captions"] == "all"
        else "Only the first caption of an image in each language counts.",
        f"Text to image: a caption is ranked against {protocol['pools']['text_to_image']}. Image to text: an image "
        f"that has a caption in the language is ranked against the {protocol['pools']['image_to_text']}.",
        "Recall is any-positive: a query is a hit at k when at least one right answer is among the first k.",
        f"Search is exact ({protocol['index']} index), by {protocol['similarity']} similarity. Ties count against the "
        f"model: a rank is 1 plus the wrong answers that score at least as high as the best right one, after rounding "
        f"to {protocol['tie_tolerance']:.6f}.",
    ]
    if any(protocol["duplicates"].values()):
        declared = " and ".join(kind for kind, given in protocol["duplicates"].items() if given)
        sentences.append(f"Answers among the declared duplicates ({declared}) count as right.")
    if protocol["images_without_caption"]:
        sentences.append(f"{protocol['images_without_caption']:,} images have no caption; they stay in the pool.")
    for pair, left_out in protocol["excluded"]["text_to_text"].items():
        if left_out:
            sentences.append(f"{pair}: {left_out:,} queries have no right answer in the pool and are left out.")
    bootstrap = protocol["bootstrap"]
    if bootstrap["samples"]:
        sentences.append(
            f"Intervals hold 95 % of {bootstrap['samples']:,} bootstrap resamples of the images "
            f"(seed {bootstrap['seed']})."
        )
    variance = protocol["mean_rank_variance"]
    compared, left_out = variance["images_compared"]["text_to_image"], variance["images_left_out"]["text_to_image"]
    sentences.append(
        f"Rank variance compares the 0-based ranks of one image in its languages (first caption of each, ddof 0): "
        f"{compared:,} images have two languages or more, {left_out:,} do not and are left out."
    )
    return sentences


def _by_language(examples: Examples) -> dict[str, list[list[Example]]]:
    """Per language, its queries in each direction, those answered rightly first."""
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
    parts = max(1, -(-len(languages) // COLUMNS_A_TABLE)) if examples.rank_images else 0
    tables = []
    for columns in np.array_split(np.arange(len(languages)), parts) if parts else ():
        ranks = [[None if np.isnan(rank) else int(rank) for rank in row] for row in examples.rank_table[:, columns]]
        rows = [(image, row) for image, row in zip(examples.rank_images, ranks, strict=True)]
        tables.append({"languages": [languages[column] for column in columns], "rows": rows})
    return tables


def _shade(rank: int, worst: int) -> str:
    """CSS colours of a cell: white for rank 1, darker with the logarithm of the rank, up to the size of the pool."""
    depth = np.log(rank) / np.log(max(worst, 2))
    red, green, blue, _ = (round(255 * part) for part in SEQUENTIAL(min(1.0, float(depth))))
    return f"background:rgb({red},{green},{blue});color:{'#fff' if depth > 0.55 else '#1f2933'}"


def _figure_uri(figure: Figure) -> str:
    picture = io.BytesIO()
    # Text stays text, in the reader's fonts; without a date the same figures make the same file.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "mmtrain", "font.family": "sans-serif"}):
        figure.savefig(picture, format="svg", metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(picture.getvalue()).decode()


def _picture_uri(data: bytes) -> str:
    picture = Image.open(io.BytesIO(data))
    picture = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    picture.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    small = io.BytesIO()
    picture.save(small, "WEBP", quality=72)
    return "data:image/webp;base64," + base64.b64encode(small.getvalue()).decode()


def _plain_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain_json(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain_json(each) for each in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _write_whole(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)
