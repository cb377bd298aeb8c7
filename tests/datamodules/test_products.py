"""Catalogues of products: what a query asks for, and MERIT's queries as samples."""

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from datamodules.numbers.products import catalogue, instruction, pack_products, query, title
from datamodules.packing.merit import interleaved
from datamodules.reading.fields import pieces
from datamodules.reading.whole import WholeSamples
from mmtrain.cli import main
from mmtrain.evaluation.questions import read_questions


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "shards.json")
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_only_the_answer_meets_both_conditions_of_what_is_shown() -> None:
    for number in range(200):
        asked = query("train", number)
        assert asked.right(asked.answer) and set(asked.asked) in ({0, 1}, {0, 2})
        for shown, condition in zip(asked.shown, asked.asked, strict=True):
            assert [one == other for one, other in zip(shown, asked.answer, strict=True)].count(True) == 1
            assert shown[condition] == asked.answer[condition]
            assert not asked.right(shown)
    assert query("train", 3) == query("train", 3) != query("val", 3)


def test_texts_say_what_is_asked_and_what_is_shown() -> None:
    asked = next(each for each in map(lambda n: query("train", n), range(50)) if each.asked == (2, 0))
    assert pieces(instruction(asked, "fr")) == ["le papier de", ", le nombre de", ""]
    answer = catalogue("train")[0]
    assert title(answer, "en") == "zero, black ink on white paper" and title(answer, "lv").endswith("uz balta papīra")


def test_splits_share_no_number_and_the_bytes_do_not_depend_on_the_workers(tmp_path: Path) -> None:
    numbers = [{product.number for product in catalogue(split)} for split in ("train", "val", "test")]
    assert not numbers[0] & numbers[1] and not numbers[0] & numbers[2] and not numbers[1] & numbers[2]
    for workers in (1, 2):
        for split in ("train", "test"):
            out = tmp_path / str(workers) / split
            facts = pack_products(out, split, queries=6, samples_per_shard=200, workers=workers)
            assert facts["samples"] == (6 if split == "train" else len(catalogue("test")))
    assert digests(tmp_path / "1") == digests(tmp_path / "2")


def test_questions_name_their_pictures_and_every_right_product(tmp_path: Path) -> None:
    pack_products(tmp_path, "test", ["en", "lv"], queries=5)
    items = {f"{each.number:02d}": each for each in catalogue("test")}
    for number, each in enumerate(read_questions(tmp_path / "questions.jsonl")):
        asked = query("test", number)
        assert len(each.images) == 2 and all(Image.open(file).size == (64, 64) for file in each.images)
        assert len(each.relevant) == (5 if "ink" in each.group else 6) and each.language in ("en", "lv")
        assert all(name[:2] == f"{asked.answer.number:02d}" and name[:2] in items for name in each.relevant)


def png(level: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (level, 0, 0)).save(file, "PNG")
    return file.getvalue()


def merit(folder: Path, **change: object) -> Path:
    (folder / "data").mkdir(parents=True)
    columns = {"idx": ["11", "12", "13"], "image": [{"bytes": png(n), "path": None} for n in (11, 12, 13)]}
    columns |= {"title": ["ta", "tb", "tc"], "language": ["id", "Thai", "th"], "class": ["bag"] * 3}
    pq.write_table(pa.table(columns), folder / "data" / "train-00000.parquet")
    line = {"query instruction": "As <Product 2> x </Product 2> but <Product 1> </Product 1> red", "query": [13, 11]}
    line |= {"pos_candidate": [12, 11], "hard_negative": [13]}
    (folder / "queries-train.json").write_text(json.dumps(line | change) + "\n")
    return folder


def test_merits_queries_are_samples_of_query_and_product(tmp_path: Path) -> None:
    source = merit(tmp_path / "merit")
    assert main(["pack", "products", str(source), "--split", "train", "--out", str(tmp_path / "out")]) == 0
    samples = list(WholeSamples([str(tmp_path / "out" / "shard-000000.tar")]))
    assert [each.sample.id for each in samples] == ["train-1-12", "train-1-11"]
    first = samples[0]
    assert first.sample.record["query"] == {"id": "As <image> x but <image> red"}
    assert first.sample.record["positive"] == {"th": "tb"}
    shown = ("query_pictures.png", "query_pictures1.png", "positive_pictures.png")
    assert [first.files[name] for name in shown] == [png(11), png(13), png(12)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("<Product 1> a </Product 1> b", "<image> a b"),
        ("no tag", "no tag"),
        ("<Product 3> <product 1> <Product 1>", "<image>"),
    ],
)
def test_the_first_tag_of_a_product_is_its_place(text: str, found: str) -> None:
    assert interleaved(text, ["p", "q"]) == (found, ["p", "q"])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"query": [99]}, "product 99 is none of the train set"),
        ({"query instruction": 3}, "no query"),
        ({"pos_candidate": [77]}, "77 is none of its products"),
    ],
)
def test_a_broken_merit_is_one_line(tmp_path: Path, capsys, change: dict, says: str) -> None:
    source = merit(tmp_path / "merit", **change)
    assert main(["pack", "products", str(source), "--split", "train", "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert says in said[-1] and "Traceback" not in "".join(said)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--languages", "[xx]"], "'xx' has no words for products"),
        (["--queries=0"], "queries"),
        (["nowhere"], "nowhere"),
        (["nowhere", "--queries=3"], "queries: got 3"),
    ],
)
def test_options_that_cannot_be_are_one_line(tmp_path: Path, capsys, options: list[str], says: str) -> None:
    assert main(["pack", "products", *options, "--split", "train", "--out", str(tmp_path / "out")]) == 1
    assert says in capsys.readouterr().err.strip().splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_empty_pieces_keep_their_places() -> None:
    from datamodules import ByteTokenizer, Pieces
    from datamodules.reading.fields import Text, Value, field_of

    rows = [[Value(Text("en", each), 0) for each in pieces(text, 2)] for text in ("<image> a <image> b", "c")]
    made = field_of(Pieces("query", 2), rows, None, ByteTokenizer(), {"en": 0}, ["q: ", "q: "])
    assert made.present.tolist() == [[False, True], [True, False]] and made.texts == [["", "a b"], ["c", ""]]
    lengths = made.mask.sum(2)
    assert np.array_equal(lengths > 0, made.present)
    assert lengths[0, 1] == ByteTokenizer()(["q: a b"], ["en"])[1].sum()
