"""`mmtrain evaluate --classes`: zero-shot classification of images by the names of their classes."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.batch import Batch
from losses import Embeddings
from mmtrain.display.messages import say
from mmtrain.embedding.one_pass import embed
from mmtrain.embedding.processes import default_device
from mmtrain.embedding.splits import MeasuredShards
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
    trust: Sequence[str] | None = None,
    adapter: str | None = None,
) -> dict[str, Any]:
    """Classifies the images of SHARDS by the names of their classes; writes `out`/zero_shot.json, prints the table.

    Args:
        classes: JSON file of class names by language, see `read_classes`.
        templates: JSON file of prompt templates by language, see `read_templates`; default: the bare name.
        task: Which of the samples' labels says the class; default: the only one.
        languages: Languages to measure; default: those of the file that the model was trained on.
        trust: Modules whose classes the model may name.
        adapter: As of `mmtrain.load`.

    Raises:
        ValueError: one line, for a file that cannot be read, shards without the labels or with none of the classes.
    """
    names = read_classes(classes)
    prompts = None if templates is None else read_templates(templates)
    encoder = load(model, device=device or default_device(), trust=trust, adapter=adapter)
    languages = _measured(encoder, sorted(names), languages, classes, prompts)
    images, labels, task = _labelled(encoder, data, task, batch_size, workers)
    check_labels({language: names[language] for language in languages}, labels, f"{data} under {task!r}", classes)
    encoded = {}
    for language in languages:
        written = ("{}",) if prompts is None else prompts[language]
        encode = partial(encoder.encode_text, language=language, role="query")
        encoded[language] = encode_classes(encode, names[language], written)
    metrics = zero_shot_metrics(images, labels, encoded, similarity=encoder.metric)
    metrics["protocol"] = {"model": str(model), "data": data, "task": task, "classes": str(classes)}
    metrics["protocol"] |= {"templates": str(templates) if templates else None, "images": len(images)}
    write_metrics(Path(out) / "zero_shot.json", metrics)
    print_classes(metrics)
    return metrics


def check_labels(names: Mapping[str, Mapping[str, str]], labels: Sequence[str], where: str, path: str | Path) -> None:
    """Raises ValueError where no label is of a class that a language names; classes without a picture may be."""
    present = set(labels)
    for language, classes in names.items():
        if present.isdisjoint(classes):
            named, labelled = (", ".join(some[:10]) for some in (list(classes), sorted(present)))
            raise ValueError(
                f"--classes: {path}: {language} names {named} ..., and no sample of {where} is one of them; it has"
                f" {labelled} ..."
            )


def _measured(
    encoder: Encoder,
    available: list[str],
    languages: list[str] | None,
    path: str | Path,
    prompts: dict[str, list[str]] | None,
) -> list[str]:
    """`languages`, by default the model's, as far as they have classes and templates."""
    candidates = languages or encoder.languages or available
    measured = [language for language in candidates if language in available]
    missing = [language for language in languages or () if language not in available]
    if missing or not measured:
        absent = ", ".join((missing or candidates)[:20])
        raise ValueError(f"--classes: {path} names no classes in {absent}; it has {', '.join(available[:20])}")
    bare = [] if prompts is None else [language for language in measured if language not in prompts]
    if prompts is not None and len(bare) == len(measured):
        raise ValueError(f"--templates: none for {', '.join(bare[:20])}; they are for {', '.join(list(prompts)[:20])}")
    if bare:
        say(f"no templates for {', '.join(bare)}: left out")
    return [language for language in measured if language not in bare]


def _labelled(
    encoder: Encoder, data: str, task: str | None, batch_size: int, workers: int
) -> tuple[np.ndarray, list[str], str]:
    """Rows [N, D] of the labelled images, their labels as written, and the task."""
    shards = MeasuredShards(encoder, data, None, batch_size, workers, tokenised=False)
    tasks: list[str] = shards.tasks
    if not tasks:
        raise ValueError(f'--data: the samples of {data} have no labels; JSON with "labels": {{"<task>": class}}')
    if task is None and len(tasks) > 1:
        raise ValueError(f"--task: {data} labels {', '.join(tasks)}; name one")
    task = tasks[0] if task is None else task
    if task not in tasks:
        raise ValueError(f"--task: {data} does not label {task!r}; it labels {', '.join(tasks)}")
    images = LabelledImages(task)
    embed(encoder, shards, [images], texts=False)
    if not images.labels:
        raise ValueError(f"--data: no sample of {data} that can be read is labelled with {task!r}")
    names = shards.label_names.get(task)
    labels = [str(number) if names is None else names[number] for number in images.labels]
    return np.concatenate(images.rows), labels, task


class LabelledImages:
    """Collects the rows and labels of images that a task labels."""

    def __init__(self, task: str) -> None:
        self.task, self.rows, self.labels = task, list[np.ndarray](), list[int]()

    def add(self, batch: Batch, embeddings: Embeddings) -> None:
        labels = batch.labels[self.task]
        real = ((batch.rows >= 0) & (labels >= 0)).nonzero()[:, 0]
        assert embeddings.image is not None
        self.rows.append(embeddings.image[real].float().cpu().numpy())
        self.labels += labels[real].tolist()
