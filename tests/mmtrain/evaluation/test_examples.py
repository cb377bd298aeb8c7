import subprocess
import sys

import numpy as np
import pytest

from mmtrain.evaluation import choose_examples, flat_top_k, rank_retrieval, score_histogram


@pytest.fixture(scope="module")
def examples(shown):
    return choose_examples(shown.ranks, shown.image, shown.text, shown.captions, shown.thumbnail)


def test_every_language_shows_right_and_wrong_in_both_directions(examples, shown):
    for language in shown.ranks.languages:
        for direction in ("text_to_image", "image_to_text"):
            ranks = [e.rank for e in examples.queries if (e.language, e.direction) == (language, direction)]
            assert sum(rank == 1 for rank in ranks) == 2 and sum(rank > 1 for rank in ranks) == 2


def test_the_answers_agree_with_the_exact_ranks(examples):
    for example in examples.queries:
        right = [place for place, answer in enumerate(example.answers, start=1) if answer.right]
        assert len(example.answers) == 5
        assert (right[0] if right else 6) == min(example.rank, 6)
        scores = [answer.score for answer in example.answers]
        assert scores == sorted(scores, reverse=True)


def test_the_draw_is_repeatable_and_has_its_pictures(examples, shown):
    again = choose_examples(shown.ranks, shown.image, shown.text, shown.captions, shown.thumbnail)
    assert again.queries == examples.queries and again.rank_images == examples.rank_images
    used = {item.image for e in examples.queries for item in (e.query, *e.answers, e.wanted)} - {None}
    assert used | set(examples.rank_images) == set(examples.pictures)


@pytest.mark.parametrize(("similarity", "noise"), [("cosine", 1.5), ("asymmetric", 0.8)])
def test_recall_through_the_flat_index_is_the_recall_of_the_ranks(similarity, noise):
    random = np.random.default_rng(3)
    image = random.standard_normal((1200, 32))  # wide enough that no two scores tie to 1e-6 around the tenth place
    text = image + noise * random.standard_normal(image.shape)
    ranks = rank_retrieval(image, text, np.arange(1200), ["en"] * 1200, similarity=similarity)
    for queries, items, outcome, turned in (
        (text, image, ranks.text_to_image["en"], True),
        (image, text, ranks.image_to_text["en"], False),
    ):
        found = flat_top_k(queries, items, 10, similarity, turned=turned)[1]
        hits = (found == np.arange(1200)[:, None]).any(1)
        assert 0.05 < hits.mean() < 0.95
        assert hits.tolist() == (outcome.rank < 10).tolist()


def test_the_flat_index_gives_all_items_when_there_are_fewer_than_k():
    scores, found = flat_top_k(np.eye(2), np.eye(3)[:, :2], 10)
    assert found[0, 0] == 0 and scores[0, 0] == 1 and found.shape == (2, 3)


def test_right_pairs_score_higher_than_random_wrong_ones(shown):
    histogram = score_histogram(shown.ranks, shown.image, shown.text)
    middle = (np.array(histogram["edges"][1:]) + histogram["edges"][:-1]) / 2
    assert sum(histogram["positive"]) == pytest.approx(1) and sum(histogram["negative"]) == pytest.approx(1)
    assert middle @ histogram["positive"] > 0.5 > abs(middle @ histogram["negative"])


def test_importing_evaluation_brings_neither_faiss_nor_a_trainer():
    program = (
        "import sys, mmtrain.evaluation;"
        "heavy = {'faiss', 'lightning', 'pytorch_lightning', 'wandb', 'transformers'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_missing_faiss_names_the_extras(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ValueError, match=r"mmtrain\[cpu\], or mmtrain\[gpu\]"):
        flat_top_k(np.eye(2), np.eye(2), 1)
