"""p ~ n^alpha with caps: exact shares whatever languages a sample has besides, at any place of the stream."""

import numpy as np
import pytest
from test_mixture import trained
from tiny_shards import sample_files

from datamodules import Source
from datamodules.stream.order import Interleave
from datamodules.stream.streams import language_shares

# en on all of 60 samples, de on 20, lv on 5
CAPTIONS = [{"en": "e"} | ({"de": "d"} if n % 3 == 0 else {}) | ({"lv": "l"} if n % 12 == 7 else {}) for n in range(60)]


@pytest.fixture
def folder(plain_shards):
    samples = [sample_files(n, captions) for n, captions in enumerate(CAPTIONS)]
    return plain_shards([samples[:25], samples[25:]])


def captions(module, batches=40):
    """Captions of each language an image, over 2,000 images."""
    trained(module, batches)
    return {name.split("/")[1]: share for name, share in module.drawn().items() if name.startswith("captions")}


def test_shares_are_those_of_the_exponent():
    counts = {"en": 60, "de": 20, "lv": 5, "zh": 0}
    assert language_shares(counts, 1, {}) == pytest.approx({"en": 60 / 85, "de": 20 / 85, "lv": 5 / 85})
    assert language_shares(counts, 0, {}) == pytest.approx({"en": 1 / 3, "de": 1 / 3, "lv": 1 / 3})
    whole = 60**0.3 + 20**0.3 + 5**0.3
    assert language_shares(counts, 0.3, {})["lv"] == pytest.approx(5**0.3 / whole)
    assert language_shares(counts, 1, {"en": 10, "lv": 99}) == pytest.approx(
        {"en": 10 / 35, "de": 20 / 35, "lv": 5 / 35}
    )


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"language_alpha": 1.0}, {"en": 60 / 85, "de": 20 / 85, "lv": 5 / 85}),
        ({"language_alpha": 0.5}, {"en": 0.5358, "de": 0.3094, "lv": 0.1547}),
        ({"language_alpha": 0.0}, {"en": 1 / 3, "de": 1 / 3, "lv": 1 / 3}),
        ({"language_caps": {"en": 10}}, {"en": 10 / 35, "de": 20 / 35, "lv": 5 / 35}),
        ({"language_alpha": 0.5, "language_caps": {"en": 5}}, {"en": 0.25, "de": 0.5, "lv": 0.25}),
    ],
)
def test_two_thousand_draws_have_the_shares_asked_for(folder, data, options, expected):
    assert captions(data(train=folder, batch_size=50, **options)) == pytest.approx(expected, abs=0.002)


def test_every_caption_of_a_language_comes_once_a_pass_of_its_own(folder, data):
    module = data(train=folder, batch_size=6, language_alpha=0.0, epoch_samples=180)
    drawn = [[], [], []]
    for batch in trained(module, 30):
        for row, (language,) in zip(batch.rows.tolist(), batch.languages.tolist(), strict=True):
            drawn[language].append(row)
    de, en, lv = drawn
    assert np.bincount(en, minlength=60).tolist() == [1] * 60
    assert np.bincount(de, minlength=60).tolist() == [3 * (n % 3 == 0) for n in range(60)]
    assert np.bincount(lv, minlength=60).tolist() == [12 * (n % 12 == 7) for n in range(60)]


def test_the_other_slots_are_filled_by_the_rule(folder, data):
    shares = captions(data(train=folder, batch_size=50, language_alpha=0.0, captions_per_image=2))
    # a third for each as the first; then en beside each de and lv, and what else en has: de on a third of its samples
    assert shares["en"] == pytest.approx(1 / 3 + 2 / 3, abs=0.01)
    assert shares["de"] == pytest.approx(1 / 3 + 1 / 3 / 3, abs=0.03)
    assert shares["lv"] == pytest.approx(1 / 3 + 1 / 3 / 12, abs=0.03)


def test_a_mixture_samples_the_languages_of_each_weighted_source(folder, plain_shards, data):
    other = plain_shards([[sample_files(n, {"fr": "f"} if n % 4 else {"fr": "f", "lv": "l"}) for n in range(40)]], "fr")
    module = data(
        train=[Source(str(folder), weight=1), Source(str(other), weight=3)], batch_size=50, language_alpha=0.0
    )
    expected = {"de": 1 / 12, "en": 1 / 12, "fr": 3 / 8, "lv": 1 / 12 + 3 / 8}
    assert captions(module) == pytest.approx(expected, abs=0.002)
    only = [Source(str(folder), languages=["en", "lv"]), Source(str(other), languages=["fr"])]
    shares = captions(data(train=only, batch_size=50, language_alpha=0.0))
    assert shares == pytest.approx({"en": 1 / 3, "fr": 1 / 3, "lv": 1 / 3}, abs=0.002)


def test_a_broken_record_is_met_and_counted_once_a_pass(plain_shards, data):
    samples = [sample_files(n, captions) for n, captions in enumerate(CAPTIONS)]
    samples[10]["json"] = b"{"  # had been en alone
    module = data(
        train=plain_shards([samples], "broken"), batch_size=6, language_alpha=1.0, epoch_samples=84, max_skip_rate=1.0
    )
    for batch in trained(module, 28):  # 168 samples: two passes of 84 captions, 59 + 1 broken of en in each
        assert all(texts != [""] for texts in batch.captions)
    assert module.account.summary()["causes"] == {"broken JSON": 2}


def test_a_rare_language_is_never_forgotten():
    quotas = Interleave([1e-9, 0.3, 0.7]).quotas
    assert quotas.tolist() == [1, 3000, 6999]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"language_alpha": 1.2}, "data.language_alpha: 1.2; 0 .all languages alike. to 1"),
        ({"language_alpha": -0.1}, "data.language_alpha: -0.1"),
        ({"language_caps": {"xx": 3}}, "data.language_caps: 'xx' is not among the languages in use, de, en, lv"),
        ({"language_caps": {"en": 0}}, "data.language_caps.en: 0 is too small; at least 1"),
    ],
)
def test_options_that_cannot_be_are_one_line(folder, data, options, says):
    with pytest.raises(ValueError, match=says) as error:
        data(train=folder, **options)
    assert "\n" not in str(error.value)
