"""Figures of classes by language: against scikit-learn, against loops, and what is said where classes are missing."""

import numpy as np
import pytest
from sklearn.metrics import f1_score

from mmtrain.evaluation.metrics.relation import calibration_error, language_gap, relation_metrics


def guesses(N: int = 200, C: int = 4, skill: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels [N], probabilities [N, C] that know them a little, and two languages in turn."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, C, N)
    scores = random.standard_normal((N, C)) + skill * np.eye(C)[labels]
    scores = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    return labels, scores, np.array(["en", "lv"] * (N // 2))


def test_figures_are_scikit_learns() -> None:
    labels, scores, languages = guesses()
    table = relation_metrics(labels, scores, languages)
    assert set(table) == {"en", "lv", "mean"}
    for language in ("en", "lv"):
        truth, said = labels[languages == language], scores[languages == language].argmax(1)
        for average in ("macro", "weighted"):
            expected = 100 * f1_score(truth, said, average=average)
            assert table[language][f"{average}_f1"] == pytest.approx(expected)
        assert table[language]["accuracy"] == pytest.approx(100 * (truth == said).mean())
        assert np.array(table[language]["confusion"]).sum() == table[language]["n"] == 100
    assert table["mean"]["macro_f1"] == pytest.approx((table["en"]["macro_f1"] + table["lv"]["macro_f1"]) / 2)


def test_a_small_table_by_hand() -> None:
    labels = np.array([0, 0, 1, 1])
    scores = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.3, 0.7]])
    english = relation_metrics(labels, scores, np.array(["en"] * 4), classes=["no", "yes"])["en"]
    assert english["confusion"] == [[1, 1], [0, 2]]
    assert english["per_class"]["no"] == pytest.approx({"precision": 100, "recall": 50, "f1": 200 / 3, "n": 2})
    assert english["macro_f1"] == pytest.approx((200 / 3 + 80) / 2)


def test_unlabelled_pairs_do_not_count_and_missing_classes_are_named() -> None:
    labels, scores, languages = guesses(C=3)
    labels[languages == "lv"] %= 2
    labels[:20] = -1
    scores[languages == "lv", 2] = 0
    table = relation_metrics(labels, scores, languages, classes=["a", "b", "c"])
    assert table["lv"]["missing_classes"] == ["c"] and table["en"]["missing_classes"] == []
    assert table["mean"]["missing_classes"] == ["c"] and table["mean"]["n"] == 180
    # of a class the mean is over the languages that have it
    assert table["mean"]["per_class"]["c"]["f1"] == table["en"]["per_class"]["c"]["f1"]
    with pytest.raises(ValueError, match="nothing is labelled"):
        relation_metrics(np.full(200, -1), scores, languages)
    with pytest.raises(ValueError, match="labels: got 5 and 3 names"):
        relation_metrics(np.full(200, 5), scores, languages)


def test_intervals_are_those_of_resampled_samples() -> None:
    """The bootstrap by counts gives what resampling rows one by one gives."""
    labels, scores, _ = guesses(N=350)
    table = relation_metrics(labels, scores, np.array(["en"] * 350), bootstrap=2000)
    random, said, draws = np.random.default_rng(1), scores.argmax(1), []
    for _ in range(2000):
        rows = random.integers(0, 350, 350)
        draws.append(100 * f1_score(labels[rows], said[rows], average="macro"))
    low, high = table["en"]["macro_f1_ci95"]
    assert (low, high) == pytest.approx(tuple(np.percentile(draws, [2.5, 97.5])), abs=0.7)
    assert 8 < high - low < 12  # n = 350: about five points on either side


def test_draws_without_a_class_or_a_language() -> None:
    """A class whose only sample is right may be missed by a draw, which then scores 0 in it and never more than 100;
    where that sample is wrong no draw does better than without it. A draw without a language says nothing of it."""
    labels = np.repeat([0, 1, 2, 3], [20, 20, 20, 1])
    scores, languages = np.eye(4)[labels], np.array(["en"] * 61)
    low, high = relation_metrics(labels, scores, languages)["en"]["macro_f1_ci95"]
    assert low == pytest.approx(75) and high == 100
    scores[-1] = np.eye(4)[0]
    table = relation_metrics(labels, scores, languages)["en"]
    assert table["macro_f1_ci95"][1] <= 75 and table["macro_f1"] < 75
    languages = np.array(["en"] * 59 + ["lv"] * 2)
    table = relation_metrics(labels[:-1].tolist() + [2], np.eye(4)[[*labels[:-1], 2]], languages)
    assert table["lv"]["macro_f1_ci95"] == [100, 100] and table["mean"]["macro_f1_ci95"] == [100, 100]


def test_languages_of_one_sample_are_drawn_together() -> None:
    """Two languages that are right and wrong on the same samples have no gap in any draw."""
    labels, scores, _ = guesses(N=100)
    twice = [np.concatenate([each, each]) for each in (labels, scores, np.arange(100))]
    languages = np.array(["en"] * 100 + ["lv"] * 100)
    gap = language_gap(twice[0], twice[1], languages, twice[2])
    assert gap["macro_f1"] == 0 and gap["ci95"] == [0, 0]
    apart = language_gap(twice[0], twice[1], languages, np.arange(200))
    assert apart["ci95"][0] < 0 < apart["ci95"][1]
    assert language_gap(labels, scores, languages[:100], np.arange(100)) is None


def test_calibration_error_is_the_distance_of_confidence_and_accuracy() -> None:
    scores = np.array([[0.8, 0.2]] * 10)
    assert calibration_error(np.array([0] * 8 + [1] * 2), scores) == pytest.approx(0)
    assert calibration_error(np.array([0] * 5 + [1] * 5), scores) == pytest.approx(30)
