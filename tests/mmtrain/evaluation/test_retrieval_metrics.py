"""Retrieval figures against a slow float64 oracle that ranks one query at a time."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmtrain.evaluation import rank_retrieval, retrieval_metrics

LANGUAGES = np.array(["en", "de", "ja"])


def oracle_scores(queries, items, similarity, query_is_specific=True):
    """float64 scores [Q, P], one pair at a time."""
    scores = np.zeros((len(queries), len(items)))
    for i, query in enumerate(queries.astype(np.float64)):
        for j, item in enumerate(items.astype(np.float64)):
            if similarity == "cosine":
                norms = np.linalg.norm(query) * np.linalg.norm(item)
                scores[i, j] = query @ item / norms if norms else 0.0
            else:
                specific, general = (query, item) if query_is_specific else (item, query)
                scores[i, j] = -(np.maximum(0, np.abs(general) - np.abs(specific)) ** 2).sum()
    return np.round(scores / 1e-6).astype(int)


def oracle_rank(scores, right, wanted=None):
    """0-based rank and nDCG@3 of one query from its scores [P] and the set of right items."""
    wanted = right if wanted is None else wanted
    ordered = sorted((scores[j] for j in wanted), reverse=True)
    wrong = [scores[j] for j in range(len(scores)) if j not in right]
    places = [sum(w >= s for w in wrong) + position + 1 for position, s in enumerate(ordered)]
    gain = sum(1 / math.log2(1 + place) for place in places if place <= 3)
    return places[0] - 1, gain / sum(1 / math.log2(2 + position) for position in range(min(3, len(ordered))))


@st.composite
def collections(draw):
    """A small collection with ties (few distinct directions), several captions, missing languages, and duplicates."""
    images, texts, width = draw(st.integers(1, 9)), draw(st.integers(1, 20)), draw(st.integers(1, 5))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if draw(st.booleans()):
        image, text = (random.integers(-1, 2, (n, width)).astype(np.float32) for n in (images, texts))
    else:
        dtype = draw(st.sampled_from([np.float16, np.float32, np.float64]))
        image, text = (random.standard_normal((n, width)).astype(dtype) for n in (images, texts))
    image_of_text = random.integers(0, images, texts)
    language_of_text = LANGUAGES[random.integers(0, 3, texts)]
    groups = draw(st.booleans())
    image_groups = random.integers(0, images, images) if groups else np.arange(images)
    text_groups = random.integers(0, 2 * texts, texts) if groups else np.arange(texts)
    return image, text, image_of_text, language_of_text, image_groups, text_groups


def right_images(t, image_of_text, image_groups, text_groups):
    shown = {image_groups[image_of_text[u]] for u in np.flatnonzero(text_groups == text_groups[t])}
    return {i for i in range(len(image_groups)) if image_groups[i] in shown}


@settings(max_examples=100, deadline=None)
@given(
    collections(),
    st.sampled_from(["cosine", "asymmetric"]),
    st.sampled_from(["all", "first"]),
    st.sampled_from(["language", "all"]),
)
def test_ranks_are_those_of_a_float64_score_matrix(collection, similarity, captions, pool):
    image, text, image_of_text, language_of_text, image_groups, text_groups = collection
    ranks = rank_retrieval(
        image, text, image_of_text, language_of_text, recall_at=(1, 3), captions=captions, similarity=similarity,
        pool=pool, image_groups=image_groups, text_groups=text_groups,
    )  # fmt: skip
    right = [right_images(t, image_of_text, image_groups, text_groups) for t in range(len(text))]
    shown_in = list(zip(image_of_text, language_of_text, strict=True))
    kept = [t for t in range(len(text)) if captions == "all" or shown_in[t] not in shown_in[:t]]
    from_images = oracle_scores(image, text, similarity)
    assert ranks.languages == sorted(set(language_of_text))
    for language in ranks.languages:
        captions_of = [t for t in kept if language_of_text[t] == language]
        expected = [oracle_rank(from_images[:, t], right[t]) for t in captions_of]
        to_image = ranks.text_to_image[language]
        assert to_image.query.tolist() == captions_of
        assert to_image.rank.tolist() == [rank for rank, _ in expected]
        assert to_image.ndcg == pytest.approx([gain for _, gain in expected])

        pooled = captions_of if pool == "language" else kept
        queries = sorted({image_of_text[t] for t in captions_of})
        expected = []
        for i in queries:
            correct = {p for p, t in enumerate(pooled) if i in right[t]}
            wanted = {p for p in correct if language_of_text[pooled[p]] == language}
            expected.append(oracle_rank(from_images[i, pooled], correct, wanted))
        to_text = ranks.image_to_text[language]
        assert to_text.query.tolist() == queries
        assert to_text.rank.tolist() == [rank for rank, _ in expected]
        assert to_text.ndcg == pytest.approx([gain for _, gain in expected])


@settings(max_examples=60, deadline=None)
@given(collections(), st.sampled_from(["cosine", "asymmetric"]))
def test_text_to_text_ranks_captions_of_the_other_language(collection, similarity):
    image, text, image_of_text, language_of_text, image_groups, text_groups = collection
    known = sorted(set(language_of_text))
    shown = [
        {image_groups[image_of_text[u]] for u in np.flatnonzero(text_groups == text_groups[t])}
        for t in range(len(text))
    ]
    asked = [t for t in range(len(text)) if language_of_text[t] == known[0]]
    pooled = [t for t in range(len(text)) if language_of_text[t] == known[-1]]
    queries = [t for t in asked if any(shown[t] & shown[u] for u in pooled)]
    arguments = (image, text, image_of_text, language_of_text)
    options = {
        "text_to_text": [(known[0], known[-1])], "recall_at": (1, 3), "similarity": similarity,
        "image_groups": image_groups, "text_groups": text_groups,
    }  # fmt: skip
    if known[0] == known[-1] or not queries:
        with pytest.raises(ValueError, match="with itself" if known[0] == known[-1] else "no query"):
            rank_retrieval(*arguments, **options)
        return
    ranks = rank_retrieval(*arguments, **options)
    name = f"{known[0]}->{known[-1]}"
    scores = oracle_scores(text[queries], text[pooled], similarity)
    expected = [
        oracle_rank(scores[q], {p for p, u in enumerate(pooled) if shown[t] & shown[u]}) for q, t in enumerate(queries)
    ]
    assert ranks.text_to_text[name].query.tolist() == queries
    assert ranks.text_to_text[name].rank.tolist() == [rank for rank, _ in expected]
    assert ranks.protocol["excluded"]["text_to_text"][name] == len(asked) - len(queries)


def test_ranks_stay_exact_over_many_tiles_with_near_ties():
    """1,500 images and 4,500 captions span tiles and query blocks; clones 3e-7 apart sit on both sides of the tie
    tolerance.
    """
    random = np.random.default_rng(0)
    image = random.standard_normal((1500, 6)).astype(np.float32)
    image[500:1000] = image[:500] + 3e-7 * random.standard_normal((500, 6))
    image_of_text = random.integers(0, 1500, 4500)
    text = image[image_of_text] + 0.3 * random.standard_normal((4500, 6)).astype(np.float32)
    ranks = rank_retrieval(image, text, image_of_text, ["en"] * 4500)

    unit = [side / np.linalg.norm(side, axis=1, keepdims=True) for side in (text.astype(float), image.astype(float))]
    steps = np.rint(unit[0] @ unit[1].T / 1e-6)
    own = np.take_along_axis(steps, image_of_text[:, None], 1)
    assert ranks.text_to_image["en"].rank.tolist() == ((steps >= own).sum(1) - 1).tolist()

    right = image_of_text[:, None] == np.arange(1500)
    best = np.where(right, steps, -np.inf).max(0)
    wrong = ((steps >= best) & ~right).sum(0)
    described = np.unique(image_of_text)
    assert ranks.image_to_text["en"].rank.tolist() == wrong[described].tolist()


def test_a_collapsed_model_ranks_last_everywhere():
    image = np.ones((1100, 3), dtype=np.float32)
    metrics = retrieval_metrics(image, image, np.arange(1100), ["en"] * 1100, bootstrap=0)
    for direction in ("text_to_image", "image_to_text"):
        assert metrics[direction]["en"]["mean_rank"] == 1100
    assert metrics["mean_recall"] == 0


def test_ranks_do_not_depend_on_matmul_precision_or_autocast():
    random = np.random.default_rng(1)
    image, text = (torch.from_numpy(random.standard_normal((300, 64)).astype(np.float32)) for _ in range(2))
    plain = rank_retrieval(image, text, torch.arange(300), ["en"] * 300)
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loose = rank_retrieval(image, text, torch.arange(300), ["en"] * 300)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert plain.text_to_image["en"].rank.tolist() == loose.text_to_image["en"].rank.tolist()


def worked_example():
    """Three images on a circle; German lacks the second, English describes the first twice (the second time badly)."""
    image = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    text = np.array([[0.9, 0.1], [-1.0, 0.1], [0.1, 0.9], [-0.9, 0.2], [1.0, 0.0], [0.2, 1.0]])
    return image, text, [0, 0, 1, 2, 0, 2], ["en", "en", "en", "en", "de", "de"]


def test_the_figures_of_a_small_collection_counted_by_hand():
    metrics = retrieval_metrics(*worked_example(), recall_at=(1, 2), text_to_text=[("de", "en")], bootstrap=50)
    # en: captions rank their image 1st, 3rd, 1st, 1st. de: 1st and 3rd.
    english = metrics["text_to_image"]["en"]
    assert english["R@1"] == 75 and english["R@2"] == 75 and english["queries"] == 4
    assert (
        english["MRR@1"] == 75
        and english["MRR@2"] == 75
        and english["mean_rank"] == 1.5
        and english["median_rank"] == 1
    )
    assert metrics["text_to_image"]["de"]["R@1"] == 50
    assert metrics["text_to_image"]["mean"]["R@1"] == 62.5
    # Image 2 finds the bad caption of image 0 before its own; in German two images are asked, and both find theirs.
    assert metrics["image_to_text"]["en"]["R@1"] == pytest.approx(200 / 3)
    assert metrics["image_to_text"]["de"]["queries"] == 2
    assert metrics["image_to_text"]["en"]["nDCG@2"] == pytest.approx(
        100 * (1 / (1 + 1 / math.log2(3)) + 1 + 1 / math.log2(3)) / 3
    )
    # Images 0 and 2 have both languages: German ranks 0 and 2 (0-based) against English 0 and 0.
    assert metrics["mean_rank_variance"]["text_to_image"] == {"var": 0.5, "std": 0.5, "mad": 0.5}
    assert metrics["protocol"]["mean_rank_variance"]["images_left_out"]["text_to_image"] == 1
    # "de" 5 (image 2) prefers the English caption of image 1.
    assert metrics["text_to_text"]["de->en"]["R@1"] == 50
    # R@1 of 62.5 and 83.3; among three images everything is found within the first 5 and 10.
    assert metrics["mean_recall"] == pytest.approx((62.5 + 250 / 3 + 4 * 100) / 6)


def test_the_first_caption_alone_counts_when_asked():
    metrics = retrieval_metrics(*worked_example(), captions="first", bootstrap=0)
    assert metrics["text_to_image"]["en"]["queries"] == 3 and metrics["text_to_image"]["en"]["R@1"] == 100
    assert metrics["image_to_text"]["en"]["R@1"] == 100
    assert metrics["protocol"]["captions"] == "first"
    assert metrics["protocol"]["texts_used"] == 5


def test_the_keys_are_those_of_metrics_json():
    metrics = retrieval_metrics(*worked_example())
    assert {"protocol", "text_to_image", "image_to_text", "text_to_text", "mean_recall", "mean_rank_variance"} <= set(
        metrics
    )
    names = {"R@1", "R@5", "R@10", "nDCG@10", "median_rank", "mean_rank", "queries", "R@1_ci95"}
    names |= {"MRR@1", "MRR@5", "MRR@10"}
    for direction in ("text_to_image", "image_to_text"):
        assert list(metrics[direction]) == ["de", "en", "mean"]
        assert all(set(each) == names for each in metrics[direction].values())
    expected = {
        "captions": "all",
        "images": 3,
        "texts": 6,
        "index": "flat",
        "ties": "pessimistic",
        "tie_tolerance": 1e-6,
    }
    assert expected.items() <= metrics["protocol"].items()


def test_declared_duplicates_are_right_answers():
    image, text, image_of_text, languages = worked_example()
    plain = retrieval_metrics(image, text, image_of_text, languages, bootstrap=0)
    grouped = retrieval_metrics(image, text, image_of_text, languages, bootstrap=0, image_groups=[0, 1, 0])
    assert plain["text_to_image"]["en"]["R@1"] == 75
    assert (
        grouped["text_to_image"]["en"]["R@1"] == 100
    )  # the bad caption of image 0 finds image 2, its declared duplicate
    assert grouped["protocol"]["duplicates"] == {"images": True, "texts": False}


def test_languages_are_chosen_and_ordered():
    metrics = retrieval_metrics(*worked_example(), languages=["en"], bootstrap=0)
    assert list(metrics["text_to_image"]) == ["en", "mean"]
    assert metrics["mean_rank_variance"]["text_to_image"]["var"] is None


def test_mean_recall_is_of_1_5_and_10_whatever_is_shown():
    plain = retrieval_metrics(*worked_example(), bootstrap=0)
    for recall_at in ((1,), (2, 3), (1, 3, 5, 10)):
        shown = retrieval_metrics(*worked_example(), recall_at=recall_at, bootstrap=0)
        assert shown["mean_recall"] == plain["mean_recall"]
    recalls = [plain[way]["mean"][f"R@{k}"] for way in ("text_to_image", "image_to_text") for k in (1, 5, 10)]
    assert plain["mean_recall"] == pytest.approx(np.mean(recalls))


@pytest.mark.filterwarnings("error")
def test_arrays_of_every_layout_are_read():
    image, text, image_of_text, languages = worked_example()
    image, text = np.asarray(image, np.float32), np.asarray(text, np.float32)
    plain = retrieval_metrics(image, text, image_of_text, languages, bootstrap=0)
    frozen = image.copy()
    frozen.setflags(write=False)
    for other in (image[::-1].copy()[::-1], image.astype(">f4"), np.asfortranarray(image), frozen):
        named = np.array(list(languages), dtype=object)
        assert retrieval_metrics(other, text, image_of_text, named, bootstrap=0) == plain


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_embeddings": np.array([[1.0, 0.0], [0.0, np.nan], [1.0, 1.0]])}, "image_embeddings row 1 holds NaN"),
        ({"text_embeddings": np.ones((6, 3))}, "text_embeddings have width 3 and image_embeddings 2"),
        ({"text_embeddings": np.ones((6, 2), dtype=int)}, "give floating numbers of shape"),
        ({"image_embeddings": np.ones((0, 2))}, "image_embeddings is empty"),
        ({"image_of_text": [0, 0, 1, 3, 0, 2]}, r"image_of_text\[3\] is 3; there are 3 images, so 0 to 2"),
        ({"image_of_text": [0, 0, 1, -1, 0, 2]}, r"image_of_text\[3\] is -1"),
        ({"image_of_text": [0, 0]}, "give 6 whole numbers"),
        ({"language_of_text": ["en"]}, "give 6 language codes"),
        ({"languages": ["en", "lv"]}, "'lv' has no caption; the captions have de, en"),
        ({"languages": []}, "languages is empty"),
        ({"text_to_text": [("de", "fr")]}, "'fr' has no caption"),
        ({"text_to_text": [("de", "en")], "languages": ["en"]}, "'de', which is not among the languages en"),
        ({"captions": "some"}, "captions is 'some'; accepted are 'all' and 'first'"),
        ({"similarity": "dot"}, "accepted are 'cosine' and 'asymmetric'"),
        ({"pool": "image"}, "accepted are 'language' and 'all'"),
        ({"recall_at": ()}, "recall_at is"),
        ({"image_groups": [1, 2]}, "image_groups has 2 entries for 3 images"),
    ],
)
def test_bad_input_is_answered_in_one_line(change, message):
    names = ("image_embeddings", "text_embeddings", "image_of_text", "language_of_text")
    with pytest.raises(ValueError, match=message) as error:
        retrieval_metrics(**(dict(zip(names, worked_example(), strict=True)) | change))
    assert "\n" not in str(error.value)
