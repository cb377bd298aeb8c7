"""`inspect SHARDS`: what is in it, and what is broken."""

import pytest
from tiny_shards import png_bytes, sample_files

from datamodules.shards.inspection import inspect_shards


def test_good_shards_are_summed_up(listed_shards):
    captions = [{"en": ["a", "b"], "lv": "c"} if n % 2 else {"en": "d"} for n in range(20)]
    folder = listed_shards(20, 8, captions)
    facts = inspect_shards(str(folder)).facts
    assert (facts["shards"], facts["samples"], facts["images"], facts["languages"]) == (3, 20, 20, 2)
    assert facts["captions"] == {"en": 30, "lv": 10}
    assert facts["samples by language"] == {"en": 20, "lv": 10}
    assert facts["bytes"] == sum(tar.stat().st_size for tar in folder.glob("*.tar"))
    assert facts["image sizes"] == {"smallest": "8 x 8", "median": "8 x 8", "largest": "8 x 8"}
    assert facts["broken"] == {} and "duplicate images" not in facts


def test_what_is_broken_is_counted_by_cause_and_named(plain_shards):
    samples = [
        sample_files(0),
        sample_files(0),
        {"png": png_bytes(1, (30, 10)), "json": b'{"captions": {"lv": "x"}, "labels": {"mood": "sad"}}'},
        {"png": b"nothing", "json": sample_files(2)["json"]},
        {"png": png_bytes(3), "json": b"[]"},
        {"json": sample_files(4)["json"]},
    ]
    folder = plain_shards([samples])
    (folder / "none.tar").write_bytes(b"no tar")
    facts = inspect_shards(str(folder)).facts
    assert facts["broken"] == {"unreadable shard": 1, "broken image": 1, "JSON is no object": 1}
    assert facts["without a picture"] == 1
    assert f"{folder / 'part-00.tar'}: broken image (0003)" in facts["broken samples"]
    assert facts["duplicate images"] == 1
    assert facts["labels"] == {"mood": {'"sad"': 1}}
    assert facts["image sizes"]["largest"] == "30 x 10"


def test_what_a_truncated_shard_lost_is_counted(listed_shards):
    folder = listed_shards(20, 10)
    tar = folder / "shard-000001.tar"
    tar.write_bytes(tar.read_bytes()[:3000])
    facts = inspect_shards(str(folder)).facts
    assert facts["images"] + facts["broken"]["truncated shard"] == 20


def test_examples_are_whole_samples_and_the_same_each_time(listed_shards):
    captions = [{"en": f"a {n}", "lv": f"b {n}"} if n % 4 else {"en": f"a {n}"} for n in range(80)]
    folder = listed_shards(80, 8, captions)
    found, again = (inspect_shards(str(folder), workers=workers) for workers in (1, 4))
    assert found.examples == again.examples
    assert len(set(found.examples[""])) == 48
    assert len({place.shard for place in found.examples[""]}) == 10
    by_language = inspect_shards(str(folder), examples="language")
    assert {name: len(places) for name, places in by_language.examples.items()} == {"en": 6, "lv": 6}
    assert all("lv" in sample.captions for _, sample in by_language.samples("lv"))


def test_broken_samples_are_listed_and_no_examples(plain_shards):
    folder = plain_shards([[{"png": b"nothing", "json": sample_files(n)["json"]} for n in range(250)]])
    found = inspect_shards(str(folder))
    assert (len(found.broken), len(found.facts["broken samples"]), found.examples) == (200, 20, {})
    assert found.broken[7] == (str(folder / "part-00.tar"), "broken image", "0007")


def test_nothing_to_inspect_is_one_line(tmp_path):
    with pytest.raises(ValueError, match="SHARDS: .* holds no .tar"):
        inspect_shards(str(tmp_path))
