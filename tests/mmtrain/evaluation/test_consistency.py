import numpy as np
import pytest
from scipy.stats import spearmanr

from mmtrain.evaluation import language_similarity, mean_rank_variance, rank_correlation, rank_retrieval

BY_HAND = [[0, 0, 0, 0], [0, 2, 4, 2], [1, 1, 5, 1]]


@pytest.mark.parametrize(("kind", "value"), [("var", 1.66667), ("std", 1.04875), ("mad", 0.83333)])
def test_rank_variance_by_hand(kind, value):
    assert mean_rank_variance(np.array(BY_HAND), kind) == pytest.approx(value, abs=1e-5)


def test_missing_languages_are_left_out_and_lonely_rows_do_not_count():
    nan = np.nan
    assert mean_rank_variance([[0, 2, nan], [nan, nan, 7], [nan, 3, 3]]) == 0.5  # variances 1 and 0, one row left out
    assert np.isnan(mean_rank_variance([[1, nan], [nan, 2]]))


def test_rank_variance_refuses_what_it_does_not_know():
    with pytest.raises(ValueError, match="'var', 'std' and 'mad'"):
        mean_rank_variance(np.array(BY_HAND), "range")
    with pytest.raises(ValueError, match=r"\[images, languages\]"):
        mean_rank_variance(np.array([1, 2, 3]))


def test_rank_correlation_is_spearman_over_the_images_both_languages_have():
    random = np.random.default_rng(0)
    ranks = random.integers(0, 12, (60, 3)).astype(float)
    ranks[:, 1] = ranks[:, 0] // 2
    ranks[random.random((60, 3)) < 0.2] = np.nan
    correlation = rank_correlation(ranks)
    for a in range(3):
        for b in range(3):
            assert correlation[a, b] == pytest.approx(spearmanr(ranks[:, a], ranks[:, b], nan_policy="omit").statistic)


def test_rank_correlation_is_unknown_where_all_ranks_are_equal():
    assert np.isnan(rank_correlation(np.zeros((5, 2)))).all()


def test_language_similarity_is_the_mean_cosine_of_first_captions():
    image = np.eye(3)
    text = np.array([[1.0, 0, 0], [0, 0, 9], [0, 2, 0], [1, 1, 0], [0, 0, 1]])
    ranks = rank_retrieval(image, text, [0, 0, 1, 0, 2], ["en", "en", "en", "de", "lv"])
    similarity = language_similarity(ranks, text)  # de, en, lv
    assert similarity[0, 1] == similarity[1, 0] == pytest.approx(np.sqrt(0.5))
    assert similarity[1, 1] == pytest.approx(1)
    assert np.isnan(similarity[0, 2])


@pytest.mark.parametrize("missing", [0.0, 0.3, 0.9])
def test_rank_correlation_is_that_of_a_loop_over_pairs(missing):
    random = np.random.default_rng(1)
    ranks = random.integers(0, 9, (40, 12)).astype(float)
    ranks[random.random(ranks.shape) < missing] = np.nan
    correlation = rank_correlation(ranks)
    for a in range(12):
        for b in range(12):
            both = ~np.isnan(ranks[:, a]) & ~np.isnan(ranks[:, b])
            few = both.sum() < 3 or min(np.ptp(ranks[both, a]), np.ptp(ranks[both, b])) == 0
            expected = np.nan if few else spearmanr(ranks[both, a], ranks[both, b]).statistic
            assert correlation[a, b] == pytest.approx(expected, nan_ok=True)
