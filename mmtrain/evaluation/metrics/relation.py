"""How well classes are told, in every language: accuracy, F1, confusion, calibration, and what chance leaves open."""

from collections.abc import Sequence
from typing import Any

import numpy as np

DRAWN_AT_ONCE = 2**24  # numbers of one block of resampled counts
BINS = 15  # of the expected calibration error


def relation_metrics(
    labels: np.ndarray,
    probabilities: np.ndarray,
    languages: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    classes: Sequence[str] | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """Figures of one task by language, and their mean over languages, in percent.

    Macro F1 averages over the classes that occur in the labels or the predictions of a language, as scikit-learn does;
    "missing_classes" names those that no label of the language has. Intervals hold 95 % of resamples of the samples,
    each with all its languages; the classes are those of the whole sample, so a draw that misses one scores 0 in it,
    and a draw without any pair of a language has no part in that language's interval. The expected calibration error
    (Guo et al. 2017) compares confidence and accuracy in 15 bins of equal width.

    Args:
        labels: int64 [N], -1 where nobody labelled; those are left out.
        probabilities: float [N, C].
        languages: [N], of the text of each pair.
        groups: int64 [N], equal for pairs of one sample; default: every pair is its own.
        classes: Names of the C classes; default: their numbers.
        bootstrap: Resamples; 0 for no intervals.
        seed: Of the resamples.

    Returns:
        {language or "mean": {"accuracy", "macro_f1", "weighted_f1", "macro_f1_ci95", "per_class": {class: {"precision",
        "recall", "f1", "n"}}, "confusion" (rows are labels), "ece", "missing_classes", "n"}}.

    Raises:
        ValueError: shapes that do not fit, a label beyond C, or nothing labelled.
    """
    labels, probabilities, languages = np.asarray(labels), np.asarray(probabilities, np.float64), np.asarray(languages)
    C = probabilities.shape[1] if probabilities.ndim == 2 else 0
    if probabilities.shape != (len(labels), C) or languages.shape != labels.shape:
        raise ValueError(
            f"probabilities: got {list(probabilities.shape)}, expected [{len(labels)}, C] beside as many languages"
        )
    names = [str(number) for number in range(C)] if classes is None else list(classes)
    known = labels >= 0
    if not known.any():
        raise ValueError("labels: nothing is labelled")
    if labels.max() >= C or len(names) != C:
        raise ValueError(f"labels: got {labels.max()} and {len(names)} names, expected 0 to {C - 1} and {C}")
    groups = np.arange(len(labels)) if groups is None else np.asarray(groups)
    labels, probabilities, languages, groups = (each[known] for each in (labels, probabilities, languages, groups))
    predicted = probabilities.argmax(1)
    by_language = {name: languages == name for name in sorted(set(languages.tolist()))}
    table = {name: _figures(labels[some], probabilities[some], names) for name, some in by_language.items()}
    table["mean"] = _mean(list(table.values()))
    if bootstrap:
        cells = labels * C + predicted
        draws = _resampled_macro_f1(cells, groups, list(by_language.values()), C, bootstrap, seed)
        for column, name in enumerate(by_language):
            table[name]["macro_f1_ci95"] = _interval(draws[:, column])
        table["mean"]["macro_f1_ci95"] = _interval(np.nanmean(draws, 1))
    return table


def language_gap(
    labels: np.ndarray,
    probabilities: np.ndarray,
    languages: np.ndarray,
    groups: np.ndarray,
    *,
    bootstrap: int = 1000,
    seed: int = 0,
) -> dict[str, Any] | None:
    """Macro F1 of the best language minus that of the worst, on the same resamples; None with fewer than two."""
    known = labels >= 0
    labels, probabilities, languages, groups = (each[known] for each in (labels, probabilities, languages, groups))
    names = sorted(set(languages.tolist()))
    if len(names) < 2:
        return None
    C = probabilities.shape[1]
    cells, some = labels * C + probabilities.argmax(1), [languages == name for name in names]
    matrices = [np.bincount(cells[each], minlength=C * C).reshape(1, C, C) for each in some]
    scores = [_scores(matrix, _occurring(matrix[0]))[0] for matrix in matrices]
    order = np.argsort(scores, kind="stable")
    worst, best = int(order[0]), int(order[-1])
    draws = _resampled_macro_f1(cells, groups, [some[best], some[worst]], C, bootstrap, seed)
    return {
        "best": names[best],
        "worst": names[worst],
        "macro_f1": float(scores[best] - scores[worst]),
        "ci95": _interval(draws[:, 0] - draws[:, 1]),
    }


def calibration_error(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Expected calibration error in percent: the mean over 15 bins of |accuracy - confidence|, weighted by size."""
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    sums = [np.bincount(bins, weights, minlength=BINS) for weights in (right.astype(float), confidence)]
    return float(100 * np.abs(sums[0] - sums[1]).sum() / len(labels))


def _figures(labels: np.ndarray, probabilities: np.ndarray, names: list[str]) -> dict[str, Any]:
    from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, precision_recall_fscore_support

    predicted, every = probabilities.argmax(1), range(len(names))
    columns = precision_recall_fscore_support(labels, predicted, labels=every, zero_division=0)
    return {
        "accuracy": 100 * float(accuracy_score(labels, predicted)),
        "macro_f1": 100 * float(f1_score(labels, predicted, average="macro", zero_division=0)),
        "weighted_f1": 100 * float(f1_score(labels, predicted, average="weighted", zero_division=0)),
        "per_class": {
            name: {
                "precision": 100 * float(columns[0][c]),
                "recall": 100 * float(columns[1][c]),
                "f1": 100 * float(columns[2][c]),
                "n": int(columns[3][c]),
            }
            for c, name in enumerate(names)
        },
        "confusion": confusion_matrix(labels, predicted, labels=every).tolist(),
        "ece": calibration_error(labels, probabilities),
        "missing_classes": [name for c, name in enumerate(names) if not columns[3][c]],
        "n": len(labels),
    }


def _mean(tables: list[dict[str, Any]]) -> dict[str, Any]:
    """The mean over languages; of a class over the languages that have it."""
    names = ("accuracy", "macro_f1", "weighted_f1")
    mean: dict[str, Any] = {name: float(np.mean([each[name] for each in tables])) for name in names}
    mean["per_class"] = {}
    for name in tables[0]["per_class"]:
        having = [each["per_class"][name] for each in tables if each["per_class"][name]["n"]]
        figures = {
            key: float(np.mean([each[key] for each in having])) for key in ("precision", "recall", "f1") if having
        }
        mean["per_class"][name] = figures | {"n": sum(each["n"] for each in having)}
    mean["ece"] = float(np.mean([each["ece"] for each in tables]))
    mean["missing_classes"] = sorted({name for each in tables for name in each["missing_classes"]})
    mean["n"] = sum(each["n"] for each in tables)
    return mean


def _resampled_macro_f1(
    cells: np.ndarray, groups: np.ndarray, some: list[np.ndarray], C: int, samples: int, seed: int
) -> np.ndarray:
    """Macro F1 in percent [samples, languages] of draws of samples with replacement.

    A pair is a cell of the confusion matrix, so a draw's matrix is the number of times each sample was drawn times the
    cells that the sample fills.
    """
    _, group = np.unique(groups, return_inverse=True)
    count = int(group.max()) + 1
    random = np.random.default_rng(seed)
    filled = [np.zeros((count, C * C), np.float32) for _ in some]
    for table, chosen in zip(filled, some, strict=True):
        np.add.at(table, (group[chosen], cells[chosen]), 1)
    classes = [_occurring(table.sum(0).reshape(C, C)) for table in filled]
    step = max(1, DRAWN_AT_ONCE // count)
    scores = []
    for start in range(0, samples, step):
        drawn = random.multinomial(count, np.full(count, 1 / count), min(step, samples - start)).astype(np.float32)
        found = [_scores((drawn @ table).reshape(-1, C, C), some) for table, some in zip(filled, classes, strict=True)]
        scores.append(np.stack(found, 1))
    return np.concatenate(scores)


def _occurring(confusion: np.ndarray) -> np.ndarray:
    """bool [C]: which classes a confusion matrix [C, C] has, as labels or as predictions."""
    return confusion.sum(0) + confusion.sum(1) > 0


def _scores(confusion: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Macro F1 in percent [S] of confusion matrices [S, C, C], over `classes` bool [C]; NaN where one is empty."""
    hits = np.diagonal(confusion, axis1=1, axis2=2)
    f1 = 2 * hits / np.maximum(confusion.sum(1) + confusion.sum(2), 1)
    scores = 100 * f1[:, classes].mean(1)
    return np.where(confusion.sum((1, 2)) > 0, scores, np.nan)


def _interval(draws: np.ndarray) -> list[float]:
    return [float(bound) for bound in np.nanpercentile(draws, [2.5, 97.5])]
