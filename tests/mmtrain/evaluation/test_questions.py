"""Figures of questions against loops over single questions, and against trec_eval."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmtrain.evaluation.metrics.questions import chance, paired_questions, question_figures
from mmtrain.evaluation.questions import Question
from mmtrain.evaluation.ranking.asked import Asked
from mmtrain.evaluation.ranking.graded import EmbeddingScores


def loop(question: Question, scores: dict[str, float], pool: Sequence[str]) -> dict[str, float]:
    """The figures of one question, from a sorted list; a tie goes against us."""
    steps = {item: round(scores[item] * 1e6) for item in pool}
    order = sorted(pool, key=lambda item: (-steps[item], question.relevant.get(item, 0)))
    grades = [question.relevant.get(item, 0) for item in order]
    best = sorted(grades, reverse=True)
    figures = {}
    for k in (5, 10):
        gain, ideal = (sum(grade / math.log2(2 + i) for i, grade in enumerate(each[:k])) for each in (grades, best))
        figures[f"nDCG@{k}"] = gain / ideal
    first = next(place for place, grade in enumerate(grades, 1) if grade > 0)
    figures |= {f"R@{k}": float(first <= k) for k in (1, 5, 10)}
    return figures | {"MRR@10": 1 / first if first <= 10 else 0.0}


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_every_question_is_measured_as_a_loop_does(seed: int, ties: bool) -> None:
    random = np.random.default_rng(seed)
    ids = [f"i{number}" for number in range(random.integers(1, 30))]
    draw = (lambda shape: random.integers(1, 3, shape)) if ties else random.standard_normal
    items, queries = draw((len(ids), 3)).astype(float), draw((8, 3)).astype(float)
    named = {"a": list(range(0, len(ids), 2)), "b": list(range(1, len(ids), 3))}
    pools = {"a": [ids[item] for item in named["a"]], "b": [ids[item] for item in named["b"]], "none": []}
    questions = []
    for number in range(len(queries)):
        relevant = {str(item): float(random.integers(0, 4)) for item in random.choice([*ids, "ghost"], 3)}
        listed = [str(item) for item in random.choice([*ids, "phantom"], 9)]
        pool = [None, "a", "b", "none", listed][random.integers(5)]
        questions.append(Question(f"q{number}", "?", "en", relevant, pool=pool))
    asked = Asked.of(questions, ids, named)
    values = asked.values(asked.ranks(EmbeddingScores(torch.from_numpy(items), torch.from_numpy(queries))))
    mentioned = {item for question in questions for item in question.relevant}
    mentioned.update(item for question in questions if isinstance(question.pool, list) for item in question.pool)
    assert asked.unknown == mentioned - set(ids)
    for number, (question, query) in enumerate(zip(questions, queries, strict=True)):
        pool = question.pool
        among = ids if pool is None else pools[pool] if isinstance(pool, str) else sorted(set(pool) & set(ids))
        assert asked.size[number] == len(among)
        assert asked.right[number] == len(question.right.keys() & set(among))
        if not asked.right[number]:
            assert all(np.isnan(each[number]) for each in values.values())
            continue
        cosines = items @ query / np.linalg.norm(items, axis=1) / np.linalg.norm(query)
        expected = loop(question, dict(zip(ids, cosines.tolist(), strict=True)), among)
        assert {name: each[number] for name, each in values.items()} == pytest.approx(expected)


def test_figures_are_those_of_trec_eval_on_its_top_hundred() -> None:
    pytrec_eval = pytest.importorskip("pytrec_eval")
    random = np.random.default_rng(0)
    items, queries = random.standard_normal((2000, 16)), random.standard_normal((40, 16))
    relevant = [{f"i{item}": float(random.integers(1, 4)) for item in random.choice(2000, 20)} for _ in queries]
    for query, grades in zip(queries, relevant, strict=True):  # some of them are near
        grades |= {f"i{item}": 2.0 for item in random.choice(np.argsort(-items @ query)[:30], 3)}
    questions = [Question(f"q{number}", "?", "en", grades) for number, grades in enumerate(relevant)]
    asked = Asked.of(questions, [f"i{number}" for number in range(2000)], {})
    values = asked.values(asked.ranks(EmbeddingScores(torch.from_numpy(items), torch.from_numpy(queries))))
    units = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (items, queries)]
    run = {}
    for question, scores in zip(questions, units[1] @ units[0].T, strict=True):
        run[question.id] = {f"i{item}": float(scores[item]) for item in np.argsort(-scores)[:100]}
    qrels = {each.id: {item: int(grade) for item, grade in each.relevant.items()} for each in questions}
    theirs = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut_5,10", "success_1,5,10", "recip_rank"}).evaluate(run)
    names = {"nDCG@5": "ndcg_cut_5", "nDCG@10": "ndcg_cut_10", "R@1": "success_1", "R@10": "success_10"}
    for ours, name in names.items():
        expected = [theirs[question.id][name] for question in questions]
        assert values[ours] == pytest.approx(expected, abs=1e-9)
    first = np.array([theirs[question.id]["recip_rank"] for question in questions])
    assert values["MRR@10"] == pytest.approx(np.where(first >= 0.1 - 1e-9, first, 0), abs=1e-9)
    assert 0.05 < values["nDCG@10"].mean() < 0.9


def test_figures_by_language_mean_and_group() -> None:
    values = {"R@1": np.array([1.0, 0, 1, np.nan, np.nan]), "accuracy": np.array([np.nan, 1, 0, 1, np.nan])}
    languages, groups = ["lv", "lv", "en", "sw", "xx"], ["table", None, "table", "text", "text"]
    figures = question_figures(values, languages, groups, bootstrap=0)
    assert figures == {
        "en": {"R@1": 100, "accuracy": 0, "queries": 1},
        "lv": {"R@1": 50, "accuracy": 100, "queries": 2},
        "sw": {"accuracy": 100, "queries": 1},
        "mean": {"R@1": 75, "accuracy": pytest.approx(200 / 3), "queries": pytest.approx(4 / 3)},
        "groups": {"table": {"R@1": 100, "accuracy": 0, "queries": 2}, "text": {"accuracy": 100, "queries": 1}},
    }


def test_intervals_resample_questions() -> None:
    """The normal approximation gives the same width; without variance there is none."""
    random = np.random.default_rng(0)
    values = {"R@1": (random.random(800) < 0.3).astype(float), "nDCG@10": np.ones(800)}
    languages = ["en", "lv"] * 400
    figures = question_figures(values, languages, [None] * 800)
    for language in ("en", "lv"):
        share = figures[language]["R@1"] / 100
        low, high = figures[language]["R@1_ci95"]
        assert high - low == pytest.approx(100 * 2 * 1.96 * math.sqrt(share * (1 - share) / 400), rel=0.1)
        assert low < figures[language]["R@1"] < high
    low, high = figures["mean"]["R@1_ci95"]
    assert high - low < figures["en"]["R@1_ci95"][1] - figures["en"]["R@1_ci95"][0]
    assert figures["mean"]["nDCG@10_ci95"] == pytest.approx([100, 100])


def test_a_gain_is_of_the_questions_that_both_answer() -> None:
    random = np.random.default_rng(0)
    before = {name: random.random(300) for name in ("nDCG@10", "R@1")}
    after = {name: each + 0.05 for name, each in before.items()}
    after["nDCG@10"][:30] = after["R@1"][:30] = np.nan
    languages = ["en", "lv", "lv"] * 100
    gains = paired_questions(before, after, languages)
    assert list(gains) == ["en", "lv", "mean"]
    for language, each in gains.items():
        assert each["R@1"]["difference"] == pytest.approx(5)
        assert each["R@1"]["ci95"] == pytest.approx([5, 5], abs=1e-4) and each["R@1"]["p"] < 0.01
        assert each["R@1"]["queries"] == {"en": 90, "lv": 180, "mean": 135}[language]
    assert paired_questions(before, {name: np.full(300, np.nan) for name in before}, languages) == {}


def test_chance_is_how_often_a_random_order_is_right() -> None:
    right, pool = np.array([1, 3, 2, 4]), np.array([20, 12, 3, 4])
    expected = {}
    for k in (1, 5, 10):
        missed = [math.comb(n - r, k) / math.comb(n, k) if n - r >= k else 0 for r, n in zip(right, pool, strict=True)]
        expected[f"R@{k}"] = 100 * (1 - np.mean(missed))
    assert chance(right, pool) == pytest.approx(expected)
