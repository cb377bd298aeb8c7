"""Public label files of image-text relations, with their faults, joined to local pictures and texts."""

import json
from collections import Counter

import pytest
from tiny_shards import png_bytes

from datamodules.packing import pack_rows, read_four_classes, read_tir
from datamodules.shards.encoding import BadRow
from datamodules.shards.reader import ShardReader
from datamodules.shards.samples import read_record
from mmtrain.cli import main

HEADER = (
    "tweet_id,text_is_represented,image_adds,image_adds_text_repr,image_adds_text_notrepr,image_notadds_text_repr,"
    "image_notadds_text_notrepr,,,"
)
ROWS = [
    "101,1,0,0,0,1,0,,,",  # represented, nothing added
    "102,1,1,1,0,0,0,,,",
    "103,0,0,0,0,0,1,,,",
    "104,0,1,0,1,0,0,,,",
    "105,0,0,0,0,0,0,,,",  # no label: argmax would say class 0
    "106,1,1,1,0,1,0,,,",  # two labels
    "107,0,0,0,0,1",  # a column is missing
    "110,a text in the way,1,0,0,0,1,0,,",  # shifted, and yet one column of four says 1
    "6.92094E+17,1,0,0,0,1,0,,,",  # rounded by a spreadsheet
    "108,1,1,1,0,0,0,,,",  # its picture is gone
    "109,1,1,1,0,0,0,,,",  # its text is gone
]


@pytest.fixture
def tir(tmp_path):
    (tmp_path / "textimage.csv").write_text("\n".join([HEADER, *ROWS]), encoding="utf-8")
    for number in (101, 102, 103, 104, 109):
        (tmp_path / f"{number}.png").write_bytes(png_bytes(number))
    texts = [f'{number},"text of {number}, with a comma"' for number in range(101, 109)]
    (tmp_path / "texts.csv").write_text("\n".join(["tweet_id,text", *texts]), encoding="utf-8")
    return tmp_path


def test_tir_has_four_classes_and_names_its_faults(tir):
    rows = list(read_tir(tir / "textimage.csv", texts=tir / "texts.csv"))
    good = [row for row in rows if not isinstance(row, BadRow)]
    assert [row.record["labels"]["relation"] for row in good] == [0, 1, 2, 3, 1]
    assert good[0].record == {
        "id": "101",
        "captions": {"en": "text of 101, with a comma"},
        "labels": {"represented": 1, "adds": 0, "relation": 0},
    }
    assert good[3].record["labels"] == {"represented": 0, "adds": 1, "relation": 3}
    causes = Counter(row.cause for row in rows if isinstance(row, BadRow))
    assert causes == {
        "no label": 1,
        "two labels": 1,
        "malformed row": 1,
        "shifted row": 1,
        "rounded id": 1,
        "missing text": 1,
    }


def test_tir_is_packed_with_what_is_there(tir):
    facts = pack_rows(read_tir(tir / "textimage.csv", texts=tir / "texts.csv"), tir / "out", images=tir)
    assert facts["samples"] == 4
    assert facts["skipped"]["missing image"] == 1 and facts["skipped"]["no label"] == 1


def test_the_command_packs_a_split_given_as_a_list(tir, capsys):
    (tir / "held_out.txt").write_text("102\n103\n")
    (tir / "other.csv").write_text((tir / "texts.csv").read_text().replace("tweet_id,text", "id,tweet"))
    common = ["pack", "tir", tir / "textimage.csv", "--texts", tir / "other.csv", "--text_id", "id", "--text", "tweet"]
    for split, option, ids in (("train", "--exclude_ids", [101, 104]), ("val", "--only_ids", [102, 103])):
        options = [option, tir / "held_out.txt", "--out", tir / split, "--workers", "1"]
        assert main([str(each) for each in [*common, *options]]) == 0
        said = capsys.readouterr().out
        assert "2 samples" in said and "1 two labels" in said and "1 no label" in said
        assert [record["id"] for record in packed_records(tir / split)] == [str(number) for number in ids]


def packed_records(folder):
    (path,) = folder.glob("*.tar")
    reader = ShardReader()
    found = [read_record(reader.read(str(path), place)[1])[0] for place in range(len(reader.index(str(path))))]
    reader.close()
    return found


def test_texts_may_be_files(tir):
    (tir / "texts").mkdir()
    (tir / "texts" / "102.txt").write_text("par attēlu\n", encoding="utf-8")
    rows = [
        row
        for row in read_tir(tir / "textimage.csv", texts=tir / "texts", language="lv")
        if not isinstance(row, BadRow)
    ]
    assert [(row.record["id"], row.record["captions"]) for row in rows] == [("102", {"lv": "par attēlu"})]


def test_another_table_is_refused(tir):
    (tir / "other.csv").write_text("id,label\n1,2", encoding="utf-8")
    with pytest.raises(ValueError, match="has no column 'tweet_id'"):
        list(read_tir(tir / "other.csv", texts=tir / "texts.csv"))
    with pytest.raises(ValueError, match="texts: .* has no column 'text'"):
        list(read_tir(tir / "textimage.csv", texts=tir / "other.csv", text_id="id"))


def test_four_classes_say_what_their_numbers_mean(tmp_path):
    for number in range(4):
        (tmp_path / f"p{number}.png").write_bytes(png_bytes(number))
    table = ["image,lv,en,label", *(f"p{number},teksts {number},text {number},{number}" for number in range(4))]
    table += ["p0,teksts,text,4", "p1,teksts,text,"]
    (tmp_path / "lv.csv").write_text("\n".join(table), encoding="utf-8")
    captions = {"lv": "lv", "en": "en"}
    rows = list(read_four_classes(tmp_path / "lv.csv", captions=captions))
    assert [row.record["labels"]["relation"] for row in rows[:4]] == [0, 1, 2, 3]
    assert [row.cause for row in rows[4:]] == ["label out of range", "no label"]
    coding = ["not_represented+adds", "not_represented", "represented+adds", "represented"]
    turned = list(read_four_classes(tmp_path / "lv.csv", captions=captions, coding=coding))
    assert [row.record["labels"]["relation"] for row in turned[:4]] == [3, 2, 1, 0]
    facts = pack_rows(iter(turned), tmp_path / "out", images=tmp_path)
    assert facts["samples"] == 4 and json.loads((tmp_path / "out" / "shards.json").read_text())["captions"]["lv"] == 4
    with pytest.raises(ValueError, match="coding: a, b; the four in the file's order"):
        list(read_four_classes(tmp_path / "lv.csv", captions=captions, coding=["a", "b"]))


def test_four_classes_join_folders_of_texts(tmp_path):
    (tmp_path / "posts.csv").write_text("id,label\n7,1\n8,3\n9,0\n", encoding="utf-8")
    for language, texts in {"lv": {7: "septiņi", 8: "astoņi"}, "en": {7: "seven"}}.items():
        (tmp_path / language).mkdir()
        for number, text in texts.items():
            (tmp_path / language / f"{number}.txt").write_text(text + "\n", encoding="utf-8")
    for number in (7, 8, 9):
        (tmp_path / f"{number}.png").write_bytes(png_bytes(number))
    texts = f"[lv={tmp_path / 'lv'},en={tmp_path / 'en'}]"
    options = ["--texts", texts, "--image", "id", "--out", str(tmp_path / "out"), "--workers", "1"]
    assert main(["pack", "four_classes", str(tmp_path / "posts.csv"), *options]) == 0
    seven, eight = packed_records(tmp_path / "out")  # nine has no text
    assert seven["captions"] == {"lv": "septiņi", "en": "seven"} and seven["labels"]["relation"] == 1
    assert eight["captions"] == {"lv": "astoņi"} and eight["labels"] == {"represented": 0, "adds": 1, "relation": 3}
    listing = json.loads((tmp_path / "out" / "shards.json").read_text())
    assert listing["skipped"] == {"missing text": 1}


def test_four_classes_need_texts_from_somewhere(tmp_path, capsys):
    (tmp_path / "posts.csv").write_text("id,label\n7,1\n", encoding="utf-8")
    common = ["pack", "four_classes", str(tmp_path / "posts.csv"), "--image", "id", "--out", str(tmp_path / "out")]
    assert main(common) == 1
    assert "captions, texts: neither is named" in capsys.readouterr().err
    assert main([*common, "--texts", f"[lv={tmp_path / 'none'}]"]) == 1
    assert "is no folder" in capsys.readouterr().err
