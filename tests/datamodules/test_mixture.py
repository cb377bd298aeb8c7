"""Sources with options of their own, mixed by samples; what was drawn is counted."""

import json
from collections import Counter

import pytest
import torch

from datamodules import ImagePipeline, Pivot, Source, TextTransform
from datamodules.reading.loaders import TrainingBatches
from datamodules.reading.part_streams import PartStream


class Shout(TextTransform):
    def __call__(self, caption, language, rng):
        return caption.upper() + "!" * rng.randrange(1, 4)


@pytest.fixture
def big(listed_shards):
    return str(listed_shards(60, 20, [{"en": f"big {n}", "de": f"groß {n}"} for n in range(60)], name="big"))


@pytest.fixture
def small(listed_shards):
    return str(listed_shards(12, 4, [{"lv": f"mazs {n}", "de": f"klein {n}"} for n in range(12)], name="small"))


def trained(module, batches):
    """So many batches, trained as the training module does, over as many epochs as it takes."""
    done = []
    while len(done) < batches:
        for batch in module.train_dataloader():
            module.trained(batch)
            done.append(batch)
            if len(done) == batches:
                break
    return done


def test_a_list_of_sources_draws_what_the_short_form_does(big, small, data, epoch):
    short = data(train=f"3@{big}::1@{small}", batch_size=8)
    listed = data(train=[Source(big, weight=3), Source(small)], batch_size=8)
    assert epoch(short) == epoch(listed)
    assert short.account.summary()["drawn"] == listed.account.summary()["drawn"]
    joined, plain = data(train=f"{big}::{small}"), data(train=[Source(big), Source(small)])
    assert epoch(joined) == epoch(plain)
    assert {name: drawn["samples"] for name, drawn in plain.account.summary()["drawn"].items()} == {
        "big": 60,
        "small": 12,
    }


def test_weights_are_shares_of_the_samples_and_languages_are_a_sources_own(big, small, data):
    sources = [Source(big, weight=0.7, languages=["en"]), Source(small, weight=0.3, name="lv-shards")]
    module = data(train=sources, batch_size=50, epoch_samples=2000)
    trained(module, 40)
    drawn = module.account.summary()["drawn"]
    assert {name: entry["samples"] for name, entry in drawn.items()} == {"big": 1400, "lv-shards": 600}
    assert drawn["big"]["captions"] == {"en": 1400}
    assert set(drawn["lv-shards"]["captions"]) == {"de", "lv"}
    assert drawn["lv-shards"]["captions"]["lv"] == pytest.approx(300, abs=50)  # deviation 12
    figures = module.drawn()
    assert figures["samples/big"] == 0.7 and figures["captions/en"] == 0.7
    assert figures["captions/de"] + figures["captions/lv"] == pytest.approx(0.3)


def test_pictures_and_captions_go_the_way_of_their_source(big, small, data):
    sources = [Source(big, images=ImagePipeline(size=8, augment=False)), Source(small, text=Shout())]
    for batch in trained(data(train=sources, languages=["de"], batch_size=12), 6):
        for index, (source, (text,)) in enumerate(zip(batch.sources.tolist(), batch.captions, strict=True)):
            assert text.startswith(("groß", "KLEIN")[source]) and text.endswith("!") == bool(source)
            if source == 0:  # 8 pixels wide and not cropped: as it was packed
                number = int(text.split()[1])
                assert batch.images[index].sum() == pixels_of(number)


def pixels_of(number):
    import numpy as np

    return int(np.random.RandomState(number).randint(0, 255, (8, 8, 3)).astype(np.uint8).sum())


def test_each_source_says_which_objectives_it_counts_for(big, small, data):
    module = data(train=[Source(big), Source(small, objectives=["clip"])])
    assert module.count_for(["clip", "siglip"]) == {"siglip": [True, False]}
    assert module.count_for(["clip"]) == {}
    with pytest.raises(
        ValueError, match="source small: no objective is called 'clip'; the model has one_to_k"
    ) as error:
        module.count_for(["one_to_k"])
    assert "\n" not in str(error.value)
    only = data(train=[Source(big, objectives=["clip"]), Source(small, objectives=["clip"])])
    with pytest.raises(ValueError, match="model.objectives: 'siglip' has no captions"):
        only.count_for(["clip", "siglip"])


MIXED = {"captions_per_image": 2, "drawing": Pivot("de"), "language_alpha": 0.3, "shuffle_window": 15, "batch_size": 6}


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_a_mixture_resumes_at_the_next_sample(big, small, data, workers):
    options = {"train": [Source(big, weight=2), Source(small, text=Shout())], **MIXED}
    whole = trained(data(**options), 20)
    first = data(**options, workers=workers)
    done = trained(first, 7)
    resumed = data(**options, workers=workers)
    resumed.load_state_dict(json.loads(json.dumps(first.state_dict())))
    done += trained(resumed, 13)
    for ours, theirs in zip(done, whole, strict=True):
        assert (ours.ids, ours.captions) == (theirs.ids, theirs.captions)
        assert torch.equal(ours.images, theirs.images) and torch.equal(ours.sources, theirs.sources)
    counted = resumed.account.summary()["drawn"]
    assert sum(entry["samples"] for entry in counted.values()) == 20 * 6
    assert counted["small"]["samples"] == sum(int((batch.sources == 1).sum()) for batch in whole)


def test_ranks_share_each_global_batch_of_a_mixture(big, small, data):
    module = data(train=[Source(big, weight=2), Source(small)], **MIXED)
    batches = module.train_dataloader().batch_sampler
    half = PartStream(batches._parts[0].stream, 3)
    ranks = [TrainingBatches([half], batches._cursor, 72, rank, 2) for rank in range(2)]
    for whole, first, second in zip(batches, *ranks, strict=True):
        assert first + second == whole


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"language_alpha": 0.5}, "language_alpha was 0.3, is 0.5"),
        ({"language_alpha": None}, "language_alpha was 0.3, is None"),
        ({"language_caps": {"de": 5}}, "language_caps was {}, is {de: 5}"),
        ({"weight": 3}, "shards was"),
        ({"languages": ["en"]}, "languages of the sources was .None, None., is"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_place_in_another_mixture_is_refused(big, small, data, change, part):
    def module(**change):
        source = {name: change.pop(name) for name in ("weight", "languages") if name in change}
        return data(train=[Source(big, **{"weight": 2, **source}), Source(small)], **{**MIXED, **change})

    before = module()
    trained(before, 2)
    with pytest.raises(ValueError, match=f"belongs to other data .{part}") as error:
        module(**change).load_state_dict(before.state_dict())
    assert "\n" not in str(error.value)


def test_other_options_of_a_resumed_run_are_said(big, data, caplog):
    before = data(train=big, captions_per_image=2)
    trained(before, 2)
    changed = data(train=[Source(big, objectives=["clip"])], drawing=Pivot("de"))
    with caplog.at_level("INFO"):
        changed.load_state_dict(before.state_dict())
    assert "captions_per_image was 2 in the checkpoint and is now 1" in caplog.text
    assert "drawing was Uniform() in the checkpoint and is now Pivot(language='de', others=Uniform())" in caplog.text
    assert "objectives was [None] in the checkpoint and is now [['clip']]" in caplog.text
    caplog.clear()
    again = data(train=big, captions_per_image=2)
    again.load_state_dict(before.state_dict())
    assert not caplog.text


def test_sources_of_one_folder_have_names_of_their_own(big, data):
    module = data(train=[Source(big, languages=["en"]), Source(big, languages=["de"]), Source(big, name="third")])
    trained(module, 18)
    assert Counter({name: entry["samples"] for name, entry in module.account.summary()["drawn"].items()}).keys() == {
        "big",
        "big-2",
        "third",
    }


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ({"weight": 0}, "source big: weight 0 is no share of the samples"),
        ({"weight": float("inf")}, "source big: weight inf is no share"),
        ({"shards": "0.5@{}"}, "has a weight inside"),
        ({"shards": "none"}, "data.train: none does not exist"),
        ({"languages": ["xx"]}, "source big: no caption is in 'xx'; it has de, en"),
        ({"languages": []}, "source big: languages .. is empty"),
        ({"caption_fields": {"alt": 0}}, "source big: caption_fields: alt weighs 0; a number above 0"),
        ({"objectives": ["a", "a"]}, "source big: objectives .* names one twice"),
        ({"images": ImagePipeline(size=16)}, "source big: images.size is 16, data.images.size is 8; one size for all"),
    ],
)
def test_a_source_that_cannot_be_is_one_line(big, data, source, says):
    options = {"shards": big, **source}
    options["shards"] = options["shards"].format(big)
    with pytest.raises(ValueError, match=f"^data.train: .*{says}|{says}") as error:
        data(train=[Source(**options)])
    assert "\n" not in str(error.value)


def test_a_language_of_a_source_must_be_in_use(big, data):
    with pytest.raises(ValueError, match="source big: language 'de' is not in data.languages, en"):
        data(train=[Source(big, languages=["de"])], languages=["en"])
    with pytest.raises(ValueError, match="data.train: an empty list of sources"):
        data(train=[])
