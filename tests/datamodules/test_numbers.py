"""The embedded corpus: disjoint numbers and scans, real words, the same bytes every time."""

import io
import json
import tarfile
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from datamodules.numbers import (
    LANGUAGES,
    numbers_of,
    pack_numbers,
    pack_pairs,
    pack_scenes,
    pack_spoken,
    picture,
    words,
)
from datamodules.numbers.corpus import SCANS
from datamodules.numbers.posts import pack_posts, post


def test_the_splits_share_neither_numbers_nor_scans():
    splits = {split: numbers_of(split) for split in SCANS}
    assert {split: len(numbers) for split, numbers in splits.items()} == {"train": 700, "val": 100, "test": 200}
    assert sorted(sum(splits.values(), [])) == list(range(1000))
    scans = [set(range(1797)[part]) for part in SCANS.values()]
    assert [len(part) for part in scans] == [1200, 200, 397]
    assert len(set.union(*scans)) == 1797


def test_every_split_has_hands_for_every_digit():
    targets = load_digits().target
    assert all(set(targets[part]) == set(range(10)) for part in SCANS.values())


def test_words_come_in_some_fifty_languages():
    assert len(LANGUAGES) >= 45 and {"en", "lv", "de", "da", "ja", "kk", "pt-BR", "fr-BE"} <= LANGUAGES.keys()
    assert all("_" not in code for code in LANGUAGES)
    assert (words("de")[47], words("ja")[47], words("lv")[47]) == ("siebenundvierzig", "四十七", "četrdesmit septiņi")
    for language in LANGUAGES:
        assert len(set(words(language))) == 1000 and all(words(language))


def test_a_picture_shows_its_digits_at_their_places():
    page = picture("47", "test", (2, 47, 0))
    assert page.shape == (64, 64) and page.dtype == np.uint8
    columns = [page[:, left : left + 21] for left in (0, 21, 42)]
    assert (columns[0] > 250).all()
    assert all((column < 128).sum() > 20 for column in columns[1:])
    assert not np.array_equal(page, picture("47", "test", (2, 47, 1)))


def test_packing_is_the_same_for_any_number_of_processes(tmp_path):
    for name, workers in (("one", 1), ("two", 2)):
        listing = pack_numbers(tmp_path / name, "test", ["en", "lv"], samples_per_shard=80, workers=workers)
    assert listing["captions"] == {"en": 200, "lv": 200} and len(listing["shards"]) == 3
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_samples_are_small_pictures_with_their_number(tmp_path, data):
    pack_numbers(tmp_path / "val", "val", ["en", "lv"])
    module = data("validate", val=tmp_path / "val", batch_size=100)
    (batch,) = module.val_dataloader()
    numbers = [int(name.split("-")[1]) for name in batch.ids]
    assert sorted(numbers) == numbers_of("val")
    assert batch.captions == [[words("en")[n], words("lv")[n]] for n in numbers]
    with tarfile.open(tmp_path / "val" / "shard-000000.tar") as tar:
        first = next(member for member in tar if member.name.endswith(".png"))
        image = Image.open(io.BytesIO(tar.extractfile(first).read()))
    assert (image.mode, image.size) == ("RGB", (64, 64))


def test_training_numbers_are_set_from_several_hands(tmp_path):
    listing = pack_numbers(tmp_path, "train", ["lv"], renderings=2, samples_per_shard=700)
    assert [shard["samples"] for shard in listing["shards"]] == [700, 700]


@pytest.mark.parametrize(
    "wrong", [{"split": "dev"}, {"languages": ["en", "xx"]}, {"renderings": 0}, {"samples_per_shard": 0}]
)
def test_what_cannot_be_is_one_line(tmp_path, wrong):
    with pytest.raises(ValueError, match=f"^{next(iter(wrong))}: ") as error:
        pack_numbers(tmp_path, **{"split": "val", **wrong})
    assert "\n" not in str(error.value)


# -- relation posts


def relation_of(image, text):
    inside, outside = set(text) <= set(image), set(image) <= set(text)
    return {(True, True): 0, (True, False): 1, (False, True): 2, (False, False): 3}[inside, outside]


def test_posts_have_the_relation_their_sets_have():
    for number in range(800):
        image, text, relation = post("train", number)
        assert relation_of(image, text) == relation
        assert set(image + text) <= set(numbers_of("train"))


def test_within_each_pair_of_sizes_the_possible_relations_are_balanced():
    posts = [post("val", number) for number in range(800)]
    cases = Counter(((len(image), len(text)), relation) for image, text, relation in posts)
    assert cases == {
        ((1, 1), 0): 100, ((1, 1), 3): 100, ((1, 2), 2): 100, ((1, 2), 3): 100,
        ((2, 1), 1): 100, ((2, 1), 3): 100, ((2, 2), 0): 100, ((2, 2), 3): 100,
    }  # fmt: skip
    sharing = [
        set(image) & set(text) for image, text, relation in posts if len(image) == len(text) == 2 and relation == 3
    ]
    assert 30 < sum(len(shared) == 1 for shared in sharing) < 70


def test_posts_travel_with_their_labels(tmp_path, data):
    pack_posts(tmp_path / "posts", "test", ["en", "lv"], posts=80)
    module = data("test", test=tmp_path / "posts", batch_size=80)
    (batch,) = module.test_dataloader()
    relations = batch.labels["relation"]
    assert sorted(batch.labels) == ["adds", "relation", "represented"]
    assert torch.bincount(relations).tolist() == [20, 10, 10, 40]
    assert torch.equal(batch.labels["represented"], ((relations == 0) | (relations == 1)).long())
    assert torch.equal(batch.labels["adds"], ((relations == 1) | (relations == 3)).long())
    texts = [[[words(code)[n] for n in post("test", i)[1]] for code in ("en", "lv")] for i in range(80)]
    assert batch.captions == [[", ".join(part) for part in both] for both in texts]


def test_equal_posts_are_pairs_of_one_number_and_of_two(tmp_path):
    listing = pack_posts(tmp_path, "test", ["en", "lv"], posts=24, equal=True, samples_per_shard=16)
    assert [shard["samples"] for shard in listing["shards"]] == [16, 8]
    found = []
    for path in sorted(tmp_path.glob("*.tar")):
        with tarfile.open(path) as shard:
            found += [json.load(shard.extractfile(name)) for name in shard.getnames() if name.endswith(".json")]
    assert Counter(len(record["image_numbers"]) for record in found) == {1: 12, 2: 12}
    for record in found:
        assert "labels" not in record and sorted(record["image_numbers"]) == sorted(record["text_numbers"])
        assert record["captions"]["lv"] == ", ".join(words("lv")[number] for number in record["text_numbers"])


# -- pairs, and three modalities


def records(folder):
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as shard:
            yield from (json.load(shard.extractfile(name)) for name in shard.getnames() if name.endswith(".json"))


def test_pairs_are_translations_beside_numbers_of_another_digit(tmp_path):
    listing = pack_pairs(tmp_path, "test", ["en", "de", "lv"], samples_per_shard=300)
    assert [shard["samples"] for shard in listing["shards"]] == [300, 100] and listing["images"] == 0
    for record in records(tmp_path):
        (language,) = record["positive"]
        number = record["number"]
        assert record["query"] == {"en": words("en")[number]}
        assert record["positive"] == {language: words(language)[number]}
        for wrong in record.get("negatives", {language: []})[language]:
            other = words(language).index(wrong)
            assert other in numbers_of("test")
            assert sum(a != b for a, b in zip(f"{other:03d}", f"{number:03d}", strict=True)) == 1


def test_text_and_audio_together_name_the_picture(tmp_path):
    pack_spoken(tmp_path, "val", ["en", "lv"])
    found = list(records(tmp_path))
    assert sorted(record["number"] for record in found) == numbers_of("val")
    for english, latvian in zip(found[::2], found[1::2], strict=True):
        assert (english["spoken"], latvian["spoken"]) == ("en", "lv")
        text = f"{words('en')[english['number']]}, {words('lv')[latvian['number']]}"
        assert english["captions"] == latvian["captions"] == {"mul": text}
    features = {"npy": [], "audio.npy": []}
    with tarfile.open(tmp_path / "shard-000000.tar") as shard:
        for name in shard.getnames():
            if name.endswith(".npy"):
                features[name.partition(".")[2]].append(np.load(io.BytesIO(shard.extractfile(name).read())))
    assert np.stack(features["audio.npy"]).argmax(1).tolist() == [0, 1] * 50
    ink = np.stack(features["npy"]).reshape(100, 8, 3, 8).sum((1, 3)) > 0
    assert ink.sum(1).tolist() == [len(str(record["number"])) for record in found]


def test_scenes_say_which_number_is_where_and_where_each_digit_lies(tmp_path):
    listing = pack_scenes(tmp_path, "test", scenes=40)
    assert listing["captions"] == {"de": 40, "en": 40, "lv": 40}
    with tarfile.open(tmp_path / "shard-000000.tar") as shard:
        pages = {
            name.partition(".")[0]: np.asarray(Image.open(io.BytesIO(shard.extractfile(name).read())).convert("L"))
            for name in shard.getnames()
            if name.endswith(".png")
        }
    for record, page in zip(records(tmp_path), pages.values(), strict=True):
        named = [part.split(" ", 1) for part in record["captions"]["en"].split(", ")]
        assert [words("en").index(word) for word, _ in named] == record["numbers"]
        assert len(record["numbers"]) == record["labels"]["numbers"] and set(record["numbers"]) <= set(
            numbers_of("test")
        )
        digits = iter(record["places"]["digit"])
        for number, (_, place) in zip(record["numbers"], named, strict=True):
            for written in str(number):
                digit, x, y = next(digits)
                assert (
                    digit == int(written)
                    and place == f"{'bottom' if y > 0.5 else 'top'} {'right' if x > 0.5 else 'left'}"
                )
                column, row = round(96 * x) - 10, round(96 * y) - 10
                assert (page[row : row + 20, column : column + 20] < 128).sum() > 20
                page = page.copy()
                page[row : row + 20, column : column + 20] = 255
        assert (page > 250).all() and next(digits, None) is None


@pytest.mark.parametrize(
    ("pack", "wrong"),
    [
        (pack_scenes, {"languages": ["en", "ja"]}),
        (pack_pairs, {"languages": ["en"]}),
        (pack_pairs, {"languages": ["en", "xx"]}),
        (pack_spoken, {"languages": ["en"]}),
        (pack_spoken, {"languages": ["en", "lv"], "samples_per_shard": 1}),
    ],
)
def test_what_no_pairs_can_be_of_is_one_line(tmp_path, pack, wrong):
    with pytest.raises(ValueError, match="^languages") as error:
        pack(tmp_path, "val", **wrong)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "pack",
    [
        lambda out: pack_numbers(out, "val", ["en"], renderings=1, samples_per_shard=64),
        lambda out: pack_pairs(out, "val", ["en", "lv"], samples_per_shard=64),
        lambda out: pack_posts(out, "val", ["en"], posts=24, samples_per_shard=8),
        lambda out: pack_posts(out, "val", ["en"], posts=24, equal=True, samples_per_shard=8),
        lambda out: pack_scenes(out, "val", scenes=24, samples_per_shard=8),
        lambda out: pack_spoken(out, "val", ["en", "lv"], renderings=1, samples_per_shard=64),
    ],
    ids=["numbers", "pairs", "posts", "equal posts", "scenes", "spoken"],
)
def test_progress_ends_with_all_samples(pack, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MMTRAIN_PROGRESS_SECONDS", "0")
    samples = sum(shard["samples"] for shard in pack(tmp_path / "shards")["shards"])
    assert f"{samples:,} of {samples:,} samples (100%)" in capsys.readouterr().err.splitlines()[-1]
