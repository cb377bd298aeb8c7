"""`mmtrain pack FORMAT`: one command line for every source."""

import json

import pytest
from test_packing_sources import COCO, crossmodal3600, multi30k, wit_row, write, write_wit, xtd10
from tiny_shards import png_bytes

from mmtrain.cli import main

TABLE = "image,en,lv,mood,split\na.png,a,b,1,train\nb.png,c,,0,val\nc.png,,d,,val\n"
COLUMNS = ["--captions", "[en=en,lv=lv]", "--labels", "[mood=mood]"]


@pytest.fixture
def source(tmp_path):
    """source(format): a miniature of the source and, in pictures/, each picture it names."""

    def build(name):
        folder = tmp_path / "source"
        made = {
            "csv": lambda: write(folder / "a.csv", TABLE),
            "tsv": lambda: write(folder / "a.tsv", TABLE.replace(",", "\t")),
            "karpathy": lambda: write(folder / "dataset_coco.json", json.dumps(COCO)),
            "multi30k": lambda: multi30k(folder),
            "xm3600": lambda: crossmodal3600(folder),
            "wit": lambda: write_wit(
                write(folder / "wit.tsv.gz", ""), [wit_row(reference="a"), wit_row("lv", alt="b")]
            ),
            "xtd10": lambda: xtd10(folder),
        }[name]()
        pictures = ["a.png", "b.png", "c.png", "Half_Dome.jpg", "val2014/COCO_val2014_000000391895.jpg", "36979.jpg"]
        pictures += ["COCO_train2014_000000117071.jpg", "1000092795.jpg", "000411001ff7dd4f.jpg"]
        pictures += ["train2014/COCO_train2014_000000061844.jpg", "val2014/COCO_val2014_000000000042.jpg"]
        for number, picture in enumerate(pictures):
            write(tmp_path / "pictures" / picture, png_bytes(number, size=(30, 20)))
        return made

    return build


def pack(*arguments):
    return main(["pack", *map(str, arguments)])


@pytest.mark.parametrize(
    ("name", "options", "samples", "captions", "left_out"),
    [
        ("csv", COLUMNS, 3, {"en": 2, "lv": 2}, {}),
        ("csv", [*COLUMNS, "--split", "val"], 2, {"en": 1, "lv": 1}, {}),
        ("tsv", COLUMNS, 3, {"en": 2, "lv": 2}, {}),
        ("karpathy", ["--split", "test"], 1, {"en": 2}, {"no filename": 1}),
        ("karpathy", ["--split", "train", "--language", "lv"], 1, {"lv": 1}, {"no filename": 1}),
        ("multi30k", [], 2, {"de": 1, "en": 2, "fr": 1}, {"missing image": 1}),
        ("multi30k", ["--split", "train"], 1, {"de": 1, "en": 1}, {"missing image": 1}),
        ("xm3600", [], 1, {"de": 2, "quz": 1}, {"missing image": 1, "no image/key": 1}),
        ("wit", [], 2, {"en": 1, "lv": 1}, {}),
        ("wit", ["--join"], 1, {"en": 1, "lv": 1}, {}),
        ("wit", ["--deduplicate"], 1, {"en": 1}, {"duplicate image": 1}),
        ("wit", ["--caption_fields", "[alt]", "--first"], 1, {"lv": 1}, {"no caption": 1}),
        ("xtd10", [], 2, dict.fromkeys(sorted("de en es fr it ja ko pl ru tr zh".split()), 2), {"missing image": 1}),
        ("xtd10", ["--without_train2014"], 1, None, {"COCO training image": 2}),
        ("xtd10", ["--exclude_ids", "XTD10/test_image_names.txt"], 0, None, {"excluded id": 3}),
    ],
)
def test_every_source_packs(source, tmp_path, capsys, name, options, samples, captions, left_out):
    found = source(name)
    options = [str(found / option) if option.endswith(".txt") else option for option in options]
    common = [name, found, "--images", tmp_path / "pictures", "--image_size", 10, "--samples_per_shard", 1, *options]
    if not samples:
        assert pack(*common, "--out", tmp_path / "out") == 1
        assert "no sample could be packed (excluded id)" in capsys.readouterr().err
        return
    assert pack(*common, "--out", tmp_path / "out", "--workers", 1) == 0
    listing = json.loads((tmp_path / "out" / "shards.json").read_text())
    assert (listing["samples"], listing["skipped"]) == (samples, left_out)
    assert captions is None or listing["captions"] == captions
    (said,) = capsys.readouterr().out.splitlines()
    assert f"{samples} samples, {samples} images" in said
    for cause, rows in left_out.items():
        assert f"{rows} {cause}" in said and "listed in shards.json" in said
    assert pack(*common, "--out", tmp_path / "two", "--workers", 2) == 0
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / out).iterdir()} for out in ("out", "two"))
    assert len(one) == samples + 1 and one == two


def test_a_folder_of_pictures_packs_beside_its_texts(tmp_path, capsys):
    for name in ("a", "b"):
        write(tmp_path / "in" / f"{name}.png", png_bytes())
    write(tmp_path / "in" / "a.txt", "one\n")
    assert pack("folder", tmp_path / "in", "--out", tmp_path / "out", "--language", "en", "--workers", 1) == 0
    assert "1 captions in 1 languages" in (said := capsys.readouterr().out) and "1 no caption" in said


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["csv", "a.csv", "--out", "out"], 2, "--captions"),
        (["csv", "a.csv", "--out", "out", "--captions", "[en]"], 2, "got 'en', expected NAME=VALUE"),
        (["csv", "a.csv", "--out", "out", "--captions", "[en=x]"], 1, "has no column 'x'"),
        (
            ["csv", "a.csv", "--out", "out", "--captions", "[en=en]", "--labels", "[m=en,m=lv]"],
            2,
            "expected one for each",
        ),
        (["csv", "a.csv", "--out", "out", "--captions", "[en=en]", "--split", "dev"], 1, "its splits are train, val"),
        (["karpathy", "a.csv", "--out", "out"], 1, "a.csv is no Karpathy split"),
        (["multi30k", "none", "--out", "out"], 1, "none holds no list with texts"),
        (["xm3600", "a.csv", "--out", "out"], 1, "no sample could be packed (no JSON object)"),
        (["wit", "a.csv", "--out", "out"], 1, "a.csv has 1 columns, not those of WIT"),
        (["xtd10", "none", "--out", "out"], 1, "none holds 0 test_image_names.txt"),
        (["folder", "none", "--out", "out"], 1, "none holds no picture"),
        (["numbers", "--out", "out", "--split", "val", "--posts", "--renderings", "2"], 1, "renderings: 2"),
    ],
)
def test_wrong_sources_get_one_line(tmp_path, monkeypatch, capsys, arguments, code, says):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.csv", TABLE)
    assert pack(*arguments) == code
    (error,) = capsys.readouterr().err.splitlines()
    assert says in error


def test_numbers_and_their_posts(tmp_path, capsys):
    common = ["--split", "val", "--languages", "[en,lv]", "--workers", 1]
    assert pack("numbers", "--out", tmp_path / "numbers", "--renderings", 2, *common) == 0
    assert "200 samples, 200 images, 400 captions in 2 languages" in capsys.readouterr().out
    assert pack("numbers", "--out", tmp_path / "posts", "--posts", *common) == 0
    listing = json.loads((tmp_path / "posts" / "shards.json").read_text())
    assert listing["samples"] == 800
    assert listing["shards"][0]["labels"]["relation"] == {"0": 200, "1": 100, "2": 100, "3": 400}
