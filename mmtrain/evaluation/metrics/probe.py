"""Logistic regression on frozen rows: what a linear layer can read in them (Alain and Bengio 2017)."""

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax

STEPS = 1000  # of L-BFGS, at most


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
