"""Graded relevance and grouped pools, against a loop that sorts one query at a time."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from mmtrain.evaluation import rank_graded
from mmtrain.evaluation.protocols import named_protocol
from mmtrain.evaluation.ranking.pools import Pool


def oracle(items, query, grades, depth):
    """0-based rank, nDCG and average precision of one query: by score, then the less relevant first."""
    scores = [round(float(query @ item) / (np.linalg.norm(query) * np.linalg.norm(item)) * 1e6) for item in items]
    order = sorted(range(len(items)), key=lambda i: (-scores[i], grades[i]))
    gain = sum(grades[i] / math.log2(2 + place) for place, i in enumerate(order[:depth]))
    ideal = sum(grade / math.log2(2 + place) for place, grade in enumerate(sorted(grades, reverse=True)[:depth]))
    best = max(scores[i] for i in range(len(items)) if grades[i] > 0)
    right = [place for place, i in enumerate(order, start=1) if grades[i] > 0]
    precisions = [count / place for count, place in enumerate(right, start=1) if place <= depth]
    precision = sum(precisions) / min(len(right), depth)
    return sum(scores[i] >= best and grades[i] == 0 for i in range(len(items))), gain / ideal, precision


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.booleans(), st.integers(1, 4))
def test_ranks_ndcg_and_average_precision_are_those_of_a_loop(seed, ties, depth):
    random = np.random.default_rng(seed)
    count, asked = random.integers(1, 12), random.integers(1, 6)
    draw = (lambda shape: random.integers(1, 3, shape)) if ties else random.standard_normal
    items, queries = draw((count, 3)).astype(np.float32), draw((asked, 3)).astype(np.float32)
    grades = random.integers(0, 4, (asked, count)) * (random.random((asked, count)) < 0.5)
    of_query, of_item = random.integers(0, 2, asked), random.integers(0, 2, count)
    pools = [np.flatnonzero(of_item == group) for group in of_query]
    answerable = [q for q in range(asked) if grades[q, pools[q]].any()]
    if not answerable:
        with pytest.raises(ValueError, match="no query has a right item in its pool"):
            rank_graded(items, queries, csr_array(grades), groups=np.concatenate([of_query, of_item]))
        return
    ranks, left_out = rank_graded(
        items, queries, csr_array(grades), depth=depth, groups=np.concatenate([of_query, of_item])
    )
    assert left_out == asked - len(answerable) and sorted(ranks.query.tolist()) == answerable
    for q, best, *found in zip(*vars(ranks).values(), strict=True):
        expected = oracle(items[pools[q]].astype(float), queries[q].astype(float), grades[q, pools[q]].tolist(), depth)
        assert found == pytest.approx(expected)
        assert grades[q, best] > 0 and of_item[best] == of_query[q]


def test_a_page_that_answers_half_is_worth_half():
    items, query = np.array([[1.0, 0], [0.9, 0.1], [0, 1]]), np.array([[1.0, 0]])
    best_second, _ = rank_graded(items, query, csr_array([[1, 2, 0]]))
    assert best_second.rank.tolist() == [0]
    assert best_second.ndcg[0] == pytest.approx((1 + 2 / math.log2(3)) / (2 + 1 / math.log2(3)))


def test_a_protocol_of_documents_with_graded_pages():
    """Two documents of three pages; each question is about one page, and another page of its document helps."""
    page = np.eye(6)
    question = page[[0, 1, 3, 4]] + 0.1 * page[[1, 0, 5, 5]]
    about = np.array([0, 1, 3, 4])
    grades = csr_array(([2, 1, 2, 2, 1, 2], ([0, 0, 1, 2, 2, 3], [0, 1, 1, 3, 5, 4])), shape=(4, 6))
    documents = replace(
        named_protocol("wit"),
        name="pages",
        languages=None,
        images=6,
        pools=lambda split: [Pool("a", np.arange(3)), Pool("b", np.arange(3, 6))],
        grades=lambda split: grades,
    )
    names = np.array(["en"] * 4)
    _, metrics = documents.measure(page, question, about, names, [str(i) for i in range(6)], recall_at=(1, 2))
    assert metrics["text_to_image"]["en"]["R@1"] == 100 and metrics["text_to_image"]["en"]["nDCG@2"] == 100
    assert metrics["protocol"]["relevance"].startswith("text to image by grades")
    assert metrics["protocol"]["excluded"]["text_to_image"] == {"en": 0}


def test_shapes_that_do_not_fit_are_one_line():
    with pytest.raises(ValueError, match=r"grades is \[1, 2\]; there are 1 queries and 3 items"):
        rank_graded(np.eye(3), np.eye(3)[:1], csr_array([[1, 0]]))
    with pytest.raises(ValueError, match="groups has 2 entries for 1 queries and 3 items"):
        rank_graded(np.eye(3), np.eye(3)[:1], csr_array([[1, 0, 0]]), groups=[0, 0])
