"""Figures of predicted classes by language: accuracy, F1, confusion, calibration, and intervals of F1."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from mmtrain.evaluation.metrics.bootstrap import interval95

NUMBERS_AT_ONCE = 2**24  # of one block of resampled counts
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
    labelled = labels >= 0
    if not labelled.any():
        raise ValueError("labels: nothing is labelled")
    if labels.max() >= C or len(names) != C:
        raise ValueError(f"labels: got {labels.max()} and {len(names)} names, expected 0 to {C - 1} and {C}")
    groups = np.arange(len(labels)) if groups is None else np.asarray(groups)
    labels, probabilities, languages, groups = (each[labelled] for each in (labels, probabilities, languages, groups))
    rows_of = {language: languages == language for language in sorted(set(languages.tolist()))}
    table = {language: _figures(labels[rows], probabilities[rows], names) for language, rows in rows_of.items()}
    table["mean"] = _mean(list(table.values()))
    if bootstrap:
        cell = labels * C + probabilities.argmax(1)
        draws = _resampled_macro_f1(cell, groups, list(rows_of.values()), C, bootstrap, seed)
        for column, language in enumerate(rows_of):
            table[language]["macro_f1_ci95"] = interval95(draws[:, column])
        table["mean"]["macro_f1_ci95"] = interval95(np.nanmean(draws, 1))
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
    labelled = labels >= 0
    labels, probabilities, languages, groups = (each[labelled] for each in (labels, probabilities, languages, groups))
    rows_of = {language: languages == language for language in sorted(set(languages.tolist()))}
    if len(rows_of) < 2:
        return None
    predicted, C = probabilities.argmax(1), probabilities.shape[1]
    scores = {language: _f1(labels[rows], predicted[rows], "macro") for language, rows in rows_of.items()}
    worst, best = min(scores, key=scores.__getitem__), max(reversed(scores), key=scores.__getitem__)
    draws = _resampled_macro_f1(labels * C + predicted, groups, [rows_of[best], rows_of[worst]], C, bootstrap, seed)
    return {
        "best": best,
        "worst": worst,
        "macro_f1": scores[best] - scores[worst],
        "ci95": interval95(draws[:, 0] - draws[:, 1]),
    }


def calibration_error(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Expected calibration error in percent: the mean over 15 bins of |accuracy - confidence|, weighted by size."""
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    sums = [np.bincount(bins, weights, minlength=BINS) for weights in (right.astype(float), confidence)]
    return float(100 * np.abs(sums[0] - sums[1]).sum() / len(labels))


def _f1(labels: np.ndarray, predicted: np.ndarray, average: Literal["macro", "weighted"]) -> float:
    from sklearn.metrics import f1_score

    return 100 * float(f1_score(labels, predicted, average=average, zero_division=0))


def _figures(labels: np.ndarray, probabilities: np.ndarray, names: list[str]) -> dict[str, Any]:
    from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support

    predicted, classes = probabilities.argmax(1), range(len(names))
    columns = precision_recall_fscore_support(labels, predicted, labels=classes, zero_division=0)
    per_class = {
        name: {"precision": 100 * float(p), "recall": 100 * float(r), "f1": 100 * float(f1), "n": int(n)}
        for name, p, r, f1, n in zip(names, *columns, strict=True)
    }
    return {
        "accuracy": 100 * float(accuracy_score(labels, predicted)),
        "macro_f1": _f1(labels, predicted, "macro"),
        "weighted_f1": _f1(labels, predicted, "weighted"),
        "per_class": per_class,
        "confusion": confusion_matrix(labels, predicted, labels=classes).tolist(),
        "ece": calibration_error(labels, probabilities),
        "missing_classes": [name for name, figures in per_class.items() if not figures["n"]],
        "n": len(labels),
    }


def _mean(tables: list[dict[str, Any]]) -> dict[str, Any]:
    """The mean over languages; of a class over the languages that have it."""
    per_class = {}
    for name in tables[0]["per_class"]:
        figures = [each["per_class"][name] for each in tables if each["per_class"][name]["n"]]
        means = _means(figures, ("precision", "recall", "f1")) if figures else {}
        per_class[name] = means | {"n": sum(each["n"] for each in figures)}
    return {
        **_means(tables, ("accuracy", "macro_f1", "weighted_f1")),
        "per_class": per_class,
        **_means(tables, ("ece",)),
        "missing_classes": sorted({name for each in tables for name in each["missing_classes"]}),
        "n": sum(each["n"] for each in tables),
    }


def _means(tables: list[dict[str, Any]], names: Sequence[str]) -> dict[str, float]:
    return {name: float(np.mean([each[name] for each in tables])) for name in names}


def _resampled_macro_f1(
    cell: np.ndarray, groups: np.ndarray, languages: list[np.ndarray], C: int, samples: int, seed: int
) -> np.ndarray:
    """Macro F1 in percent [samples, K] of draws of samples with replacement, over the classes that a language has.

    A pair is a cell of the confusion matrix, so a draw's matrix is the number of times each sample was drawn times the
    cells that it fills. languages are K masks of pairs; a draw without any pair of one is NaN.
    """
    group = np.unique(groups, return_inverse=True)[1]
    count = int(group.max()) + 1
    place = group * C * C + cell
    cells = [np.bincount(place[rows], minlength=count * C * C).reshape(count, C * C) for rows in languages]
    random = np.random.default_rng(seed)
    step = max(1, NUMBERS_AT_ONCE // count)
    blocks = []
    for start in range(0, samples, step):
        times = random.multinomial(count, np.full(count, 1 / count), min(step, samples - start)).astype(np.float32)
        blocks.append(np.stack([_macro_f1(times, of_language.astype(np.float32)) for of_language in cells], 1))
    return np.concatenate(blocks)


def _macro_f1(times: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Macro F1 in percent [S] of S draws that take each of G samples, with cells [G, C * C], times [S, G]."""
    C = math.isqrt(cells.shape[1])
    whole, confusion = cells.sum(0).reshape(C, C), (times @ cells).reshape(-1, C, C)
    hits = np.diagonal(confusion, axis1=1, axis2=2)
    f1 = 2 * hits / np.maximum(confusion.sum(1) + confusion.sum(2), 1)
    scores = 100 * f1[:, whole.sum(0) + whole.sum(1) > 0].mean(1)
    return np.where(confusion.sum((1, 2)) > 0, scores, np.nan)
