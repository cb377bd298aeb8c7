"""`mmtrain evaluate --classes`: pictures told by the names of their classes."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.batch import Batch
from losses import Embeddings
from mmtrain.embedding.one_pass import embed
from mmtrain.embedding.processes import default_device
from mmtrain.embedding.splits import open_shards
from mmtrain.evaluation.metrics.zero_shot import encode_classes, read_classes, read_templates, zero_shot_metrics
from mmtrain.evaluation.report.report import write_metrics
from mmtrain.evaluation.report.tables import print_classes
from mmtrain.models.encoder import Encoder
from mmtrain.models.loading import load


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
    encoder = load(model, device=device or default_device())
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
            partial(encoder.encode_text, language=language),
            named[language],
            ("{}",) if prompts is None else prompts[language],
        )
        for language in chosen
    }
    metrics = zero_shot_metrics(images, labels, encoded, similarity=encoder.metric)
    metrics["protocol"] = {"model": str(model), "data": data, "task": task, "classes": str(classes)}
    metrics["protocol"] |= {"templates": str(templates) if templates else None, "images": len(images)}
    write_metrics(Path(out) / "zero_shot.json", metrics)
    print_classes(metrics)
    return metrics


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
    shards = open_shards(encoder, data, None, batch_size, workers)
    tasks: list[str] = shards.tasks
    if not tasks:
        raise ValueError(f'--data: the samples of {data} have no labels; JSON with "labels": {{"<task>": class}}')
    if task is None and len(tasks) > 1:
        raise ValueError(f"--task: {data} labels {', '.join(tasks)}; name one")
    task = tasks[0] if task is None else task
    if task not in tasks:
        raise ValueError(f"--task: {data} does not label {task!r}; it labels {', '.join(tasks)}")
    pictures = LabelledPictures(task)
    embed(encoder, shards, [pictures], texts=False)
    if not pictures.labels:
        raise ValueError(f"--data: no sample of {data} that can be read is labelled with {task!r}")
    names = shards.label_names.get(task)
    return pictures.stacked(), [str(number) if names is None else names[number] for number in pictures.labels], task


class LabelledPictures:
    """Collects the rows of pictures that a task labels."""

    def __init__(self, task: str) -> None:
        self.task, self.rows, self.labels = task, list[np.ndarray](), list[int]()

    def add(self, batch: Batch, embeddings: Embeddings) -> None:
        labels = batch.labels[self.task]
        real = ((batch.rows >= 0) & (labels >= 0)).nonzero()[:, 0]
        assert embeddings.image is not None
        self.rows.append(embeddings.image[real].float().cpu().numpy())
        self.labels += labels[real].tolist()

    def stacked(self) -> np.ndarray:
        return np.concatenate(self.rows)
