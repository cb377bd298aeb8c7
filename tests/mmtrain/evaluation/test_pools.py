"""Ranks within pools: folds, each language's own images, documents."""

import numpy as np
import pytest

from mmtrain.evaluation import paired_bootstrap, rank_retrieval, retrieval_metrics, summarise
from mmtrain.evaluation.ranking.pools import Pool, folds, mean_over_pools, own_images, rank_pools
from mmtrain.evaluation.ranking.protocol_statement import in_words, unequal_pools


def collection(images=30, seed=0, noise=1.0):
    """Images [N, 6] with one or two captions in en, and one in de on every second image."""
    random = np.random.default_rng(seed)
    image = random.standard_normal((images, 6))
    image_of_text = np.concatenate([np.arange(images), np.arange(0, images, 3), np.arange(0, images, 2)])
    language = np.array(["en"] * (images + len(range(0, images, 3))) + ["de"] * len(range(0, images, 2)))
    text = image[image_of_text] + noise * random.standard_normal((len(image_of_text), 6))
    return image, text, image_of_text, language


def test_a_pool_of_everything_changes_nothing():
    columns = collection()
    plain = rank_retrieval(*columns)
    pooled, _ = rank_pools(*columns, [Pool("all", np.arange(30))])
    for direction in ("text_to_image", "image_to_text"):
        for language in ("en", "de"):
            ours, theirs = (getattr(ranks, direction)[language] for ranks in (pooled, plain))
            for field in ("query", "image", "rank", "ndcg"):
                np.testing.assert_array_equal(getattr(ours, field), getattr(theirs, field))
    ours, theirs = summarise(pooled), summarise(plain)
    assert ours["text_to_image"] == theirs["text_to_image"] and ours["mean_recall"] == theirs["mean_recall"]
    assert ours["mean_rank_variance"] == theirs["mean_rank_variance"]


def test_each_fold_is_ranked_as_if_it_were_alone():
    image, text, image_of_text, language = collection()
    pooled, parts = rank_pools(image, text, image_of_text, language, folds(30, 10))
    assert len(parts) == 3
    for number in range(3):
        own = np.arange(10 * number, 10 * number + 10)
        texts = np.isin(image_of_text, own)
        alone = rank_retrieval(image[own], text[texts], image_of_text[texts] - own[0], language[texts])
        of_pool = pooled.image_to_text["en"]
        chosen = np.isin(of_pool.image, own)
        np.testing.assert_array_equal(of_pool.rank[chosen], alone.image_to_text["en"].rank)
        np.testing.assert_array_equal(of_pool.image[chosen] - own[0], alone.image_to_text["en"].image)


def test_figures_are_means_over_folds_of_different_sizes():
    columns = collection(images=25)
    pooled, parts = rank_pools(*columns, folds(25, 10))
    each = [summarise(part, bootstrap=0) for part in parts]
    metrics = mean_over_pools(summarise(pooled), each)
    by_hand = np.mean([part["text_to_image"]["en"]["R@1"] for part in each])
    assert metrics["text_to_image"]["en"]["R@1"] == pytest.approx(by_hand)
    assert by_hand != pytest.approx(summarise(pooled)["text_to_image"]["en"]["R@1"])  # the last fold has 5 images
    assert metrics["text_to_image"]["en"]["queries"] == 34
    mean = [metrics[way]["mean"][f"R@{k}"] for way in ("text_to_image", "image_to_text") for k in (1, 5, 10)]
    assert metrics["mean_recall"] == pytest.approx(np.mean(mean))
    assert len(metrics["text_to_image"]["en"]["R@1_ci95"]) == 2


def test_each_language_among_the_images_it_describes():
    image, text, image_of_text, language = collection()
    ranks, _ = rank_pools(image, text, image_of_text, language, own_images(image_of_text, language))
    even, german = np.arange(0, 30, 2), language == "de"
    alone = rank_retrieval(image[even], text[german], image_of_text[german] // 2, language[german])
    np.testing.assert_array_equal(ranks.text_to_image["de"].rank, alone.text_to_image["de"].rank)
    assert ranks.protocol["pools"]["count"] == 2 and ranks.protocol["images"] == 30


def test_two_models_pair_up_over_pools():
    first = rank_pools(*collection(noise=2.0), folds(30, 10))[0]
    second = rank_pools(*collection(noise=0.1), folds(30, 10))[0]
    assert paired_bootstrap(first, second)["text_to_image"]["en"]["difference"] > 0


def test_duplicates_count_as_right_within_a_pool():
    image = np.eye(4)
    text = image[[1, 0, 3, 2]]  # each caption lies on its neighbour's image
    columns = (image, text, np.arange(4), np.array(["en"] * 4))
    assert (rank_pools(*columns, folds(4, 2))[0].text_to_image["en"].rank == 1).all()
    grouped = rank_pools(*columns, folds(4, 2), image_groups=np.array([0, 0, 1, 1]))[0]
    assert (grouped.text_to_image["en"].rank == 0).all()


def test_pages_of_a_document_and_chance():
    """Questions about pages (VisR-Bench): the pool is the document, chance is one in its pages."""
    random = np.random.default_rng(0)
    pages = 4
    image, text = random.standard_normal((400, 8)), random.standard_normal((400, 8))
    ids = [f"document{number // pages}/page{number % pages}" for number in range(400)]
    documents = np.unique([name.split("/")[0] for name in ids], return_inverse=True)[1]
    pools = [Pool(str(document), np.flatnonzero(documents == document)) for document in range(100)]
    ranks, _ = rank_pools(image, text, np.arange(400), np.array(["en"] * 400), pools)
    assert np.mean(ranks.text_to_image["en"].rank == 0) == pytest.approx(1 / pages, abs=0.07)
    assert ranks.text_to_image["en"].rank.max() < pages


def test_empty_pools_and_missing_languages_are_one_line():
    columns = collection()
    with pytest.raises(ValueError, match="pool 'none' is empty; a pool needs at least one image"):
        rank_pools(*columns, [Pool("none", np.array([], dtype=int))])
    with pytest.raises(ValueError, match="no pool has a caption in de"):
        rank_pools(*columns, [Pool("odd", np.arange(1, 30, 2))])
    ranks, _ = rank_pools(*columns, [*folds(30, 10), Pool("odd", np.array([1]), ("de",))])
    assert ranks.protocol["pools"]["without_caption"] == 1


def test_pools_of_different_sizes_are_said():
    random = np.random.default_rng(0)
    image, text = random.standard_normal((6, 4)), random.standard_normal((8, 4))
    columns = (image, text, np.array([*range(6), 0, 1]), np.array(["en"] * 6 + ["he"] * 2))
    metrics = retrieval_metrics(*columns, bootstrap=0)
    assert metrics["protocol"]["pools"]["captions"] == {"en": 6, "he": 2}
    (said,) = unequal_pools(metrics["protocol"])
    assert "from 2 captions (he) to 6 (en)" in said and said in in_words(
        summarise(rank_retrieval(*columns))["protocol"]
    )
    assert not unequal_pools(retrieval_metrics(*columns, bootstrap=0, languages=["en"])["protocol"])
    assert not unequal_pools(retrieval_metrics(*columns, bootstrap=0, pool="all")["protocol"])
    pooled, _ = rank_pools(*columns, [Pool("a", np.arange(2)), Pool("b", np.arange(2, 6))])
    assert "from 2 to 4 images" in unequal_pools(pooled.protocol)[0]
