"""What filters leave out, at packing or in a source: ids, captions of a wrong length or language, near-duplicate
captions and pictures."""

import importlib.util
import io
import json
from collections import Counter
from itertools import chain, count, islice

import numpy as np
import pytest
from PIL import Image
from tiny_shards import pack_jsonl, sample_files

from datamodules import Part, ShardDataModule, Source
from datamodules.curation.filters import Ids, Length, SpokenLanguage
from datamodules.curation.near import LETTERS, NearCaption, NearPicture, SamePicture, perceptual_hash, signature
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


@pytest.fixture
def manifest(tmp_path):
    """Six rows, one without a picture, of which filters leave three samples."""
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
    return tmp_path / "m.jsonl"


OPTIONS = {"shortest_caption": 2, "near_captions": 0.8, "near_pictures": 4}
COUNTS = {"caption of another length": 1, "near-duplicate caption": 2, "near-duplicate image": 1}


def test_each_cause_is_counted_and_workers_change_nothing(manifest, tmp_path):
    options = OPTIONS | {"samples_per_shard": 2}
    listing = pack_jsonl(manifest, tmp_path / "one", **options)
    # the caption of the missing image makes no other a near duplicate
    assert listing["skipped"] == COUNTS | {"missing image": 1}
    assert listing["samples"] == 3 and listing["captions"] == {"en": 2, "lv": 2}
    assert pack_jsonl(manifest, tmp_path / "two", **options, workers=2) == listing


# -- of a source


def drawn(module, batches):
    """(id, caption) of what a number of batches bring, batch by batch."""
    found, epochs = [], chain.from_iterable(module.train_dataloader() for _ in count())
    for batch in islice(epochs, batches):
        found.append(
            [(id, text) for id, texts in zip(batch.ids, batch.captions, strict=True) for text in texts if text]
        )
        module.trained(batch)
    return found


def filters():
    return [Length(2), NearPicture(4), NearCaption(0.8)]


def source(shards, chosen=None, **options):
    return [Source(str(shards), filters=filters() if chosen is None else chosen, **options)]


@pytest.mark.parametrize("options", [{}, {"language_alpha": 0.5, "captions_per_image": 2}])
def test_a_source_draws_what_packing_would_have_left(manifest, tmp_path, data, options):
    pack_jsonl(manifest, tmp_path / "all", samples_per_shard=2)
    pack_jsonl(manifest, tmp_path / "packed", **OPTIONS)
    options = {"captions_per_image": "all", "batch_size": 3} | options
    module = data(train=source(tmp_path / "all"), **options)
    assert module.samples("train") == 3
    whole, packed = (
        sorted(set(chain(*drawn(each, 9)))) for each in (module, data(train=tmp_path / "packed", **options))
    )
    assert (
        whole == packed == [("0", "a dog on a beach"), ("0", "suns pludmalē"), ("1", "a cat on a sofa"), ("4", "putns")]
    )
    found = module.account.merged().summary()["filtered"].values()
    assert sum(map(Counter, found), Counter()) == COUNTS


@pytest.fixture
def many(listed_shards):
    captions = [{"en": [f"number {n} of many", "x"], "lv": "y" if n % 4 else f"skaitlis {n}"} for n in range(24)]
    return listed_shards(24, 7, captions)


def test_a_filtered_source_resumes_and_divides_as_another_does(many, tmp_path, data, monkeypatch):
    (tmp_path / "ids.txt").write_text("s003\ns010\n")
    chosen = [Ids(exclude=str(tmp_path / "ids.txt")), Length(2), NearPicture(2)]
    options = {"train": source(many, chosen), "captions_per_image": "all", "batch_size": 2}
    whole = drawn(data(**options), 12)
    assert len({id for id, _ in chain(*whole)}) == 22 and all(len(text) > 1 for _, text in chain(*whole))
    begun = data(**options)
    before = drawn(begun, 5)
    state = begun.state_dict()
    after = data(**options)
    after.load_state_dict(state)
    assert before + drawn(after, 7) == whole
    for other in (None, [*chosen[:2], Length(12)]):
        module = data(**options | {"train": source(many, other) if other else str(many)})
        with pytest.raises(ValueError, match="the checkpoint's place belongs to other data"):
            module.load_state_dict(state)
    halves = []
    for rank in range(2):
        monkeypatch.setattr(ShardDataModule, "_rank_and_world", lambda self, rank=rank: (rank, 2))
        halves.append(drawn(data(**options | {"batch_size": 1}), 12))
    assert [ours + theirs for ours, theirs in zip(*halves, strict=True)] == whole


def test_filters_look_at_what_is_kept_alone(many, tmp_path, data):
    (tmp_path / "kept").mkdir()
    lines = [
        {"id": f"s{n:03d}", "language": "en", "caption": text, "matched": 1, "probability": 1.0, "kept": n % 2 == 0}
        for n in range(24)
        for text in ("x", f"number {n} of many")
    ]
    (tmp_path / "kept" / "keep.jsonl").write_text("\n".join(map(json.dumps, lines)))
    module = data(train=source(many, [Length(2)], keep=str(tmp_path / "kept")), captions_per_image="all")
    assert module.samples("train") == 12
    assert {text for _, text in chain(*drawn(module, 3))} == {f"number {n} of many" for n in range(0, 24, 2)}
    found = module.account.summary()["filtered"].values()
    assert sum(map(Counter, found), Counter()) == {"caption of another length": 12}


def test_filters_that_leave_nothing_or_judge_what_is_not_read_are_one_line(many, tmp_path, data, plain_shards):
    with pytest.raises(ValueError, match=r"source shards: filters: they leave no sample \(caption of another"):
        data(train=source(many, [Length(99)]))
    (tmp_path / "ids.txt").write_text("s003\n\ns010\n")
    assert data(train=source(many, [Ids(only=str(tmp_path / "ids.txt"))]), batch_size=2).samples("train") == 2
    with pytest.raises(ValueError, match="Ids: exclude, only: got neither"):
        Ids()
    pairs = [{"json": json.dumps({"id": str(n), "query": f"q {n}", "positive": f"p {n}"}).encode()} for n in range(8)]
    with pytest.raises(ValueError, match="filters: got one of captions, which are not read here"):
        data(train=None, parts={"pairs": Part(source(plain_shards([pairs]), [Length(2)]), batch_size=2)})


def test_a_picture_that_cannot_be_read_is_counted_when_it_is_drawn(plain_shards, data):
    shards = plain_shards([[sample_files(n) | ({"png": b"none"} if n == 3 else {}) for n in range(8)]])
    module = data(train=source(shards, [NearPicture(0), SamePicture()]), batch_size=4, max_skip_rate=1.0)
    assert module.samples("train") == 8
    drawn(module, 2)
    assert module.account.summary()["causes"].keys() == {"broken image"}
