"""Metrics of image-text relations: a fine-tuned head beside similarity alone."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from datamodules.packing.relations import CLASSES
from mmtrain.display.messages import say
from mmtrain.embedding.collected import Embedded
from mmtrain.embedding.one_pass import Thumbnails
from mmtrain.embedding.predictions import PredictedSplit, Predictions
from mmtrain.embedding.splits import MeasuredShards
from mmtrain.evaluation.measuring.relation_zero_shot import by_similarity
from mmtrain.evaluation.metrics.relation import language_gap, relation_metrics
from mmtrain.evaluation.report.examples import RelationExample, RelationResults

MAIN = "relation"
TWO_HEADS = ("represented", "adds")  # the binary tasks that make the four relations
EXAMPLES = 4  # right and as many wrong ones in each language


def relation_results(
    predicted: PredictedSplit, split: Embedded, shards: MeasuredShards, thumbnails: Thumbnails
) -> RelationResults | None:
    """The metrics of every task of the head that the shards label; None, and a printed line, where they label none.

    The metrics hold "relation" (the task of that name, or the four classes of two binary heads, or the first task; by
    language and "mean"), "relation_task" (its name), "relation_tasks" (all of them), "relation_gap" (best minus worst
    language) and "relation_zero_shot" (the same task by similarity alone).
    """
    classes = predicted.head.names
    pairs = predicted.gather()
    assert pairs is not None
    if not classes.keys() & shards.classes.keys():
        say(f"the shards label none of {', '.join(classes)}: relations are not measured")
        return None
    classes = classes | add_four_classes(pairs, classes)
    languages = np.asarray(shards.languages)[pairs.languages]
    tables = relation_tables(pairs, classes, languages)
    zero_shot = {task: by_similarity(task, split, pairs.labels[task], languages, classes[task]) for task in tables}
    main = next(task for task in (MAIN, " and ".join(TWO_HEADS), *tables) if task in tables)
    metrics = {
        "relation": tables[main],
        "relation_task": main,
        "relation_tasks": tables,
        "relation_gap": language_gap(pairs.labels[main], pairs.probabilities[main], languages, pairs.rows),
        "relation_zero_shot": {"similarity": zero_shot[main]},
    }
    tasks = sorted(tables, key=lambda task: task != main)
    systems = {task: {"fine-tuned": tables[task], "zero-shot by similarity": zero_shot[task]} for task in tasks}
    return RelationResults(main, metrics, systems, _examples(pairs, languages, main, classes[main], thumbnails))


def relation_tables(
    pairs: Predictions, classes: Mapping[str, Sequence[str]], languages: np.ndarray
) -> dict[str, dict[str, Any]]:
    """Task -> `relation_metrics`, of every task that some pair has a label of; languages are those of the pairs [N]."""
    return {
        task: relation_metrics(
            pairs.labels[task], pairs.probabilities[task], languages, groups=pairs.rows, classes=classes[task]
        )
        for task in pairs.labels
        if (pairs.labels[task] >= 0).any()
    }


def add_four_classes(split: Predictions, classes: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """Adds the task "represented and adds" to predictions of these two binary tasks; returns its classes, or {}.

    Its four classes are those of Vempala and Preotiuc-Pietro (ACL 2019): 2 (1 - represented) + adds, each with the
    product of the two heads' probabilities. A pair that lacks either label has none.
    """
    if not all(classes.get(task) == ["0", "1"] for task in TWO_HEADS):
        return {}
    name = " and ".join(TWO_HEADS)
    represented, adds = (split.labels[task] for task in TWO_HEADS)
    split.labels[name] = np.where((represented >= 0) & (adds >= 0), 2 * (1 - represented) + adds, -1)
    represented, adds = (split.probabilities[task] for task in TWO_HEADS)
    split.probabilities[name] = (represented[:, ::-1, None] * adds[:, None, :]).reshape(-1, 4)
    return {name: list(CLASSES)}


def _examples(
    pairs: Predictions, languages: np.ndarray, task: str, classes: Sequence[str], thumbnails: Thumbnails
) -> list[RelationExample]:
    labels, probabilities = pairs.labels[task], pairs.probabilities[task]
    predicted = probabilities.argmax(1)
    random = np.random.default_rng(0)
    examples = []
    for language in sorted(set(languages.tolist())):
        for right in (True, False):
            places = np.flatnonzero((languages == language) & (labels >= 0) & ((predicted == labels) == right))
            for place in random.permutation(places)[:EXAMPLES]:
                image, text = thumbnails[int(pairs.rows[place])], pairs.captions[place]
                label, answer = classes[labels[place]], classes[predicted[place]]
                confidence = float(probabilities[place].max())
                examples.append(RelationExample(image, text, language, label, answer, confidence))
    return examples


def relation_figures(split: Predictions | None, languages: Sequence[str]) -> dict[str, float]:
    """Metrics for the log: <task>/macro_f1/<language or mean>, and macro_f1, their mean; {} without labels."""
    if split is None:
        return {}
    names = np.asarray(languages)[split.languages]
    figures: dict[str, Any] = {}
    for task, rows in split.probabilities.items():
        labels = split.labels[task]
        if (labels >= 0).any():
            table = relation_metrics(labels, rows, names, groups=split.rows, bootstrap=0)
            figures |= {f"{task}/macro_f1/{language}": each["macro_f1"] for language, each in table.items()}
    means = [value for name, value in figures.items() if name.endswith("/mean")]
    return figures | ({"macro_f1": float(np.mean(means))} if means else {})
