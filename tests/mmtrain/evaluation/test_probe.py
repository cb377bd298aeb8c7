"""The logistic regression of linear probes beside scikit-learn's."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from mmtrain.evaluation.metrics.probe import LabelledRows, logistic_regression, probe_figures

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


def labelled(count: int, noise: float, seed: int) -> LabelledRows:
    """Three classes on two axes of many, three rows a picture."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    rows = random.normal(size=(count, 20))
    rows[:, :2] = np.array([[3, 0], [0, 3], [-3, -3]])[labels] + noise * random.normal(size=(count, 2))
    return LabelledRows(100 + 5 * rows.astype(np.float32), labels, np.arange(count) // 3)


def test_a_probe_reads_what_is_in_the_rows_and_chooses_its_penalty_without_those_asked() -> None:
    clean, noisy = (probe_figures(labelled(90, noise, 0), labelled(300, noise, 1)) for noise in (0.1, 3.0))
    assert clean["accuracy"] > 98 and clean["majority"] == pytest.approx(100 / 3)
    assert (clean["classes"], clean["n"], clean["train"]) == (3, 300, 90)
    low, high = noisy["accuracy_ci95"]
    assert 40 < low < noisy["accuracy"] < high < 90
    other = probe_figures(labelled(90, 3.0, 0), labelled(300, 0.1, 2))
    assert other["penalty"] == noisy["penalty"]


def test_the_interval_is_over_pictures() -> None:
    learnt, asked = labelled(60, 2.0, 0), labelled(120, 2.0, 1)
    one_each = LabelledRows(np.repeat(asked.rows, 4, 0), np.repeat(asked.labels, 4), np.repeat(asked.pictures, 4))
    found, repeated = probe_figures(learnt, asked), probe_figures(learnt, one_each)
    assert found["accuracy_ci95"] == repeated["accuracy_ci95"] and repeated["n"] == 4 * found["n"]


def test_one_picture_is_too_few() -> None:
    with pytest.raises(ValueError, match="one labelled picture to learn from"):
        probe_figures(labelled(3, 0.1, 0), labelled(9, 0.1, 1))
