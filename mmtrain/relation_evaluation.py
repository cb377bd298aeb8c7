"""What `mmtrain evaluate` says of image-text relations: a fine-tuned head beside the zero-shot baselines."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from datamodules import RelationDataModule
from datamodules.packing.relations import CLASSES
from mmtrain.embedding import encode_batch, language_indices
from mmtrain.encoder import Encoder
from mmtrain.evaluation.relation import language_gap, relation_metrics
from mmtrain.relation_loading import RelationClassifier
from mmtrain.relation_validation import PredictedSplit, Predictions
from mmtrain.relation_zero_shot import RISING, prompt_probabilities, similarity_probabilities

MAIN = "relation"
TWO_HEADS = ("represented", "adds")  # binary tasks that the four relations are made of
EXAMPLES = 4  # of right and of wrong answers in each language


@dataclass(frozen=True)
class RelationExample:
    """One post of the report: its picture as bytes, its text, and what was said of it."""

    picture: bytes
    text: str
    language: str
    label: str
    predicted: str
    confidence: float

    @property
    def right(self) -> bool:
        return self.label == self.predicted


@dataclass(frozen=True)
class RelationResults:
    """`metrics` goes into metrics.json; `task` is the one under its key "relation"; `systems` are the tables of every
    task, the trained head's first; `examples` are of `task`.
    """

    task: str
    metrics: dict[str, Any]
    systems: dict[str, dict[str, dict[str, Any]]]
    examples: list[RelationExample]


def evaluate_relation(
    classifier: RelationClassifier, data: str, languages: Sequence[str], *, batch_size: int = 64, workers: int = 2
) -> RelationResults | None:
    """The figures of every task of the classifier that the shards label; None, saying so, where they label none.

    The metrics hold "relation" (the task of that name, or the four classes that two heads together say, or the first
    task; by language and "mean"), "relation_task" (its name), "relation_tasks" (all of them), "relation_gap" (best
    minus worst language) and "relation_zero_shot" (the same task by similarity in the same space, without any head).

    Raises:
        ValueError: for labels that the head does not know.
    """
    shards = open_labelled(classifier.encoder, data, languages, batch_size, workers, classifier.classes)
    if not classifier.classes.keys() & shards.classes.keys():
        print(f"{data} labels none of {', '.join(classifier.classes)}: relations are not measured")
        return None
    split, similarity = predict_split(classifier, shards)
    known = classifier.classes | add_four_classes(split, classifier.classes)
    names = np.asarray(shards.languages)[split.languages]
    tables = {
        task: relation_metrics(
            split.labels[task], split.probabilities[task], names, groups=split.rows, classes=known[task]
        )
        for task in split.labels
        if (split.labels[task] >= 0).any()
    }
    guessed = {
        task: by_similarity(task, similarity, split.labels[task], names, split.rows, known[task]) for task in tables
    }
    main = next(task for task in (MAIN, " and ".join(TWO_HEADS), *tables) if task in tables)
    metrics = {
        "relation": tables[main],
        "relation_task": main,
        "relation_tasks": tables,
        "relation_gap": language_gap(split.labels[main], split.probabilities[main], names, split.rows),
        "relation_zero_shot": {"similarity": guessed[main]},
    }
    first = [main, *(task for task in tables if task != main)]
    systems = {task: {"fine-tuned": tables[task], "zero-shot by similarity": guessed[task]} for task in first}
    return RelationResults(main, metrics, systems, _examples(shards, split, names, main, known[main]))


def by_similarity(
    task: str, scores: np.ndarray, labels: np.ndarray, languages: np.ndarray, groups: np.ndarray, classes: Sequence[str]
) -> dict[str, Any]:
    """The table of a task told by similarity alone, among the labelled pairs; a guess has no confidence, and no ECE."""
    known = labels >= 0
    scores, labels, languages, groups = (each[known] for each in (scores, labels, languages, groups))
    guessed = similarity_probabilities(scores, languages, len(classes), rising=task in RISING)
    table = relation_metrics(labels, guessed, languages, groups=groups, classes=classes)
    return {language: figures | {"ece": None} for language, figures in table.items()}


def evaluate_zero_shot(
    encoder: Encoder,
    data: str,
    task: str,
    languages: Sequence[str],
    *,
    prompts: Mapping[str, str] | None = None,
    batch_size: int = 64,
    workers: int = 2,
) -> dict[str, Any]:
    """A task by any space that no head was trained on: {"similarity": table, "prompt": table where there are prompts}.

    Args:
        prompts: Class -> a text about the picture in which {text} stands for the post's; one at least for each class
            that the shards have.

    Raises:
        ValueError: for a task that nobody labelled, or a labelled class without a prompt.
    """
    known = None if prompts is None else {task: sorted(prompts, key=lambda name: (len(name), name))}
    shards = open_labelled(encoder, data, languages, batch_size, workers, known)
    if task not in shards.classes:
        raise ValueError(
            f"--zero_shot: nobody labelled {task!r}; labelled are {', '.join(shards.classes) or 'no tasks'}"
        )
    classes = shards.class_names(task)
    rows: dict[str, list[np.ndarray]] = {"labels": [], "names": [], "groups": [], "scores": [], "prompt": []}
    indices = language_indices(encoder, shards.languages)
    with torch.inference_mode():
        for batch in shards.test_dataloader():
            image, texts = encode_batch(encoder, batch, indices, batch.present)
            b, k = (batch.present & (batch.rows >= 0).unsqueeze(1)).nonzero(as_tuple=True)
            names = np.asarray(shards.languages)[batch.languages[b, k].numpy()]
            rows["labels"].append(batch.labels[task][b].numpy())
            rows["groups"].append(batch.rows[b].numpy())
            rows["names"].append(names)
            rows["scores"].append((image[b] * texts[b, k]).sum(1).numpy())
            if prompts is not None:
                captions = [batch.captions[i][j] for i, j in zip(b.tolist(), k.tolist(), strict=True)]
                templates = [prompts[name] for name in classes]
                rows["prompt"].append(prompt_probabilities(encoder, image[b].numpy(), captions, names, templates))
    joined = {name: np.concatenate(parts) for name, parts in rows.items() if parts}
    labels, names, groups = joined["labels"], joined["names"], joined["groups"]
    found = {"similarity": by_similarity(task, joined["scores"], labels, names, groups, classes)}
    if prompts is not None:
        found["prompt"] = relation_metrics(labels, joined["prompt"], names, groups=groups, classes=classes)
    return found


def open_labelled(
    encoder: Encoder,
    data: str,
    languages: Sequence[str],
    batch_size: int,
    workers: int,
    classes: Mapping[str, list[str]] | None = None,
) -> RelationDataModule:
    """SHARDS as a test split with labels, the strings of `classes` in the order they were trained in."""
    options: dict[str, Any] = {} if encoder.images is None else {"images": encoder.images}
    if classes is not None:
        options["label_names"] = dict(classes)
    module = RelationDataModule(
        test=data,
        languages=list(languages),
        batch_size=batch_size,
        workers=workers,
        tokenizer=encoder.tokenizer,
        **options,
    )
    module.setup("test")
    return module


def predict_split(classifier: RelationClassifier, shards: RelationDataModule) -> tuple[Predictions, np.ndarray]:
    """Every pair of the test split, and the cosine of each pair before the fusion."""
    from rich.progress import track

    collected, cosines = PredictedSplit(), []
    indices = language_indices(classifier.encoder, shards.languages)
    loader = shards.test_dataloader()
    for batch in track(loader, description="relations", total=len(loader), transient=True):
        posts, slots = (batch.present & (batch.rows >= 0).unsqueeze(1)).nonzero(as_tuple=True)
        probabilities, cosine = classifier.judge(
            batch.images,
            batch.tokens[posts, slots],
            batch.token_mask[posts, slots],
            indices[batch.languages[posts, slots]],
            posts,
        )
        collected.add(batch, posts, slots, probabilities)
        # in the order that `gather` gives the pairs
        cosines.append((batch.rows[posts], batch.languages[posts, slots], cosine))
    rows, languages, cosine = (torch.cat(parts).numpy() for parts in zip(*cosines, strict=True))
    split = collected.gather()
    if split is None:
        raise ValueError("--data: no sample could be read")
    return split, cosine[np.lexsort((languages, rows))]


def add_four_classes(split: Predictions, classes: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """Adds the task "represented and adds" where two binary heads say both; returns its classes, {} without them.

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
    shards: RelationDataModule, split: Predictions, names: np.ndarray, task: str, classes: Sequence[str]
) -> list[RelationExample]:
    from mmtrain.thumbnails import thumbnail

    labels, probabilities = split.labels[task], split.probabilities[task]
    predicted = probabilities.argmax(1)
    random, dataset = np.random.default_rng(0), shards.test_dataloader().dataset
    examples = []
    for language in sorted(set(names.tolist())):
        for right in (True, False):
            fitting = np.flatnonzero((names == language) & (labels >= 0) & ((predicted == labels) == right))
            for place in random.permutation(fitting)[:EXAMPLES]:
                pixels = dataset.__getitems__([dataset.at(int(split.rows[place]))]).images[0]
                examples.append(
                    RelationExample(
                        thumbnail(pixels, split.ids[place]),
                        split.captions[place],
                        language,
                        classes[labels[place]],
                        classes[predicted[place]],
                        float(probabilities[place].max()),
                    )
                )
    return examples


def print_relation(task: str, tables: Mapping[str, Mapping[str, Any]]) -> None:
    """The figures of some systems by language, for a terminal."""
    from rich.console import Console
    from rich.table import Table

    for system, by_language in tables.items():
        table = Table(title=f"{task}, {system}, in percent")
        for name in ("language", "accuracy", "macro F1", "95 %", "weighted F1", "ECE", "n"):
            table.add_column(name, justify="left" if name == "language" else "right")
        for language, each in by_language.items():
            low, high = each["macro_f1_ci95"]
            figures = [f"{each[name]:.1f}" for name in ("accuracy", "macro_f1")]
            figures += [
                f"{low:.1f} to {high:.1f}",
                f"{each['weighted_f1']:.1f}",
                "–" if each["ece"] is None else f"{each['ece']:.1f}",
                f"{each['n']:,}",
            ]
            table.add_row(language, *figures, style="bold" if language == "mean" else None)
        Console().print(table)
    for language, each in next(iter(tables.values())).items():
        if language != "mean" and each["missing_classes"]:
            missing = ", ".join(each["missing_classes"])
            print(f"{language}: no label of {missing}; macro F1 is the mean over the classes that occur")
