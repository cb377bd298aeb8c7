"""Samples without a picture or captions, text pairs, and further files: what is read, and what is left out of a run."""

import io
import json

import numpy as np
import pytest
from tiny_shards import png_bytes, sample_files, write_tar

from datamodules.shards.inspection import inspect_shards
from datamodules.shards.locations import Reading
from datamodules.shards.reader import ShardReader
from datamodules.shards.records import features_shape
from datamodules.shards.samples import (
    BrokenSample,
    holds,
    read_features,
    read_sample,
    read_scores,
    read_texts,
)
from datamodules.shards.survey import survey
from datamodules.shards.tars import index_shard

PAIR = frozenset(("query", "positive"))


def npy(values):
    content = io.BytesIO()
    np.save(content, values)
    return content.getvalue()


def record(**content):
    return {"json": json.dumps(content).encode()}


def pair(number, **more):
    return record(id=f"p{number}", query={"en": f"q {number}"}, positive={"lv": f"p {number}"}, **more)


@pytest.fixture
def shard(tmp_path):
    """One of each shape, in this order."""
    samples = {
        "both": sample_files(0),
        "text": record(captions={"en": "text alone"}),
        "page": sample_files(2, captions={}),
        "lv": sample_files(3, captions={"lv": "tikai latviski"}),
        "pair": pair(4, negatives=["no", "not"], language="de", score=0.5),
        "more": sample_files(5) | {"audio.npy": npy(np.ones(3)), "photo.png": png_bytes(1), "photo1.png": png_bytes(2)},
    }
    return str(write_tar(tmp_path / "a.tar", samples))


def surveyed(path, languages=None, needs=frozenset(("image", "texts"))):
    (found,) = survey([path], languages, Reading(cache_dir="/proc/none"), needs)
    usable = np.arange(found.samples) if found.usable is None else found.usable
    keys = index_shard(path).keys
    return [keys[number] for number in usable], dict(found.lacking), found


@pytest.mark.parametrize(
    ("needs", "languages", "usable", "lacking"),
    [
        ({"image", "texts"}, None, ["both", "lv", "more"], {"image": 2, "texts": 1}),
        ({"image", "texts"}, ["en"], ["both", "more"], {"image": 2, "texts": 2}),
        ({"image"}, ["en"], ["both", "page", "lv", "more"], {"image": 2}),
        ({"texts"}, None, ["both", "text", "lv", "more"], {"texts": 2}),
        (PAIR, None, ["pair"], {"positive": 5}),
        (PAIR, ["lv"], [], {"positive": 5, "query": 1}),
        (PAIR | {"negatives"}, ["lv", "en", "de"], ["pair"], {"negatives": 5}),
        ({"image", "audio"}, None, ["more"], {"image": 2, "audio": 3}),
        (set(), None, ["both", "text", "page", "lv", "pair", "more"], {}),
    ],
)
def test_a_sample_is_used_when_it_holds_what_is_needed(shard, needs, languages, usable, lacking):
    assert surveyed(shard, languages, frozenset(needs))[:2] == (usable, lacking)


def test_what_there_is_is_counted(shard):
    *_, found = surveyed(shard)
    assert found.holds == {
        "image": 4, "texts": 4, "query": 1, "positive": 1, "negatives": 1, "score": 1, "audio": 1, "photo": 1
    }  # fmt: skip
    assert found.languages == {"en": 2, "lv": 3}  # of samples that the run can use
    assert surveyed(shard, ["de"], PAIR)[2].languages == {"en": 1, "lv": 1, "de": 1}
    facts = inspect_shards(shard).facts
    assert (facts["without a picture"], facts["without a caption"], facts["broken"]) == (2, 2, {})
    assert facts["further"] == {"audio": 1, "negatives": 1, "photo": 1, "positive": 1, "query": 1, "score": 1}
    assert facts["pairs by language"] == {"en": 1, "lv": 1, "de": 1}


def test_what_is_left_out_is_said_once_and_is_no_fault(shard, data, epoch, caplog):
    module = data(train=shard, max_skip_rate=0, batch_size=2)
    assert {name for ids in epoch(module) for name in ids} <= {"s000", "s003", "s005"}
    assert "train: 2 samples without a picture, 1 samples without a caption" in caplog.text
    summary = module.account.summary()
    assert (summary["skipped"], summary["lacking"]) == (0, {shard: {"image": 2, "texts": 1}})
    assert (module.epoch_length, summary["no_chosen_language"]) == (3, {shard: 1})


def test_a_run_that_nothing_suits_is_one_line(tmp_path, data):
    path = write_tar(tmp_path / "a.tar", {f"{n}": pair(n) for n in range(4)})
    with pytest.raises(ValueError, match="data.train: no sample holds all that is needed: 4 samples without a picture"):
        data(train=path)


def test_a_sample_is_read_with_all_that_it_has(shard):
    reader = ShardReader()
    key, members = reader.read(shard, 5, frozenset(("json",)), frozenset(("photo",)))
    assert (key, members.keys()) == ("more", {"json", "photo.png", "photo1.png"})
    sample = read_sample(*reader.read(shard, 5))
    assert sample.files.keys() == {"audio.npy", "photo.png", "photo1.png"}
    assert (sample.suffix, sample.record["captions"]["en"]) == ("png", "number 5")
    alone = read_sample(*reader.read(shard, 4))
    assert (alone.image, alone.suffix, alone.captions, alone.id) == (None, None, {}, "p4")
    assert alone.image_id != read_sample(*reader.read(shard, 1)).image_id


def test_listings_say_what_samples_hold_and_older_ones_mean_pairs(listed_shards, data):
    folder = listed_shards(6, 6, [{}] * 2 + [{"en": "a"}] * 4)
    entry = json.loads((folder / "shards.json").read_text())["shards"][0]
    assert entry["holds"] == {"image": 6, "texts": 4}
    assert data(train=folder).epoch_length == 4
    older = listed_shards(6, 6, name="older")
    listing = json.loads((older / "shards.json").read_text())
    del listing["shards"][0]["holds"]
    (older / "shards.json").write_text(json.dumps(listing))
    assert data(train=older).epoch_length == 6


def test_texts_of_a_record():
    made = {"language": "lv", "a": "viens", "b": ["divi", " ", None], "c": {"en": "x", "de": ["y", "z"]}, "d": None}
    assert read_texts(made, "a") == [("lv", "viens")]
    assert read_texts(made, "b") == [("lv", "divi")]
    assert read_texts(made, "c") == [("en", "x"), ("de", "y"), ("de", "z")]
    assert read_texts(made, "d") == read_texts(made, "missing") == []
    assert read_texts({"a": "x"}, "a") == [("und", "x")]
    assert read_texts({"a": "x"}, "a", "et") == [("et", "x")]
    for wrong in (3, [3], {"en": 3}, {"en": [["x"]]}, True):
        with pytest.raises(BrokenSample, match="a holds what is no text"):
            read_texts({"a": wrong}, "a")


def test_scores_of_a_record():
    made = {"positive": "a", "negatives": {"en": ["b"], "lv": "c"}, "score": 3, "scores": [1, 0.5, -2.0]}
    assert (read_scores(made, "score"), read_scores(made)) == ([3], [1, 0.5, -2.0])
    assert (read_scores({}, "score"), read_scores({})) == ([], [])
    for wrong in (float("nan"), float("inf"), "1", True, [1]):
        with pytest.raises(BrokenSample, match="score is no finite number"):
            read_scores({"score": wrong}, "score")
        with pytest.raises(BrokenSample, match="scores are no finite numbers"):
            read_scores(made | {"scores": [1, wrong, 2]})
    with pytest.raises(BrokenSample, match="scores are not as many as positive and negatives"):
        read_scores(made | {"scores": [1, 2]})


def test_what_is_there_and_broken_is_not_missing():
    assert holds({"query": 3, "score": None}, {}, ["json", "00.jpg", "photo2.jpg", "a-b.npy"]) == {"query", "photo"}


@pytest.mark.parametrize("order", ["C", "F"])
def test_features_of_one_row_or_of_tokens(tmp_path, order):
    values = np.arange(6, dtype=np.float16).reshape(2, 3, order=order)
    assert np.array_equal(read_features(npy(np.asarray(values, order=order))), values)
    samples = {"none": pair(0)} | {f"{n}": {"npy": npy(values), "json": pair(n)["json"]} for n in range(2)}
    path = str(write_tar(tmp_path / "a.tar", samples))
    assert features_shape(ShardReader(), [(path, number) for number in range(3)]) == (2, 3)


def test_a_file_that_no_name_fits_is_said(tmp_path):
    wrong = {"00.jpg": b"", "json": b"{}"}, {"cat.jpg": b"", "cat.json": b"{}"}, {"photo01.png": b"", "json": b"{}"}
    for number, files in enumerate(wrong):
        assert "further dots" in index_shard(write_tar(tmp_path / f"{number}.tar", {"my": files})).faults[0]
    right = {"json": b"{}", "photo.jpg": b"", "photo12.webp": b"", "audio.npy": b""}
    assert index_shard(write_tar(tmp_path / "right.tar", {"my": right})).faults == []
    path = str(write_tar(tmp_path / "beside.tar", {"my": sample_files(0) | {"00.jpg": b"", "left.json": b"{}"}}))
    assert inspect_shards(path).facts["files passed over"] == {"00.jpg": 1, "left.json": 1}


@pytest.mark.parametrize(
    ("files", "cause"),
    [
        ({"photo.png": b"none"}, "broken image"),
        ({"audio.npy": b"none"}, "broken features"),
        (record(query=3), "query holds what is no text"),
        (record(query="a", positive="b", scores=[1, 2]), "scores are not as many as positive and negatives"),
    ],
)
def test_inspect_finds_broken_parts(tmp_path, files, cause):
    path = write_tar(tmp_path / "a.tar", {"0": sample_files(0) | files})
    assert inspect_shards(str(path)).facts["broken"] == {cause: 1}
