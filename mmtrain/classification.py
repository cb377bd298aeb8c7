"""`mmtrain evaluate --classes` and `--sts`: what a space knows beyond retrieval."""

import argparse
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmtrain.embedding import encode_batch, language_indices, open_shards
from mmtrain.encoder import Encoder
from mmtrain.evaluation.report import write_metrics
from mmtrain.evaluation.sts import Pair, correlations, read_sts
from mmtrain.evaluation.zero_shot import encode_classes, read_classes, read_templates, zero_shot_metrics
from mmtrain.loading import load


def evaluate_classes(
    model: str,
    data: str,
    out: str | Path,
    classes: str | Path,
    *,
    templates: str | Path | None = None,
    task: str | None = None,
    languages: list[str] | None = None,
    batch_size: int = 64,
    workers: int = 2,
    device: str | None = None,
) -> dict[str, Any]:
    """Classifies the pictures of SHARDS by the names of their classes; writes `out`/zero_shot.json, prints the table.

    Args:
        classes: JSON file of class names by language, see `read_classes`.
        templates: JSON file of prompt templates by language, see `read_templates`; default: the bare name.
        task: Which of the samples' labels says the class; default: the only one.
        languages: Languages to measure; default: those of the file that the model was trained on.

    Raises:
        ValueError: one line, for a file that cannot be read, shards without the labels, a class that no sample has.
    """
    named = read_classes(classes)
    prompts = None if templates is None else read_templates(templates)
    encoder = load(model, device=device or ("cuda" if torch.cuda.is_available() else "cpu"))
    chosen = _chosen(encoder, sorted(named), languages, classes, prompts)
    images, labels, task = _labelled(encoder, data, task, batch_size, workers)
    for language in chosen:
        unknown = [label for label in named[language] if label not in set(labels)]
        if unknown:
            raise ValueError(
                f"--classes: {classes}: {language} names class {unknown[0]!r} ({len(unknown)} in all), which no sample"
                f" of {data} has under {task!r}; it has {', '.join(sorted(set(labels))[:10])} ..."
            )
    encoded = {
        language: encode_classes(
            lambda texts, language=language: encoder.encode_text(texts, language),
            named[language],
            ("{}",) if prompts is None else prompts[language],
        )
        for language in chosen
    }
    metrics = zero_shot_metrics(images, labels, encoded, similarity=encoder.metric)
    metrics["protocol"] = {"model": str(model), "data": data, "task": task, "classes": str(classes)}
    metrics["protocol"] |= {"templates": str(templates) if templates else None, "images": len(images)}
    Path(out).mkdir(parents=True, exist_ok=True)
    write_metrics(Path(out) / "zero_shot.json", metrics)
    print_classes(metrics)
    return metrics


def evaluate_sts(
    model: str, data: str, out: str | Path, *, languages: list[str] | None = None, device: str | None = None
) -> dict[str, Any]:
    """Correlates the similarity of sentences with people's; writes `out`/sts.json, prints the table.

    Args:
        data: TSV files joined with ::, see `read_sts`.
        languages: Only pairs of these languages, where the files say; default: all.

    Raises:
        ValueError: one line, for a file that is not as it should be, or no pair in the languages.
    """
    groups: dict[str, list[Pair]] = defaultdict(list)
    for path in data.split("::"):
        for pair in read_sts(path):
            if languages is None or set(pair.languages) <= set(languages):
                name = "-".join(dict.fromkeys(pair.languages))
                groups[f"{Path(path).stem} {name}".strip()].append(pair)
    if not groups:
        raise ValueError(f"--languages: no pair of {data} is in {', '.join(languages or [])} alone")
    encoder = load(model, device=device or ("cuda" if torch.cuda.is_available() else "cpu"))
    figures = {}
    for name, pairs in groups.items():
        rows = [
            encoder.encode_text([getattr(pair, side) for pair in pairs], pairs[0].languages[place] or None)
            for place, side in enumerate(("first", "second"))
        ]
        figures[name] = correlations(*rows, np.array([pair.score for pair in pairs]), encoder.metric)
    metrics = {"protocol": {"model": str(model), "data": data, "similarity": encoder.metric}, "sts": figures}
    Path(out).mkdir(parents=True, exist_ok=True)
    write_metrics(Path(out) / "sts.json", metrics)
    print_sts(figures)
    return metrics


def run_other(options: argparse.Namespace) -> None:
    """Runs what `mmtrain evaluate` measures instead of retrieval; ValueError for options that say nothing there."""
    for name in ("protocol", "captions", "text_to_text", "rerank", "zero_shot"):
        if getattr(options, name):
            raise ValueError(f"--{name}: says nothing about {'--sts' if options.sts else '--classes'}; without it")
    shared = {"languages": options.languages, "device": options.device}
    if options.sts:
        evaluate_sts(options.model, options.data, options.out, **shared)
        return
    evaluate_classes(
        options.model,
        options.data,
        options.out,
        options.classes,
        templates=options.templates,
        task=options.task,
        batch_size=options.batch_size,
        workers=options.workers,
        **shared,
    )


def print_classes(metrics: dict[str, Any]) -> None:
    """The accuracies by language, each beside its number of classes, for a terminal."""
    from rich.console import Console
    from rich.table import Table

    common = metrics["common"]
    table = Table(title="zero-shot classification, accuracy in percent")
    table.add_column("language")
    of_common = (f"{metrics['common_classes']} common classes\n@1 (95 %)",) if common else ()
    for title in ("classes", "images", "prompts", "@1 (95 %)", "@5", *of_common):
        table.add_column(title, justify="right")
    for language, each in metrics["accuracy"].items():
        counts = [f"{each[name]:,}" for name in ("classes", "images", "prompts")]
        beside = (_with_interval(common[language]),) if common else ()
        table.add_row(language, *counts, _with_interval(each), f"{each['accuracy@5']:.1f}", *beside)
    if common:
        table.add_row("mean", "", "", "", "", "", f"{common['mean']['accuracy@1']:.1f}", style="bold")
    Console().print(table)
    if not common:
        print(f"{metrics['common_classes']} classes are common to all languages: their accuracies do not compare")


def _with_interval(each: dict[str, Any]) -> str:
    low, high = each["accuracy@1_ci95"]
    return f"{each['accuracy@1']:.1f} ({low:.0f} to {high:.0f})"


def print_sts(figures: dict[str, dict[str, Any]]) -> None:
    """Correlations by file and language, for a terminal."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="similarity of sentences, correlation x 100")
    table.add_column("pairs of")
    for title in ("Pearson", "Spearman", "pairs"):
        table.add_column(title, justify="right")
    for name, each in figures.items():
        table.add_row(name, f"{each['pearson']:.1f}", f"{each['spearman']:.1f}", f"{each['pairs']:,}")
    Console().print(table)


def _chosen(
    encoder: Encoder,
    named: list[str],
    languages: list[str] | None,
    path: str | Path,
    prompts: dict[str, list[str]] | None,
) -> list[str]:
    known = languages or encoder.languages or named
    chosen = [language for language in known if language in named]
    missing = [language for language in languages or () if language not in named]
    if missing or not chosen:
        wanted = ", ".join((missing or known)[:20])
        raise ValueError(f"--classes: {path} names no classes in {wanted}; it has {', '.join(named[:20])}")
    if prompts is None:
        return chosen
    bare = [language for language in chosen if language not in prompts]
    if len(bare) == len(chosen):
        raise ValueError(f"--templates: none for {', '.join(bare[:20])}; they are for {', '.join(list(prompts)[:20])}")
    if bare:
        print(f"no templates for {', '.join(bare)}: left out")
    return [language for language in chosen if language in prompts]


def _labelled(
    encoder: Encoder, data: str, task: str | None, batch_size: int, workers: int
) -> tuple[np.ndarray, list[str], str]:
    """Rows [N, D] of the labelled pictures, their labels as written, and the task."""
    from rich.progress import track

    shards = open_shards(encoder, data, None, batch_size, workers)
    indices = language_indices(encoder, shards.languages)
    loader = shards.test_dataloader()
    tasks: list[str] = loader.dataset.tasks
    if not tasks:
        raise ValueError(f'--data: the samples of {data} have no labels; JSON with "labels": {{"<task>": class}}')
    if task is None and len(tasks) > 1:
        raise ValueError(f"--task: {data} labels {', '.join(tasks)}; name one")
    task = tasks[0] if task is None else task
    if task not in tasks:
        raise ValueError(f"--task: {data} does not label {task!r}; it labels {', '.join(tasks)}")
    rows, labels = [], []
    names = shards.label_names.get(task)
    with torch.inference_mode():
        for batch in track(loader, description="embedding", total=len(loader), transient=True):
            shards.evaluated(batch)
            kept = ((batch.rows >= 0) & (batch.labels[task] >= 0)).nonzero()[:, 0]
            image, _ = encode_batch(encoder, batch, indices, torch.zeros_like(batch.present))
            rows.append(image[kept].numpy())
            numbers = batch.labels[task][kept].tolist()
            labels += [str(number) if names is None else names[number] for number in numbers]
    shards.account.check(epoch_end=True)
    if not labels:
        raise ValueError(f"--data: no sample of {data} that can be read is labelled with {task!r}")
    return np.concatenate(rows), labels, task
