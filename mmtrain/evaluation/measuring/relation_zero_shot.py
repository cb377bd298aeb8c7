"""Image-text relations without training: by the similarity of image and text, and by prompts about both."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import softmax

from mmtrain.display.messages import first_line
from mmtrain.embedding.collected import Embedded
from mmtrain.embedding.splits import MeasuredShards
from mmtrain.evaluation.metrics.relation import relation_metrics
from mmtrain.models.encoder import Encoder

RISING = ("represented",)  # tasks whose last class is that of the most similar pairs
DIRECTED = (*RISING, "adds", "relation", "represented and adds")  # of the others nobody knows; their first is taken


def class_templates(shards: MeasuredShards, task: str, prompts: Mapping[str, str]) -> list[str]:
    """The prompts of a task's classes, in their order.

    Args:
        shards: The labelled split.
        prompts: Class -> a text about the image in which {text} stands for the post's.

    Raises:
        ValueError: for a task that nobody labelled, or a class without a prompt.
    """
    if task not in shards.classes:
        raise ValueError(
            f"--zero_shot: nobody labelled {task!r}; labelled are {', '.join(shards.classes) or 'no tasks'}"
        )
    classes = shards.class_names(task)
    if prompts and (missing := [name for name in classes if name not in prompts]):
        raise ValueError(f"--prompts: no prompt for class {missing[0]!r} of {task}; it has {', '.join(prompts)}")
    return [prompts[name] for name in classes if prompts]


def zero_shot_results(
    encoder: Encoder,
    shards: MeasuredShards,
    split: Embedded,
    task: str,
    templates: Sequence[str] = (),
    answers: np.ndarray | None = None,
) -> dict[str, Any]:
    """The tables of a task without a head: {"similarity": table}, with "prompt" where there are templates, and
    "captioner" where a decoder judged them as answers.

    Args:
        shards: The labelled split.
        split: Its rows.
        templates: See `class_templates`.
        answers: Probabilities of the classes [M, C], by a decoder.
    """
    classes = shards.class_names(task)
    languages, labels = np.asarray(shards.languages)[split.language_of_text], split.labels[task]
    results = {"similarity": by_similarity(task, split, labels, languages, classes)}
    found = {} if answers is None else {"captioner": answers}
    if templates:
        images = split.images[split.image_of_text]
        found = {"prompt": prompt_probabilities(encoder, images, split.captions, languages, templates)} | found
    for name, probabilities in found.items():
        results[name] = relation_metrics(labels, probabilities, languages, groups=split.row_of_text, classes=classes)
    return results


def by_similarity(
    task: str, split: Embedded, labels: np.ndarray, languages: np.ndarray, classes: Sequence[str]
) -> dict[str, Any]:
    """The table of a task by similarity alone, among the labelled pairs; without confidence there is no ECE."""
    pairs = np.flatnonzero(labels >= 0)
    labels, languages = labels[pairs], languages[pairs]
    scores = (split.images[split.image_of_text[pairs]] * split.texts[pairs]).sum(1)
    probabilities = similarity_probabilities(scores, languages, len(classes), rising=task in RISING)
    table = relation_metrics(labels, probabilities, languages, groups=split.row_of_text[pairs], classes=classes)
    return {language: figures | {"ece": None} for language, figures in table.items()}


def similarity_probabilities(
    scores: np.ndarray, languages: np.ndarray, classes: int, *, rising: bool = False
) -> np.ndarray:
    """Classes in the order of similarity: the most similar pairs of a language get class 0, the least the last one.

    Without labels there is no threshold to learn; each class gets an equal share of the pairs.

    Args:
        scores: float [N], similarity of image and text.
        languages: [N]; scores are compared within a language, since languages differ in how similar anything is.
        classes: C.
        rising: The other way round: the most similar pairs get the last class.

    Returns:
        float64 [N, C], 1 at the class.
    """
    predicted = np.zeros(len(scores), np.int64)
    for language in set(languages.tolist()):
        places = np.flatnonzero(languages == language)
        order = places[np.argsort(scores[places] if rising else -scores[places], kind="stable")]
        predicted[order] = np.arange(len(order)) * classes // len(order)
    return np.eye(classes)[predicted]


def prompt_probabilities(
    encoder: Encoder, images: np.ndarray, captions: Sequence[str], languages: np.ndarray, templates: Sequence[str]
) -> np.ndarray:
    """The softmax over the similarities of an image and each class's prompt (CLIP's zero-shot, Radford et al. 2021).

    Args:
        images: float32 [N, D], rows of the space.
        captions: N texts, for {text} of a template.
        languages: [N], codes.
        templates: One a class.

    Returns:
        float32 [N, C].
    """
    scores = np.empty((len(captions), len(templates)), np.float32)
    for language in set(languages.tolist()):
        places = np.flatnonzero(languages == language)
        for column, template in enumerate(templates):
            texts = encoder.encode_text(
                [template.replace("{text}", captions[int(i)]) for i in places], language, role="query"
            )
            scores[places, column] = (images[places] * texts).sum(1)
    return softmax(scores * (encoder.scale or 100.0), axis=1)


def read_prompts(path: str | Path) -> dict[str, str]:
    """Class -> template of a JSON file.

    Raises:
        ValueError: one line, for a file that is no such object.
    """
    try:
        prompts = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"--prompts: {path} cannot be read ({first_line(error)})") from error
    if not isinstance(prompts, dict) or not all(isinstance(text, str) for text in prompts.values()):
        raise ValueError(f'--prompts: {path} is no object of strings, such as {{"0": "a picture of {{text}}"}}')
    return prompts
