"""Ranks by late interaction, against loops over tokens in float64."""

from itertools import product

import numpy as np
import pytest
import torch

import losses
from mmtrain.evaluation import flat_top_k, rank_retrieval, retrieval_metrics
from mmtrain.evaluation.ranking import tiles, token_rows
from mmtrain.evaluation.ranking.tiles import pair_scores
from mmtrain.evaluation.ranking.token_rows import TokenRows

N, D = 12, 6
IMAGE_OF_TEXT = np.r_[np.arange(N), np.arange(N)]
LANGUAGES = ["en"] * N + ["de"] * N


def items(count: int, longest: int, seed: int, dtype: type = np.float32) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    rows = [random.normal(size=(random.integers(1, longest + 1), D)) for _ in range(count)]
    return [(each / np.linalg.norm(each, axis=1, keepdims=True)).astype(dtype) for each in rows]


def by_loops(images: list[np.ndarray], texts: list[np.ndarray]) -> np.ndarray:
    """float64 [N, M]; the text asks."""
    scores = np.empty((len(images), len(texts)))
    for (i, image), (t, text) in product(enumerate(images), enumerate(texts)):
        scores[i, t] = np.mean([max(np.double(q) @ np.double(p) for p in image) for q in text])
    return scores


def rank(scores: np.ndarray, right: np.ndarray) -> int:
    steps = np.rint(scores / 1e-6)
    return int((steps[~right] >= steps[right].max()).sum())


@pytest.fixture(params=[1, 7, 10_000])
def block(request, monkeypatch: pytest.MonkeyPatch) -> int:
    for name in ("ITEM_TOKENS", "QUERY_TOKENS", "PAIR_BLOCK"):
        monkeypatch.setattr(token_rows, name, request.param)
    monkeypatch.setattr(tiles, "TILE", 5)
    return request.param


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_ranks_are_those_of_the_loop(block: int, dtype: type) -> None:
    images, texts = items(N, 5, 0, dtype), items(2 * N, 4, 1, dtype)
    texts[3] = images[3]  # one that is found
    images[7] = images[8].copy()  # and two pictures that tie
    ranks = rank_retrieval(images, texts, IMAGE_OF_TEXT, LANGUAGES, similarity="late", text_to_text=[("de", "en")])
    scores, between = by_loops(images, texts), by_loops(texts[:N], texts[N:])
    for first, language in enumerate(("en", "de")):
        own = np.arange(N) + N * first
        expected = [rank(scores[:, text], np.arange(N) == IMAGE_OF_TEXT[text]) for text in own]
        assert ranks.text_to_image[language].rank.tolist() == expected
        expected = [rank(scores[image, own], np.arange(N) == image) for image in range(N)]
        assert ranks.image_to_text[language].rank.tolist() == expected
    assert ranks.text_to_text["de->en"].rank.tolist() == [rank(between[:, t], np.arange(N) == t) for t in range(N)]
    assert ranks.text_to_image["en"].rank[3] == 0 and ranks.protocol["similarity"] == "late"
    assert (ranks.text_to_image["en"].rank[[7, 8]] > 0).all()  # a tie goes against us


def test_scores_are_those_of_the_loss(block: int) -> None:
    images, texts = items(N, 5, 0), items(N, 4, 1)
    i, t = (each.ravel() for each in np.indices((N, N)))
    ours = pair_scores(TokenRows.of(images), TokenRows.of(texts), i, t, "late").reshape(N, N)
    (queries, query_mask), (rows, mask) = (
        (torch.from_numpy(np.stack([np.pad(each, ((0, 5 - len(each)), (0, 0))) for each in side])),
         torch.arange(5) < torch.tensor([[len(each)] for each in side]))
        for side in (texts, images)
    )  # fmt: skip
    theirs = losses.late_interaction(queries, query_mask, rows, mask, mean=True)
    np.testing.assert_allclose(ours, theirs.T, atol=1e-6)
    np.testing.assert_allclose(ours, by_loops(images, texts), atol=1e-12)


def test_a_score_depends_on_its_own_tokens_alone() -> None:
    images, texts = TokenRows.of(items(N, 5, 0)), TokenRows.of(items(N, 4, 1))
    whole = pair_scores(images, texts, np.arange(N), np.arange(N), "late")
    alone = [pair_scores(images[n : n + 1], texts[n : n + 1], *np.zeros((2, 1), int), "late")[0] for n in range(N)]
    np.testing.assert_allclose(alone, whole, atol=1e-15)


def test_the_best_of_a_query(block: int) -> None:
    images, texts = items(N, 5, 0), items(3, 4, 1)
    scores = by_loops(images, texts).T
    found, best = flat_top_k(TokenRows.of(texts), TokenRows.of(images), 4, "late", turned=True)
    np.testing.assert_array_equal(best, np.argsort(-scores)[:, :4])
    np.testing.assert_allclose(found, -np.sort(-scores)[:, :4], atol=1e-6)
    _, best = flat_top_k(TokenRows.of(images), TokenRows.of(texts), 2, "late")
    np.testing.assert_array_equal(best, np.argsort(-scores.T)[:, :2])


def test_one_token_an_item_is_cosine() -> None:
    images, texts = np.concatenate(items(N, 1, 0)), np.concatenate(items(2 * N, 1, 1))
    columns = (IMAGE_OF_TEXT, LANGUAGES)
    late = retrieval_metrics(images[:, None], texts[:, None], *columns, similarity="late", bootstrap=20)
    dense = retrieval_metrics(images, texts, *columns, bootstrap=20)
    assert late["protocol"].pop("similarity") == "late" and dense["protocol"].pop("similarity") == "cosine"
    assert late == dense


def test_a_collapsed_model_ties_everywhere() -> None:
    same = [np.tile(np.eye(D, dtype=np.float32)[:1], (length, 1)) for length in np.arange(N) % 4 + 1]
    ranks = rank_retrieval(same, same, np.arange(N), ["en"] * N, similarity="late")
    assert set(ranks.text_to_image["en"].rank) == set(ranks.image_to_text["en"].rank) == {N - 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[:-1] + [np.empty((0, D), np.float32)], "text_embeddings: item 11 has no token"),
        (lambda rows: [each[:, :4] for each in rows], "text_embeddings have width 4 and image_embeddings 6"),
        (lambda rows: [*rows[:-1], rows[-1][:, :4]], r"token rows: item 11 is torch.float32 of shape \[\d, 4\]"),
        (lambda rows: [each[0] for each in rows], r"token rows: item 0 is torch.float32 of shape \[6\]"),
        (lambda rows: [each * np.nan for each in rows], "text_embeddings row 0 holds NaN"),
        (lambda rows: [], "text_embeddings is empty"),
    ],
)
def test_what_is_wrong_is_said(change, message: str) -> None:
    images, texts = items(N, 5, 0), items(N, 4, 1)
    with pytest.raises(ValueError, match=message):
        rank_retrieval(images, change(texts), np.arange(N), ["en"] * N, similarity="late")
