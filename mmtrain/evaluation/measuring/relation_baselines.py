"""`mmtrain evaluate --baselines`: what stands beside a relation head, from chance to a linear probe of its space."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import softmax

from mmtrain.embedding.collected import Embedded
from mmtrain.embedding.predictions import Predictions
from mmtrain.embedding.splits import MeasuredShards, open_split
from mmtrain.evaluation.measuring.relation import add_four_classes, relation_tables
from mmtrain.evaluation.measuring.relation_zero_shot import DIRECTED, by_similarity
from mmtrain.evaluation.metrics.probe import logistic_regression
from mmtrain.fusion import pair_rows
from mmtrain.models.encoder import Encoder
from mmtrain.models.run_folder import checkpoint_of, read_checkpoint
from mmtrain.models.yaml12 import read_yaml


def open_training_posts(
    encoder: Encoder,
    model: str,
    shards: str | None,
    batch_size: int,
    workers: int,
    label_names: Mapping[str, Sequence[str]],
) -> tuple[str, MeasuredShards]:
    """The posts that the baselines learn from, in the languages that the model was trained in: SHARDS, or those that
    the config in its checkpoint names.

    Raises:
        ValueError: where neither says them, or they have no labels.
    """
    shards, languages = training_shards(model, shards, "--baselines")
    options: dict[str, Any] = {"labelled": True, "label_names": label_names, "option": "--train"}
    posts = open_split(encoder, shards, languages, batch_size, workers, **options)
    if not posts.classes:
        raise ValueError(f"--baselines: {shards} has no labels to learn from; --train SHARDS names posts that do")
    return shards, posts


def training_shards(model: str, shards: str | None, option: str) -> tuple[str, list[str] | None]:
    """SHARDS, or those that the config in a model's checkpoint names, and the languages that it trained in.

    Raises:
        ValueError: where neither says them, naming the option that wants them.
    """
    path = checkpoint_of(Path(model))
    config = read_yaml(read_checkpoint(path)["mmtrain"].get("config") or "") if path is not None else None
    data = ((config or {}).get("data") or {}).get("init_args") or {}
    shards = shards or data.get("train")
    if not isinstance(shards, str):
        raise ValueError(f"{option}: {model} does not name the shards it was trained on; --train SHARDS")
    return shards, data.get("train_languages")


def baseline_tables(
    learnt: MeasuredShards,
    posts: Embedded,
    shards: MeasuredShards,
    split: Embedded,
    tasks: Collection[str] = (),
) -> dict[str, dict[str, dict[str, Any]]]:
    """{task: {system: table of `relation_metrics`}} for every task that both splits label.

    The systems are "chance" (classes drawn as often as the posts have them), "majority class" (their most frequent
    one), "zero-shot by similarity" (where the task says which class the more similar pairs are of) and "linear probe".

    Args:
        learnt, posts: What the baselines learn from, and its rows.
        shards, split: What is measured, and its rows.
        tasks: Those of a head; without any, all are taken.
    """
    languages = np.asarray(shards.languages)[split.language_of_text]
    both = [task for task in tasks or learnt.classes if task in learnt.classes and task in shards.classes]
    both = [task for task in both if (posts.labels[task] >= 0).any()]
    classes = {task: max(learnt.class_names(task), shards.class_names(task), key=len) for task in both}
    said: dict[str, dict[str, np.ndarray]] = {"chance": {}, "majority class": {}, "linear probe": {}}
    for task, names in classes.items():
        counts = np.bincount(posts.labels[task][posts.labels[task] >= 0], minlength=len(names))
        drawn = np.random.default_rng(0).choice(len(names), len(languages), p=counts / counts.sum())
        said["chance"][task] = np.eye(len(names))[drawn]
        said["majority class"][task] = np.eye(len(names))[np.full(len(languages), counts.argmax())]
        weight, bias = linear_probe(posts, task, len(names))
        said["linear probe"][task] = softmax(rows_of_pairs(split) @ weight.T + bias, axis=1)
    tables: dict[str, dict[str, dict[str, Any]]] = {}
    for system, probabilities in said.items():
        labels = {task: split.labels[task] for task in classes}
        pairs = Predictions(split.row_of_text, split.language_of_text, split.captions, labels, probabilities)
        every = classes | add_four_classes(pairs, classes)
        for task, table in relation_tables(pairs, every, languages).items():
            systems = tables.setdefault(task, {})
            if system == "linear probe" and task in DIRECTED:
                systems["zero-shot by similarity"] = by_similarity(task, split, labels[task], languages, every[task])
            systems[system] = table
    return tables


def linear_probe(
    posts: Embedded, task: str, classes: int, class_weights: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Weights [C, 4 D] and bias [C] of one `logistic_regression` on the rows of the labelled pairs.

    Its c is 1 / D: a prior by which logits vary by about 2, whatever D is. On rows of unit length, where `pair_rows`
    scales them, that is scikit-learn's default of 1.

    Args:
        posts: A pair for each of their texts.
        task: Which of their labels.
        classes: C.
        class_weights: float [C]; default: all alike.
    """
    labelled = posts.labels[task] >= 0
    rows, labels = rows_of_pairs(posts)[labelled], posts.labels[task][labelled]
    return logistic_regression(rows, labels, classes, class_weights=class_weights, c=1 / posts.texts.shape[1])


def rows_of_pairs(split: Embedded) -> np.ndarray:
    """What `pair_rows` gives of every text and its picture, float32 [M, 4 D]."""
    images = torch.from_numpy(split.images[split.image_of_text])
    return pair_rows(images, torch.from_numpy(split.texts)).numpy()
