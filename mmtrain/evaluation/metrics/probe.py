"""Logistic regression on frozen rows: what a linear layer can read in them (Alain and Bengio 2017)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax

from mmtrain.evaluation.metrics.bootstrap import interval95, resampled_recall
from mmtrain.evaluation.ranking.queries import QueryRanks

STEPS = 1000  # of L-BFGS, at most
PENALTIES = (1.0, 0.1, 0.01, 1e-3, 1e-4)  # of |weights|^2 / 2 beside the mean cross-entropy
HELD_OUT = 5  # every fifth picture chooses among them


@dataclass(frozen=True)
class LabelledRows:
    """Frozen rows [N, d] with labels int64 [N], 0 to C - 1, and the picture int64 [N] that each is of."""

    rows: np.ndarray
    labels: np.ndarray
    pictures: np.ndarray

    def where(self, chosen: np.ndarray) -> "LabelledRows":
        """Those that bool [N] chooses."""
        return LabelledRows(self.rows[chosen], self.labels[chosen], self.pictures[chosen])


def probe_figures(learnt: LabelledRows, asked: LabelledRows, bootstrap: int = 1000) -> dict[str, Any]:
    """How often a logistic regression on some rows is right about others.

    Columns have the mean 0 and the deviation 1 of those learnt from. The penalty is the one that is right most often
    about every fifth of their pictures when it is fitted to the rest, the strongest of equals; then all are fitted.

    Returns:
        {"accuracy", "accuracy_ci95", "majority", "classes", "n", "train", "penalty"}: in percent, how often it is right
        with its interval over pictures, and how often the class that was learnt most often would be; the numbers of
        classes, and of rows asked and learnt.

    Raises:
        ValueError: for fewer than two pictures to learn from.
    """
    _, picture = np.unique(learnt.pictures, return_inverse=True)
    held_out = picture % HELD_OUT == HELD_OUT - 1 if picture.max(initial=0) >= HELD_OUT - 1 else picture == 0
    if held_out.all():
        raise ValueError("probe: there is one labelled picture to learn from, expected at least two")
    classes = int(max(learnt.labels.max(), asked.labels.max())) + 1
    mean, deviation = learnt.rows.mean(0), learnt.rows.std(0) + 1e-6

    def right(fitted: LabelledRows, about: LabelledRows, penalty: float) -> np.ndarray:
        c = 1 / (penalty * len(fitted.rows))
        weight, bias = logistic_regression((fitted.rows - mean) / deviation, fitted.labels, classes, c=c)
        return ((about.rows - mean) / deviation @ weight.T + bias).argmax(1) == about.labels

    tried = learnt.where(~held_out), learnt.where(held_out)
    penalty = max(PENALTIES, key=lambda each: right(*tried, each).mean())
    hits = right(learnt, asked, penalty)
    pictures = np.unique(asked.pictures, return_inverse=True)[1]
    queries = QueryRanks(np.arange(len(hits)), pictures, (~hits).astype(int), *np.zeros((2, len(hits))))
    draws = resampled_recall([queries], int(pictures.max()) + 1, 1, bootstrap, seed=0)
    return {
        "accuracy": 100 * float(hits.mean()),
        "accuracy_ci95": interval95(draws[:, 0]),
        "majority": 100 * float(np.mean(asked.labels == np.bincount(learnt.labels).argmax())),
        "classes": classes,
        "n": len(hits),
        "train": len(learnt.rows),
        "penalty": penalty,
    }


def logistic_regression(
    rows: np.ndarray, labels: np.ndarray, classes: int, *, class_weights: np.ndarray | None = None, c: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Weights [C, d] and bias [C] at the least c * (sum of weighted cross-entropies) + |weights|^2 / 2.

    That is scikit-learn's LogisticRegression; with two classes theirs has one vector of weights, the difference of
    ours, and reaches the same probabilities with half of their C.

    Args:
        rows: float [N, d].
        labels: int64 [N], 0 to C - 1.
        classes: C.
        class_weights: float [C], of the samples of each class; default: 1.
        c: Inverse strength of the penalty; the bias has none.

    Returns:
        float64 [C, d] and [C]; a class without a sample has weights of 0 and the bias -inf, so it is never predicted.

    Raises:
        ValueError: without rows, or for a label beyond C.
    """
    if not len(rows) or labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"labels: got {sorted(set(labels.tolist()))}, expected at least one, from 0 to {classes - 1}")
    occurring, labels = np.unique(labels, return_inverse=True)
    of_class = np.ones(len(occurring)) if class_weights is None else np.asarray(class_weights, np.float64)[occurring]
    rows = np.c_[rows, np.ones(len(rows))].astype(np.float64)  # the last weight is the bias
    right, of_sample = np.eye(len(occurring))[labels], of_class[labels]
    size = of_sample.sum()  # the mean is minimised: a gradient is then small or not, however many samples there are
    of_sample, decay = of_sample / size, 1 / (c * size)

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        solution = flat.reshape(len(occurring), -1)
        logs = log_softmax(rows @ solution.T, axis=1)
        penalised = solution * np.r_[np.ones(rows.shape[1] - 1), 0.0]
        gradient = (of_sample[:, None] * (np.exp(logs) - right)).T @ rows + decay * penalised
        return decay / 2 * (penalised**2).sum() - of_sample @ logs[np.arange(len(rows)), labels], gradient.ravel()

    options = {"maxiter": STEPS, "ftol": 64 * np.finfo(float).eps, "gtol": 1e-6}
    start = np.zeros(len(occurring) * rows.shape[1])
    found = minimize(objective, start, jac=True, method="L-BFGS-B", options=options).x.reshape(len(occurring), -1)
    solution = np.r_["1", np.zeros((classes, rows.shape[1] - 1)), np.full((classes, 1), -np.inf)]
    solution[occurring] = found
    return solution[:, :-1], solution[:, -1]
