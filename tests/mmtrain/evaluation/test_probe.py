"""The logistic regression of linear probes beside scikit-learn's."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from mmtrain.evaluation.metrics.probe import logistic_regression

RANDOM = np.random.default_rng(0)
ROWS = RANDOM.normal(size=(120, 6)).astype(np.float32)
LABELS = (ROWS @ RANDOM.normal(size=(6, 4)) + RANDOM.normal(size=(120, 4))).argmax(1)


@pytest.mark.parametrize("weights", [None, [0.5, 1.0, 2.0, 1.5]])
@pytest.mark.parametrize("c", [0.01, 1.0, 100.0])
def test_it_is_scikit_learns(c: float, weights: list[float] | None) -> None:
    theirs = LogisticRegression(C=c, tol=1e-10, max_iter=10_000, class_weight=weights and dict(enumerate(weights)))
    theirs.fit(ROWS.astype(np.float64), LABELS)
    weight, bias = logistic_regression(ROWS, LABELS, 4, class_weights=weights and np.array(weights), c=c)
    np.testing.assert_allclose(weight, theirs.coef_, atol=1e-4)
    np.testing.assert_allclose(bias - bias.mean(), theirs.intercept_ - theirs.intercept_.mean(), atol=1e-4)


def test_two_classes_reach_scikit_learns_probabilities() -> None:
    labels = (LABELS > 1).astype(int)
    theirs = LogisticRegression(C=2.0, tol=1e-10, max_iter=10_000).fit(ROWS.astype(np.float64), labels)
    weight, bias = logistic_regression(ROWS, labels, 2)
    logits = ROWS @ weight.T + bias
    np.testing.assert_allclose(
        1 / (1 + np.exp(logits[:, 0] - logits[:, 1])), theirs.predict_proba(ROWS)[:, 1], atol=1e-4
    )


def test_a_class_without_a_sample_is_never_predicted() -> None:
    weight, bias = logistic_regression(ROWS, LABELS + 1, 6)
    assert weight.shape == (6, 6) and bias[[0, 5]].tolist() == [-np.inf, -np.inf]
    assert not weight[[0, 5]].any() and np.isfinite(bias[1:5]).all()
    np.testing.assert_allclose(weight[1:5], logistic_regression(ROWS, LABELS, 4)[0])


def test_labels_beyond_the_classes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"labels: got \[0, 1, 2, 3\], expected at least one, from 0 to 2"):
        logistic_regression(ROWS, LABELS, 3)
    with pytest.raises(ValueError, match="expected at least one"):
        logistic_regression(ROWS[:0], LABELS[:0], 3)
