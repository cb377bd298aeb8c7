"""`mmtrain evaluate`: a model over shards, then figures and a report."""

import io
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from datamodules import ShardDataModule
from mmtrain.embedding import embed, open_split
from mmtrain.evaluation import rank_retrieval, report_figures, report_parts, summarise, write_metrics, write_report
from mmtrain.loading import load
from mmtrain.loggers import log_report
from mmtrain.validation import Embedded


def evaluate(
    model: str,
    data: str,
    out: str | Path,
    *,
    languages: list[str] | None = None,
    captions: str = "all",
    similarity: str | None = None,
    recall_at: Sequence[int] = (1, 5, 10),
    text_to_text: Sequence[tuple[str, str]] = (),
    batch_size: int = 64,
    workers: int = 2,
    device: str | None = None,
) -> dict[str, Any]:
    """Measures MODEL on SHARDS; writes `out`/metrics.json and `out`/report.html, prints the table, returns the metrics.

    Args:
        languages: Languages to measure; those of the run that the shards have, by default.
        similarity: "cosine" or "asymmetric"; what the model was trained for, by default.

    Raises:
        ValueError: when the shards have none of the languages, or nothing in them can be read.
    """
    encoder = load(model, device=device or ("cuda" if torch.cuda.is_available() else "cpu"))
    shards = open_split(encoder, data, languages, batch_size, workers)
    split = embed(encoder, shards)
    names = np.asarray(shards.languages)
    ranks = rank_retrieval(
        split.images,
        split.texts,
        split.image_of_text,
        names[split.language_of_text],
        recall_at=recall_at,
        captions=captions,
        similarity=similarity or encoder.metric,
        text_to_text=text_to_text,
        device=encoder.device,
    )
    metrics = summarise(ranks)
    metrics["protocol"] |= {"model": str(model), "data": data, "skipped": shards.account.summary()}
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    write_metrics(folder / "metrics.json", metrics)
    curves = Path(model) / "metrics.csv"
    write_report(
        folder / "report.html",
        metrics,
        title=f"Retrieval in {len(ranks.languages)} languages",
        run={"model": str(model), "data": data, "date": date.today().isoformat()},
        curves=curves if curves.is_file() else None,
        **report_parts(ranks, split.images, split.texts, split.captions, _thumbnails(shards, split)),
    )
    log_report(Path(model), metrics, report_figures(metrics))
    print_table(metrics, recall_at)
    print(f"report: {folder / 'report.html'}")
    return metrics


def print_table(metrics: dict[str, Any], recall_at: Sequence[int]) -> None:
    """The figures by language, for a terminal."""
    from rich.console import Console
    from rich.table import Table

    protocol = metrics["protocol"]
    table = Table(title=f"{protocol['images']:,} images, {protocol['texts']:,} captions, recall in percent")
    table.add_column("language")
    for direction in ("text to image", "image to text"):
        for k in recall_at:
            table.add_column(f"{direction}\nR@{k}", justify="right")
    for language in metrics["text_to_image"]:
        figures = [
            f"{metrics[direction][language][f'R@{k}']:.1f}"
            for direction in ("text_to_image", "image_to_text")
            for k in recall_at
        ]
        table.add_row(language, *figures, style="bold" if language == "mean" else None)
    Console().print(table)
    print(f"mean recall {metrics['mean_recall']:.2f} %")


def _thumbnails(shards: ShardDataModule, split: Embedded) -> Callable[[int], bytes]:
    """Picture i as the model sees it, encoded; feature vectors have no picture, their id stands for it."""
    dataset = shards.test_dataloader().dataset

    def thumbnail(image: int) -> bytes:
        pixels = dataset.__getitems__([dataset.at(int(split.rows[image]))]).images[0]
        if pixels.ndim == 3:
            picture = Image.fromarray(pixels.permute(1, 2, 0).numpy())
        else:
            from PIL import ImageDraw

            picture = Image.new("RGB", (96, 64), "white")
            ImageDraw.Draw(picture).text((4, 24), split.ids[image][:14], fill="black")
        file = io.BytesIO()
        picture.save(file, format="WEBP", quality=80)
        return file.getvalue()

    return thumbnail
