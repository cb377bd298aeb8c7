"""What packing leaves out on request: captions of a wrong length or language, near-duplicate captions and pictures."""

import importlib.util
import io
import json

import numpy as np
import pytest
from PIL import Image
from tiny_shards import pack_jsonl

from datamodules.packing.filters import Length, SpokenLanguage
from datamodules.packing.near import LETTERS, NearCaption, NearPicture, perceptual_hash, signature
from datamodules.shards.encoding import BadRow


def scene(seed, kind="PNG", size=64, noise=0):
    """A smooth picture, encoded."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 255, (6, 6, 3), dtype=np.uint8)).resize((size, size))
    pixels = np.asarray(coarse, np.int64) + np.random.default_rng(noise).integers(-noise, noise + 1, (size, size, 3))
    encoded = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(encoded, kind)
    return encoded.getvalue()


def test_length_counts_letters_without_the_spaces_around():
    kept = [text for text in ("a", " a ", "ab", "a b ", "abcde") if Length(2, 4).keeps(text, "en")]
    assert kept == ["ab", "a b "]
    assert Length(longest=3).keeps("a", "en") and Length(shortest=3).keeps("a" * 99, "en")


@pytest.mark.parametrize(("shortest", "longest"), [(5, 4), (0, None), (1, 0)])
def test_lengths_that_leave_nothing_are_refused(shortest, longest):
    with pytest.raises(ValueError, match="shortest_caption, longest_caption: got"):
        Length(shortest, longest)


@pytest.mark.skipif(importlib.util.find_spec("py3langid") is None, reason="needs py3langid")
def test_a_caption_must_be_in_the_language_of_its_tag():
    keeps = SpokenLanguage().keeps
    text = "Three dogs are running on the beach"
    assert keeps(text, "en") and keeps(text, "en-GB") and not keeps(text, "de")
    assert keeps(text, "und") and keeps(text, "tlh") and keeps("dogs", "de")  # no tag, no such model, too short
    assert keeps("Tre hunder løper langs stranden i regnvær", "no")


def test_a_picture_that_was_encoded_anew_is_near_and_another_is_not():
    repeats = NearPicture(4).repeats
    assert not repeats(scene(1), "a")
    assert repeats(scene(1, "JPEG"), "b") and repeats(scene(1, size=100), "c") and repeats(scene(1, noise=3), "d")
    assert not repeats(scene(2), "e")
    assert not repeats(b"\x93NUMPY", "f") and not repeats(b"\x93NUMPY", "g")  # features
    with pytest.raises(BadRow, match="broken image"):
        repeats(b"no picture", "h")


@pytest.mark.parametrize("bits", [0, 3, 8])
def test_near_pictures_are_those_of_brute_force(bits):
    """Noise of every strength: each is compared with all that were kept."""
    near, kept, found = NearPicture(bits), [], []
    for number in range(120):
        picture = scene(number % 12, noise=number)
        own = perceptual_hash(picture, "")
        repeated = any((own ^ other).bit_count() <= bits for other in kept)
        kept += [] if repeated else [own]
        found.append(near.repeats(picture, "") == repeated)
    assert all(found) and 12 <= len(kept) < 120


def runs_of(text):
    return {text[start : start + LETTERS] for start in range(len(text) - LETTERS + 1)}


def test_signatures_agree_as_often_as_runs_of_letters_are_shared():
    first = "a brown dog runs along the beach at sunset with a ball"
    for second in ("a brown dog runs along the beach at dawn with a ball", "two cats sleep", first):
        shared = len(runs_of(first) & runs_of(second)) / len(runs_of(first) | runs_of(second))
        assert (signature(first) == signature(second)).mean() == pytest.approx(shared, abs=0.12)


def test_the_first_of_near_captions_stays_in_each_language():
    keeps = NearCaption(0.7).keeps
    first = "a brown dog runs along the beach at sunset with a red ball"
    assert keeps(first, "en") and not keeps(first.upper(), "en") and not keeps(first.replace("red", "big"), "en")
    assert (
        keeps(first, "de") and keeps("two cats sleep on a sofa", "en") and not keeps("two cats sleep on a sofa.", "en")
    )
    same = NearCaption(1).keeps
    assert same("ab", "en") and not same("ab", "en") and same("abc", "en")
    assert same("", "en")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"near_pictures": 9}, "near_pictures: got 9, expected 0 to 8 of 64 bits"),
        ({"near_captions": 0.4}, "near_captions: got 0.4, expected 0.5 to 1"),
        ({"shortest_caption": 0}, "shortest_caption, longest_caption: got 0 and None"),
    ],
)
def test_what_is_out_of_range_is_one_line(tmp_path, options, says):
    (tmp_path / "m.jsonl").write_text("")
    with pytest.raises(ValueError, match=says):
        pack_jsonl(tmp_path / "m.jsonl", tmp_path / "out", **options)


def test_each_cause_is_counted_and_workers_change_nothing(tmp_path):
    captions = [
        {"en": ["a dog on a beach", "x"], "lv": "suns pludmalē"},
        {"en": "a cat on a sofa"},
        {"en": "a dog on a beach."},
        {"en": "a bird in a tree"},
        {"en": "a dog on a beach!", "lv": "putns"},
    ]
    pictures = [scene(1), scene(2), scene(3), scene(1, "JPEG"), scene(4)]
    rows = [{"id": str(n), "image": f"{n}.png", "captions": own} for n, own in enumerate(captions)]
    rows.insert(0, {"id": "gone", "image": "gone.png", "captions": {"en": "a dog on a beach"}})
    for number, picture in enumerate(pictures):
        (tmp_path / f"{number}.png").write_bytes(picture)
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    options = {"shortest_caption": 2, "near_captions": 0.8, "near_pictures": 4, "samples_per_shard": 2}
    listing = pack_jsonl(tmp_path / "m.jsonl", tmp_path / "one", **options)
    assert listing["skipped"] == {
        "missing image": 1,  # whose caption makes no other a near duplicate
        "caption of another length": 1,
        "near-duplicate caption": 2,
        "near-duplicate image": 1,
    }
    assert listing["samples"] == 3 and listing["captions"] == {"en": 2, "lv": 2}
    assert pack_jsonl(tmp_path / "m.jsonl", tmp_path / "two", **options, workers=2) == listing
