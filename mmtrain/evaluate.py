"""`mmtrain evaluate`: a model over shards, then figures and a report."""

from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datamodules import ShardDataModule
from datamodules.manifests import as_shards
from mmtrain.embedding import embed, open_split
from mmtrain.encoder import Encoder
from mmtrain.evaluation import (
    RetrievalRanks,
    language_similarity,
    rank_retrieval,
    report_figures,
    report_parts,
    score_histogram,
    summarise,
    write_metrics,
    write_report,
)
from mmtrain.evaluation.protocols import Protocol, named_protocol
from mmtrain.foreign import is_foreign
from mmtrain.loading import load
from mmtrain.loggers import log_report
from mmtrain.relation_evaluation import evaluate_relation, evaluate_zero_shot, print_relation
from mmtrain.relation_loading import relation_of
from mmtrain.relation_zero_shot import read_prompts
from mmtrain.reranking import print_reranked, rerank_retrieval
from mmtrain.thumbnails import thumbnail
from mmtrain.validation import Embedded


def evaluate(
    model: str,
    data: str,
    out: str | Path,
    *,
    protocol: str | None = None,
    images: str | None = None,
    languages: list[str] | None = None,
    captions: str | None = None,
    similarity: str | None = None,
    recall_at: Sequence[int] = (1, 5, 10),
    text_to_text: Sequence[tuple[str, str]] = (),
    rerank: int | None = None,
    zero_shot: str | None = None,
    prompts: str | Path | None = None,
    batch_size: int = 64,
    workers: int = 2,
    device: str | None = None,
) -> dict[str, Any]:
    """Measures MODEL on SHARDS; writes `out`/metrics.json and `out`/report.html, prints the table, returns the metrics.

    Args:
        data: SHARDS, or a manifest in JSON Lines; with a protocol also the data set's own files; what is no shards is
            packed into the cache once.
        protocol: The name of a published test set, see `mmtrain.evaluation.protocols`.
        images: Where the pictures of the data set's own files lie; with the files, by default.
        languages: Languages to measure; those of the run that the shards have, by default.
        captions: "all" (the default) or "first"; a protocol says it itself.
        similarity: "cosine" or "asymmetric"; what the model was trained for, by default.
        rerank: Sort the best so many answers of each query again by the model's matching head.
        zero_shot: A task that the shards label, to be told by similarity alone (and by prompts, where given).
        prompts: JSON file {class: text about the picture, with {text} for the caption}.

    A model of `mmtrain.RelationModule` is measured on the tasks it was trained for too, where the shards label them.

    Raises:
        ValueError: when the shards have none of the languages, or nothing in them can be read; a model without a
            matching head, a task that nobody labelled.
    """
    if Path(out).exists() and not Path(out).is_dir():
        raise ValueError(f"--out: {out} is a file; a folder for metrics.json and report.html")
    measured = _protocol(protocol, captions, images)
    if measured is not None and rerank is not None:
        raise ValueError(f"--rerank: {rerank} sorts the answers of the whole collection; it goes without --protocol")
    if prompts is not None and zero_shot is None:
        raise ValueError(f"--prompts: {prompts} says classes of a task; it needs --zero_shot TASK")
    encoder = load(model, device=device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if measured is not None:
        data = measured.shards(data, images)
    elif Path(data).suffix in (".csv", ".tsv"):
        raise ValueError(f"--data: {data} is a table, not shards; mmtrain pack csv makes shards of it")
    else:
        data = as_shards(data, "--data", None)
    shards = open_split(encoder, data, languages, batch_size, workers)
    split = embed(encoder, shards)
    options = {"similarity": similarity or encoder.metric, "text_to_text": text_to_text, "recall_at": recall_at}
    ranks, metrics = measure_split(encoder, shards, split, measured, captions=captions or "all", **options)
    relation, relations = None, {}
    if not is_foreign(model) and (classifier := relation_of(model, encoder)) is not None:
        relation = evaluate_relation(classifier, data, shards.languages, batch_size=batch_size, workers=workers)
        if relation is not None:
            metrics |= relation.metrics
            relations = dict(relation.systems)
    if zero_shot is not None:
        templates = None if prompts is None else read_prompts(prompts)
        reading = {"prompts": templates, "batch_size": batch_size, "workers": workers}
        metrics["zero_shot"] = evaluate_zero_shot(encoder, data, zero_shot, shards.languages, **reading)
        tables = {f"zero-shot by {name}": each for name, each in metrics["zero_shot"].items()}
        relations[zero_shot] = relations.get(zero_shot, {}) | tables
    if rerank is not None:
        metrics["rerank"] = rerank_retrieval(model, encoder, shards, split, rerank, recall_at)
    metrics["protocol"] |= {"model": str(model), "data": data, "skipped": _skipped(shards)}
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    write_metrics(folder / "metrics.json", metrics)
    curves, count = Path(model) / "metrics.csv", len(ranks.languages)
    write_report(
        folder / "report.html",
        metrics,
        title=f"{'Relations and retrieval' if relations else 'Retrieval'} in {count} language{'s' * (count != 1)}",
        run={"model": str(model), "data": data, "date": date.today().isoformat()}
        | ({} if measured is None else {"protocol": str(measured)}),
        curves=curves if curves.is_file() else None,
        relations=relations,
        relation=relation,
        **_report_parts(ranks, shards, split),
    )
    log_report(Path(model), metrics, report_figures(metrics))
    print_table(metrics, recall_at)
    if measured is not None:
        _print_protocol(metrics["protocol"])
    for task, systems in relations.items():
        print_relation(task, systems)
    if rerank is not None:
        print_reranked(metrics["rerank"], recall_at)
    print(f"report: {folder / 'report.html'}")
    return metrics


def measure_split(
    encoder: Encoder,
    shards: ShardDataModule,
    split: Embedded,
    protocol: Protocol | None = None,
    *,
    captions: str = "all",
    **options: Any,
) -> tuple[RetrievalRanks, dict[str, Any]]:
    """Ranks and the contents of metrics.json of an embedded split; options are those of `rank_retrieval`."""
    names = np.asarray(shards.languages)[split.language_of_text]
    columns = (split.images, split.texts, split.image_of_text, names)
    if protocol is not None:
        return protocol.measure(*columns, split.ids, device=encoder.device, **options)
    ranks = rank_retrieval(*columns, captions=captions, device=encoder.device, **options)
    return ranks, summarise(ranks)


def _protocol(name: str | None, captions: str | None, images: str | None) -> Protocol | None:
    if name is None:
        if images is not None:
            raise ValueError(f"--images: {images} says where a data set's own pictures lie; it needs --protocol")
        return None
    protocol = named_protocol(name)
    if captions not in (None, protocol.captions):
        raise ValueError(f"--captions: {protocol} counts {protocol.captions} captions, not {captions}; another variant")
    return protocol


def _skipped(shards: ShardDataModule) -> dict[str, Any]:
    """What could not be read, of all samples of the split; said in a line where there is any."""
    account, lost = shards.account.summary(), shards.account.lost.total()
    tried = len(shards.test_dataloader().dataset) + lost
    if account["skipped"]:
        causes = ", ".join(f"{count:,} {cause}" for cause, count in account["causes"].items())
        print(f"{account['skipped']:,} of {tried:,} samples could not be read ({causes}) and are not measured")
    return account | {"tried": tried, "rate": round(account["skipped"] / max(tried, 1), 6)}


def _report_parts(ranks: RetrievalRanks, shards: ShardDataModule, split: Embedded) -> dict[str, Any]:
    if "count" not in ranks.protocol["pools"]:
        return report_parts(ranks, split.images, split.texts, split.captions, _thumbnails(shards, split))
    # no query grids: they show answers from all images, while the ranks are among those of a pool
    return {
        "score_histogram": score_histogram(ranks, split.images, split.texts),
        "similarity": language_similarity(ranks, split.texts),
    }


def _print_protocol(protocol: dict[str, Any]) -> None:
    print(f"protocol {protocol['name']}/{protocol['variant']}, {protocol['captions']} captions, {protocol['figures']}")
    if not protocol["complete"]:
        absent = f", without {', '.join(protocol['languages_absent'])}" if protocol["languages_absent"] else ""
        print(
            f"not the {protocol['expected']['images']:,} pictures of the test set: {protocol['images']:,} here{absent};"
            " published figures do not compare"
        )
    for reference in protocol["comparable"]:
        print(f"comparable ({reference['provenance']}): {reference['source']}: {reference['figures']}")


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
    """Picture i as the model sees it, encoded."""
    dataset = shards.test_dataloader().dataset

    def picture(image: int) -> bytes:
        pixels = dataset.__getitems__([dataset.at(int(split.rows[image]))]).images[0]
        return thumbnail(pixels, split.ids[image])

    return picture
