"""Zero-shot classification (Radford et al. 2021, section 3.1): an image goes to the class whose name is most similar.

Languages name different subsets of the classes, and fewer classes are easier: an accuracy means nothing without their
number, and languages compare on the classes that all of them name. (Geigle et al. 2023, Babel-ImageNet.)
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmtrain.display.messages import first_line
from mmtrain.evaluation.metrics.bootstrap import interval95, resampled_recall
from mmtrain.evaluation.ranking.queries import QueryRanks
from mmtrain.evaluation.ranking.tiles import Similarity, score_steps, score_tile, unit_rows

BLOCK = 4096  # images scored at once, and prompts encoded at once
TOP = (1, 5)


@dataclass(frozen=True)
class Classes:
    """The classes one language names: their labels in the data, their names, and their rows [C, D]."""

    labels: list[str]
    names: list[str]
    rows: np.ndarray
    prompts: int

    def subset(self, labels: set[str]) -> "Classes":
        places = [place for place, label in enumerate(self.labels) if label in labels]
        names = [self.names[place] for place in places]
        return Classes([self.labels[place] for place in places], names, self.rows[places], self.prompts)


def read_classes(path: str | Path) -> dict[str, dict[str, str]]:
    """Language -> label of a class -> its name, of a JSON file.

    A language holds an object {label: name}, a list of the names of classes 0, 1, 2 ..., or Babel-ImageNet's pair
    [[label, ...], [name, ...]]. Codes in capitals, as there, are read in lower case: "FR" is fr, "ZH_YUE" zh-yue.
    Raises ValueError, one line, for anything else.
    """
    classes: dict[str, dict[str, str]] = {}
    for code, value in _languages(path, "--classes").items():
        if isinstance(value, dict):
            pairs = list(value.items())
        elif isinstance(value, list) and len(value) == 2 and all(isinstance(part, list) for part in value):
            if len(value[0]) != len(value[1]):
                raise ValueError(f"--classes: {path}: {code} has {len(value[0])} labels and {len(value[1])} names")
            pairs = list(zip(*value, strict=True))
        else:
            pairs = list(enumerate(value)) if isinstance(value, list) else []
        names = {str(label): name for label, name in pairs}
        if len(names) < 2 or not all(isinstance(name, str) and name.strip() for name in names.values()):
            raise ValueError(
                f"--classes: {path}: {code} names no classes; {{label: name}}, [name, ...] or"
                " [[label, ...], [name, ...]], at least two"
            )
        if len(names) < len(pairs):
            raise ValueError(f"--classes: {path}: {code} names a class twice; each label once")
        classes[_code(code)] = names
    return classes


def read_templates(path: str | Path) -> dict[str, list[str]]:
    """Language -> prompt templates, in which {} stands for the name, of a JSON file. Raises ValueError, one line."""
    templates = {}
    for code, value in _languages(path, "--templates").items():
        if not isinstance(value, list) or not value or not all(isinstance(t, str) and "{}" in t for t in value):
            raise ValueError(
                f'--templates: {path}: {code} is no list of templates with {{}}; ["a photo of a {{}}.", ...]'
            )
        templates[_code(code)] = value
    return templates


def encode_classes(
    encode: Callable[[list[str]], np.ndarray], names: Mapping[str, str], templates: Sequence[str] = ("{}",)
) -> Classes:
    """The classes with one row each: the mean of the unit rows of all its prompts, of unit length again.

    encode gives the rows [n, D] of n prompts in the language; names is {label: name}.
    """
    labels, written = list(names), list(names.values())
    at_once = max(1, BLOCK // len(templates))
    rows = []
    for start in range(0, len(written), at_once):
        prompts = [template.replace("{}", name) for name in written[start : start + at_once] for template in templates]
        encoded = unit_rows(torch.from_numpy(encode(prompts)), "cosine")
        rows.append(unit_rows(encoded.view(-1, len(templates), encoded.shape[1]).mean(1), "cosine"))
    return Classes(labels, written, torch.cat(rows).numpy(), len(templates))


def zero_shot_metrics(
    images: np.ndarray,
    labels: Sequence[str],
    classes: Mapping[str, Classes],
    *,
    similarity: Similarity = "cosine",
    bootstrap: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Accuracy by language, over the classes it names and over those that all languages name.

    Args:
        images: float [N, D].
        labels: N, the class of each image; images of classes that a language does not name are no queries in it.
        classes: By language.
        bootstrap: Resamples of the images behind the 95 % intervals, 0 for none.

    Returns:
        {"accuracy": {language: {"classes", "without_images", "images", "prompts", "same_names", "accuracy@1",
        "accuracy@5", "accuracy@1_ci95"}}, "common": {the same, and "mean" over languages}, "common_classes"}, in
        percent. "without_images" counts classes that no picture is of, which are wrong answers only. "common" is empty
        where fewer than two classes are common. There is no mean over different numbers of classes. A class whose name
        another one shares is right under either; otherwise a tie counts as wrong.

    Raises:
        ValueError: no image at all, or none of a language's classes.
    """
    if not len(images):
        raise ValueError("images is empty; zero-shot classification needs at least one labelled picture")
    figures = partial(_figures, images, np.asarray(labels), similarity, bootstrap, seed)
    present = set(labels)
    for name, each in classes.items():
        if not present.intersection(each.labels):
            raise ValueError(f"{name}: no picture is of one of its {len(each.labels)} classes; other labels or classes")
    labels_in_common = set.intersection(*(set(each.labels) for each in classes.values()))
    common: dict[str, Any] = {}
    if len(labels_in_common) > 1 and labels_in_common & present:
        common = {name: figures(each.subset(labels_in_common)) for name, each in classes.items()}
        means = {f"accuracy@{k}": float(np.mean([each[f"accuracy@{k}"] for each in common.values()])) for k in TOP}
        common["mean"] = {"classes": len(labels_in_common)} | means
    return {
        "accuracy": {name: figures(each) for name, each in classes.items()},
        "common": common,
        "common_classes": len(labels_in_common),
    }


def class_ranks(
    images: np.ndarray | Tensor, right: np.ndarray, classes: Classes, similarity: Similarity = "cosine"
) -> np.ndarray:
    """0-based rank int64 [N] of the right class: how many others score at least as high, to the tie tolerance.

    right int64 [N] is the place of each image's class. Classes of the same name count as one. Scores are float64.
    """
    names = np.unique([name.strip() for name in classes.names], return_inverse=True)[1]
    rows = unit_rows(torch.as_tensor(classes.rows), similarity)
    ranks = np.empty(len(images), dtype=np.int64)
    for start in range(0, len(images), BLOCK):
        part = slice(start, start + BLOCK)
        scores = score_tile(unit_rows(torch.as_tensor(images[part]), similarity), rows, similarity)
        steps, own = score_steps(scores.numpy()), names[right[part]][:, None] == names
        best = np.where(own, steps, np.iinfo(np.int64).min).max(1)
        ranks[part] = ((steps >= best[:, None]) & ~own).sum(1)
    return ranks


def _figures(
    images: np.ndarray, labels: np.ndarray, similarity: Similarity, bootstrap: int, seed: int, classes: Classes
) -> dict[str, Any]:
    place = {label: number for number, label in enumerate(classes.labels)}
    rows = np.flatnonzero(np.isin(labels, classes.labels))
    right = np.array([place[label] for label in labels[rows].tolist()])
    rank = class_ranks(images[rows], right, classes, similarity)
    figures: dict[str, Any] = {
        "classes": len(place),
        "without_images": len(place) - len(np.unique(right)),
        "images": len(rows),
        "prompts": classes.prompts,
        "same_names": len(place) - len({name.strip() for name in classes.names}),
    }
    figures |= {f"accuracy@{k}": 100 * float(np.mean(rank < k)) for k in TOP}
    if bootstrap:
        queries = QueryRanks(rows, rows, rank, *np.zeros((2, len(rank))))
        draws = resampled_recall([queries], len(images), 1, bootstrap, seed)
        figures["accuracy@1_ci95"] = interval95(draws[:, 0])
    return figures


def _languages(path: str | Path, option: str) -> dict[str, Any]:
    try:
        languages = json.loads(Path(path).read_text(encoding="utf-8"), object_pairs_hook=_each_once)
    except (OSError, ValueError) as error:
        raise ValueError(f"{option}: {path} cannot be read ({first_line(error)})") from error
    if not isinstance(languages, dict) or not languages:
        raise ValueError(f"{option}: {path} is no JSON object with languages as keys")
    return languages


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; raises ValueError where a key stands twice, of which the first would be lost."""
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"{next(key for key in keys if keys.count(key) > 1)!r} stands twice")
    return content


def _code(code: str) -> str:
    return code.lower().replace("_", "-") if code.isupper() else code
