"""The rules that fill K slots, by counting thousands of draws."""

import random
from collections import Counter

import pytest
from tiny_shards import sample_files

from datamodules import InOrder, Pivot, Uniform, Weighted

LANGUAGES = ["de", "en", "lv", "zh"]
DRAWS = 20_000


def counted(rule, count, languages=LANGUAGES):
    """Share of the draws that each language is in."""
    rng = random.Random(0)
    draws = [rule.draw(languages, count, rng) for _ in range(DRAWS)]
    assert all(len(set(drawn)) == len(drawn) <= count for drawn in draws)
    seen = Counter(language for drawn in draws for language in drawn)
    return {language: seen[language] / DRAWS for language in languages}


# the deviation of a share of 20,000 draws is at most 0.0035
@pytest.mark.parametrize("count", [1, 2, 3])
def test_uniform_draws_every_language_alike(count):
    assert counted(Uniform(), count) == pytest.approx(dict.fromkeys(LANGUAGES, count / 4), abs=0.015)


def test_weights_are_the_shares_of_one_draw():
    rule = Weighted({"en": 5, "de": 3, "zh": 0})  # lv weighs 1
    assert counted(rule, 1) == pytest.approx({"de": 3 / 9, "en": 5 / 9, "lv": 1 / 9, "zh": 0}, abs=0.015)
    assert counted(rule, 4) == {"de": 1, "en": 1, "lv": 1, "zh": 0}
    # a second draw is in proportion among the rest: lv is left out when de and en are the two
    both = 3 / 9 * 5 / 6 + 5 / 9 * 3 / 4
    assert counted(rule, 2)["lv"] == pytest.approx(1 - both, abs=0.015)


def test_a_pivot_comes_first_and_the_others_by_their_own_rule():
    assert counted(Pivot("en"), 2) == pytest.approx({"de": 1 / 3, "en": 1, "lv": 1 / 3, "zh": 1 / 3}, abs=0.015)
    shares = counted(Pivot("en", Weighted({"zh": 8})), 2)
    assert shares == pytest.approx({"de": 0.1, "en": 1, "lv": 0.1, "zh": 0.8}, abs=0.015)
    rng = random.Random(0)
    assert all(Pivot("zh").draw(LANGUAGES, 3, rng)[0] == "zh" for _ in range(100))
    assert Pivot("zh").draw(["de", "lv"], 2, rng) == ["de", "lv"]  # a sample without the pivot brings others


def test_the_samples_own_come_in_its_own_order():
    assert InOrder().draw(["zh", "de", "lv"], 2, random.Random(0)) == ["zh", "de"]


@pytest.mark.parametrize(
    ("rule", "count", "says"),
    [
        (lambda: Weighted({"en": -1}), 1, "drawing.weights: en weighs -1; 0 or more"),
        (lambda: Weighted({"en": float("nan")}), 1, "drawing.weights: en weighs nan"),
        (lambda: Weighted({"xx": 2}), 1, "drawing.weights: 'xx' is not among the languages in use, de, en, lv"),
        (lambda: Weighted({"en": 0, "de": 0}), 2, "data.captions_per_image: 2 is more than the 1 languages"),
        (lambda: Pivot("xx"), 1, "drawing.language: the pivot 'xx' is not among the languages in use, de, en, lv"),
        (lambda: Pivot("en", Weighted({"en": 2})), 2, "drawing.weights: 'en' is not among .* de, lv"),
    ],
)
def test_a_rule_that_does_not_fit_is_one_line(data, plain_shards, rule, count, says):
    folder = plain_shards([[sample_files(n, {"en": "a", "lv": "b", "de": "c"}) for n in range(4)]])
    with pytest.raises(ValueError, match=says) as error:
        data(train=folder, captions_per_image=count, drawing=rule())
    assert "\n" not in str(error.value)


def test_k_is_all_languages_when_asked(data, plain_shards):
    folder = plain_shards([[sample_files(n, {"lv": "l", "en": "e"} if n % 2 else {"de": "d"}) for n in range(4)]])
    (batch,) = data(train=folder, captions_per_image="all").train_dataloader()
    assert {tuple(texts) for texts in batch.captions} == {("", "e", "l"), ("d", "", "")}


def test_a_batch_brings_what_the_rule_drew(data, plain_shards, epoch):
    captions = {"zh": "四", "lv": ["divi", "pāris"], "de": "zwei", "en": "two"}
    folder = plain_shards([[sample_files(n, captions) for n in range(40)]])
    for batch in data(train=folder, captions_per_image=3, drawing=InOrder()).train_dataloader():
        assert all(texts[0] == "四" and texts[1] in captions["lv"] and texts[2] == "zwei" for texts in batch.captions)
    module = data(train=folder, captions_per_image=2, drawing=Pivot("lv"))
    batches = list(module.train_dataloader())
    first = Counter(texts[0] for batch in batches for texts in batch.captions)
    assert set(first) == {"divi", "pāris"} and min(first.values()) >= 8
    assert all(batch.languages[:, 0].eq(module.languages.index("lv")).all() for batch in batches)
