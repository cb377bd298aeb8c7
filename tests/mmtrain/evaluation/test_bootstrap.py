import numpy as np
import pytest

from mmtrain.evaluation import paired_bootstrap, rank_retrieval, retrieval_metrics

IMAGES = 400


def collection(noise, seed=0, repeats=1):
    random = np.random.default_rng(seed)
    image = random.standard_normal((IMAGES, 8))
    image_of_text = np.repeat(np.arange(IMAGES), repeats)
    error = np.random.default_rng(7).standard_normal((IMAGES, 8))
    return image, (image + noise * error)[image_of_text], image_of_text, ["en"] * len(image_of_text)


def test_the_interval_is_that_of_a_share():
    figures = retrieval_metrics(*collection(0.8), bootstrap=2000)["text_to_image"]["en"]
    share = figures["R@1"] / 100
    assert 0.2 < share < 0.8
    half = 196 * np.sqrt(share * (1 - share) / IMAGES)  # normal approximation, in percentage points
    assert figures["R@1_ci95"] == pytest.approx([figures["R@1"] - half, figures["R@1"] + half], abs=0.9)


def test_the_same_seed_gives_the_same_interval():
    intervals = [
        retrieval_metrics(*collection(0.8), seed=seed)["image_to_text"]["mean"]["R@1_ci95"] for seed in (0, 0, 1)
    ]
    assert intervals[0] == intervals[1] != intervals[2]


def test_copies_of_a_caption_do_not_narrow_the_interval():
    once, thrice = (retrieval_metrics(*collection(0.8, repeats=n))["text_to_image"]["en"]["R@1_ci95"] for n in (1, 3))
    assert thrice == pytest.approx(once, abs=1e-3)


def test_a_better_model_gains_significantly_and_an_equal_one_does_not():
    worse, better = (rank_retrieval(*collection(noise)) for noise in (1.0, 0.7))
    gain = paired_bootstrap(worse, better)["text_to_image"]["en"]
    assert gain["difference"] == gain["second"] - gain["first"] > 0
    assert gain["ci95"][0] > 0 and gain["p"] < 0.01
    same = paired_bootstrap(worse, worse)["text_to_image"]["mean"]
    assert same["ci95"] == [0, 0] and same["p"] == 1


def test_models_ranked_on_other_queries_are_refused():
    image, text, image_of_text, languages = collection(0.5)
    all_of_them = rank_retrieval(image, text, image_of_text, languages)
    some = rank_retrieval(image, text[:-1], image_of_text[:-1], languages[:-1])
    with pytest.raises(ValueError, match="different queries"):
        paired_bootstrap(all_of_them, some)
