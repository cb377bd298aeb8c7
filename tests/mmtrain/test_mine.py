"""`mmtrain mine`: the hardest wrong texts and pictures, by brute force and from any number of processes."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from webdataset import TarWriter

import mmtrain
from datamodules.shards.samples import read_texts
from mmtrain.cli import main
from mmtrain.evaluation.ranking.nearest import flat_search
from mmtrain.search.mining import nearest_allowed
from tests.mmtrain.indexes import model
from tests.mmtrain.mixed import members, mixed, rows_in, whole
from tests.mmtrain.small import fit, in_two_processes

__all__ = ["mixed", "model"]

SIZES = ["--batch_size", "8", "--samples_per_shard", "12", "--workers", "0", "--device", "cpu"]


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Numbers in digits and words: 100 of them, one rendering each."""
    folder = tmp_path_factory.mktemp("numbers") / "shards"
    options = ["--split", "val", "--languages", "[en,lv]", "--samples_per_shard", "70", "--workers", "1"]
    assert main(["pack", "numbers", "--out", str(folder), *options]) == 0
    return folder


@pytest.fixture(scope="module")
def rows(model: Path, numbers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `embed` writes of the numbers."""
    out = tmp_path_factory.mktemp("rows") / "rows"
    assert main(["embed", str(model), "--data", str(numbers), "--out", str(out), *SIZES]) == 0
    return out


def mine(model: Path, data: Path, out: Path, *options: str) -> list[dict[str, Any]]:
    """The lines of negatives.jsonl."""
    assert main(["mine", str(model), "--data", str(data), "--out", str(out), *SIZES, *options]) == 0
    return lines_of(out / "negatives.jsonl")


def lines_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def records(folder: Path) -> dict[str, dict[str, Any]]:
    found = [json.loads(content) for name, content in members(folder).items() if name.endswith(".json")]
    return {record["id"]: record for record in found}


class Space:
    """Rows of pictures [100, D] and captions [200, D] of the numbers, English and Latvian in turn."""

    def __init__(self, rows: Path) -> None:
        files = members(rows)
        self.records = list(records(rows).values())
        self.ids = [record["id"] for record in self.records]
        self.texts = [(name, text) for record in self.records for name, text in record["captions"].items()]
        self.images = np.stack(
            [rows_in(each) for name, each in files.items() if name.endswith(".npy") and ".texts" not in name]
        )
        self.captions = np.concatenate([rows_in(each) for name, each in files.items() if name.endswith(".texts.npy")])
        self.scores = self.images @ self.captions.T

    def hardest(self, caption: int, count: int, across: bool = False, low: float = -2, high: float = 2) -> list[str]:
        """The texts of the hardest wrong captions, between bounds, for the picture of a caption."""
        row = self.scores[caption // 2]
        wrong = [
            other
            for other in np.argsort(-row).tolist()
            if other // 2 != caption // 2
            and (across or self.texts[other][0] == self.texts[caption][0])
            and low <= row[other] <= high
        ]
        return [self.texts[other][1] for other in wrong[:count]]


def test_negatives_are_those_of_brute_force(rows: Path, model: Path, numbers: Path, tmp_path: Path) -> None:
    space, lines = Space(rows), mine(model, numbers, tmp_path / "mined", "--negatives", "4")
    assert [(line["language"], line["caption"]) for line in lines] == space.texts
    found = records(tmp_path / "mined")
    for caption, line in enumerate(lines):
        own = caption // 2
        assert line["id"] == space.ids[own] and line["score"] == pytest.approx(space.scores[own, caption], abs=1e-5)
        assert [each["text"] for each in line["negatives"]] == space.hardest(caption, 4)
        assert {each["language"] for each in line["negatives"]} == {line["language"]}
        nearest = [item for item in np.argsort(-space.scores[:, caption]).tolist() if item != own][:4]
        assert [each["id"] for each in line["images"]] == [space.ids[item] for item in nearest]
        record = found[line["id"]]
        assert read_texts(record, "negatives") and record["negatives"][line["language"]] == [
            each["text"] for each in line["negatives"]
        ]
        assert record["negative_ids"][line["language"]] == [each["id"] for each in line["negatives"]]
    assert all(len(record["negative_images"]) == 4 for record in found.values())
    listing = json.loads((tmp_path / "mined" / "shards.json").read_text())
    assert listing["samples"] == listing["images"] == 100 and listing["captions"] == {"en": 100, "lv": 100}


def test_rows_that_are_there_give_the_same(rows: Path, model: Path, numbers: Path, tmp_path: Path) -> None:
    of_model, of_rows = (mine(each, numbers, tmp_path / each.name) for each in (model, rows))
    assert of_model == of_rows
    assert members(tmp_path / model.name) == members(tmp_path / rows.name)


def test_margins_and_bounds_and_languages(rows: Path, numbers: Path, tmp_path: Path) -> None:
    """Across languages; at least 0.02 and at most 0.3 below the right score, and above -0.1."""
    space = Space(rows)
    bounds = ["--min_margin", "0.02", "--max_margin", "0.3", "--min_score", "-0.1"]
    lines = mine(rows, numbers, tmp_path / "mined", "--across", "--negatives", "5", *bounds)
    for caption, line in enumerate(lines):
        right = space.scores[caption // 2, caption]
        expected = space.hardest(caption, 5, True, max(right - 0.3, -0.1), right - 0.02)
        assert [each["text"] for each in line["negatives"]] == expected
    fewer = [line for line in lines if len(line["negatives"]) < 5]
    assert fewer and any(line["negatives"] for line in lines)
    assert {each["language"] for line in lines for each in line["negatives"]} == {"en", "lv"}
    for record in records(tmp_path / "mined").values():
        assert sum(map(len, record.get("negatives", {}).values())) <= 5
    lines = mine(rows, numbers, tmp_path / "english", "--languages", "[en]", "--max_score", "0")
    assert {line["language"] for line in lines} == {"en"}
    assert all(each["score"] <= 0 for line in lines for each in line["negatives"])


def test_what_is_said_of_a_picture_anywhere_is_no_negative(model: Path, shards: Path, tmp_path: Path) -> None:
    """Eight pictures of each of four colours share their words: three wrong ones are left, of the two in Arabic one."""
    for line in mine(model, shards, tmp_path / "mined"):
        texts = [each["text"] for each in line["negatives"]]
        assert len(texts) == len(set(texts)) == (1 if line["language"] == "ar" else 3)
        assert line["caption"] not in texts
        colour = int(line["id"][1:]) % 4
        assert all(int(each["id"][1:]) % 4 != colour for each in line["images"]) and len(line["images"]) == 7


def test_queries_get_wrong_answers_and_all_else_stays(model: Path, mixed: Path, tmp_path: Path) -> None:
    lines = mine(model, mixed, tmp_path / "mined")
    pairs = [line for line in lines if "query" in line]
    assert [(line["id"], line["query"], line["positive"]) for line in pairs] == [
        ("s3-0", "four?", "četri"),
        ("s3-1", "four?", "četri"),
    ]
    assert not any(line["negatives"] for line in pairs)  # both say the same
    found, given = members(tmp_path / "mined"), members(mixed)
    stays = [name.partition("/")[2] for name in given if "broken" not in name and not name.endswith(".json")]
    assert [name.partition("/")[2] for name in found if not name.endswith(".json")] == stays
    assert found["shard-000000/text.json"] == given["0/text.json"]
    assert found["shard-000000/pair.json"] == given["0/pair.json"]
    records_found = records(tmp_path / "mined")
    assert "s4-0" not in records_found and records_found["s0-0"]["note"] == [1, None]
    for sample in ("s0-0", "s5-0"):  # which show one picture; captions without one are negatives too
        assert set(records_found[sample]["negatives"].pop("en")) == {"three", "drei"}
        assert not records_found[sample]["negatives"]
    listing = json.loads((tmp_path / "mined" / "shards.json").read_text())
    assert listing["skipped"] == {"not embedded": 2}


def test_training_reads_mined_negatives_without_more(model: Path, shards: Path, tmp_path: Path) -> None:
    mine(model, shards, tmp_path / "mined")
    field = {"negatives": {"class_path": "datamodules.Texts", "init_args": {"count": 3}}}
    arguments = {"queries": "image", "targets": "texts", "negatives": "negatives"}
    objectives = {"contrast": {"class_path": "losses.InfoNceLoss", "init_args": arguments}}
    options = ["--data.captions_per_image=1", f"--data.fields={json.dumps(field)}"]
    options += [f"--model.objectives={json.dumps(objectives)}"]
    assert fit(tmp_path / "mined", tmp_path / "run", *options, "--trainer.max_steps=2") == 0


def test_the_pool_is_the_union_of_what_is_nearest_and_what_is_relevant(
    rows: Path, model: Path, numbers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space, encoder = Space(rows), mmtrain.load(model)
    asked = [("en", "seven"), ("en", "seventy"), ("lv", "septiņi"), ("", "7")]
    questions = [
        {"id": f"q{number}", "text": text, "language": language, "relevant": {space.ids[number]: 1, space.ids[9]: 0}}
        for number, (language, text) in enumerate(asked)
    ]
    (tmp_path / "questions.jsonl").write_text("\n".join(map(json.dumps, questions)), encoding="utf-8")
    options = ["--questions", str(tmp_path / "questions.jsonl"), "--pool", "5"]
    out = tmp_path / "pool"
    assert main(["mine", str(model), "--data", str(numbers), "--out", str(out), *SIZES, *options]) == 0
    pools: dict[str, set[str]] = {}
    near: list[str] = []
    for number, (language, text) in enumerate(asked):
        nearest = np.argsort(-(space.images @ encoder.encode_text([text], language)[0]))[:5]
        near += [space.ids[item] for item in nearest]
        for item in (*nearest, number):
            pools.setdefault(space.ids[item], set()).add(language or "und")
    found = records(out)
    assert {item: set(record["pool"]) for item, record in found.items()} == pools
    assert list(found) == [item for item in space.ids if item in pools]  # in the order of SHARDS
    lines = lines_of(out / "pool.jsonl")
    assert {line["id"]: line["nearest"] for line in lines} == {item: near.count(item) for item in pools}
    assert {line["id"] for line in lines if line["relevant"]} == set(space.ids[:4])
    assert [line["pool"] for line in lines_of(out / "questions.jsonl")] == ["en", "en", "lv", "und"]
    assert f"{len(pools)} of 100 items for 4 questions" in capsys.readouterr().out
    # a question that names its pool is asked of that alone, and only what is in it can be relevant
    own = {"id": "q", "text": "seven", "language": "en", "pool": "lv", "relevant": {space.ids[50]: 1}}
    (tmp_path / "own.jsonl").write_text(json.dumps(own), encoding="utf-8")
    options = ["--questions", str(tmp_path / "own.jsonl"), "--pool", "1000"]
    assert main(["mine", str(model), "--data", str(out), "--out", str(tmp_path / "own"), *SIZES, *options]) == 0
    of_latvian = {item for item, names in pools.items() if "lv" in names}
    assert records(tmp_path / "own").keys() == of_latvian and space.ids[50] not in of_latvian


def test_items_of_a_pool_are_those_that_questions_are_measured_on(model: Path, mixed: Path, tmp_path: Path) -> None:
    """A sample without a picture is there by its text, "text" of its JSON before captions, of one id the first; broken
    ones are counted.
    """
    more = tmp_path / "more.tar"
    with TarWriter(str(more)) as tar:
        for key, record in {
            "written": {"id": "w", "text": "seven", "captions": {"en": "something else", "lv": "cits"}},
            "again": {"id": "w", "text": "eight"},
            "plain": {"id": "p", "text": "seventy"},
            "nothing": {"id": "n"},
        }.items():
            tar.write({"__key__": key, "json": json.dumps(record).encode()})
    asked, data = tmp_path / "questions.jsonl", f"{mixed}::{more}"
    asked.write_text('{"id": "q", "text": "seven", "language": "en", "relevant": {"s3-1": 2}}')
    options = ["--data", data, "--questions", str(asked), "--workers", "0", "--device", "cpu"]
    assert main(["mine", str(model), *options, *SIZES[:4], "--out", str(tmp_path / "pool"), "--pool", "100"]) == 0
    assert main(["evaluate", str(model), *options, "--out", str(tmp_path / "out")]) == 0
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    lines = {line["id"]: line for line in lines_of(tmp_path / "pool" / "pool.jsonl")}
    assert len(lines) == metrics["protocol"]["questions"]["items"] == 12
    assert all(line["pool"] == ["en"] for line in lines.values())
    assert json.loads((tmp_path / "pool" / "shards.json").read_text())["skipped"] == {"not embedded": 2}
    # the nearest is the text that the question has word for word
    assert main(["mine", str(model), *options, *SIZES[:4], "--out", str(tmp_path / "one"), "--pool", "1"]) == 0
    nearest = [line["id"] for line in lines_of(tmp_path / "one" / "pool.jsonl") if line["nearest"]]
    assert nearest == ["w"] and records(tmp_path / "one")["w"]["text"] == "seven"


def test_allowed_neighbours_are_those_of_brute_force_at_any_depth() -> None:
    """With bounds that leave a query all items, some or none."""
    random = np.random.default_rng(0)
    queries, items = (random.standard_normal((count, 6)).astype(np.float32) for count in (50, 300))
    queries, items = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (queries, items))
    lowest = random.uniform(-1.2, 0.9, 50)
    highest = lowest + random.uniform(0, 1, 50)
    scores, numbers = nearest_allowed(
        flat_search(items), 300, queries, 3, lambda asked, found, best: found <= highest[asked, None], lowest
    )
    for query, row in enumerate(queries @ items.T):
        between = [item for item in np.argsort(-row).tolist() if lowest[query] <= row[item] <= highest[query]][:3]
        assert numbers[query].tolist() == between + [-1] * (3 - len(between))
        assert np.isneginf(scores[query, len(between) :]).all()


@pytest.mark.system
@pytest.mark.parametrize("kind", ["negatives", "pool"])
def test_two_processes_mine_what_one_mines(
    kind: str, model: Path, numbers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "questions.jsonl").write_text('{"id": "q", "text": "seven", "language": "en"}\n')
    options = ["--questions", str(tmp_path / "questions.jsonl"), "--pool", "20"] if kind == "pool" else []
    arguments = ["mine", str(model), "--data", str(numbers), *SIZES, *options, "--out"]
    assert main([*arguments, str(tmp_path / "one")]) == 0
    in_two_processes([*arguments, str(tmp_path / "two")], monkeypatch)
    assert whole(tmp_path / "two") == whole(tmp_path / "one")
    assert sorted(os.listdir(tmp_path)) == ["one", "questions.jsonl", "two"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--negatives", "0"], "--negatives: got 0, expected at least 1"),
        (["--min_margin", "0.3", "--max_margin", "0.1"], "nothing is between 0.3 and 0.1"),
        (["--pool", "3"], "--questions, --pool: got None and 3"),
        (["--questions", "ROWS", "--pool", "3"], "cannot be read"),
        (["--questions", "MALFORMED", "--pool", "3"], "line 2: no JSON"),
        (["--questions", "TWICE", "--pool", "3"], "line 2: 'a' comes twice"),
        (["--questions", "GRADES", "--pool", "3"], "relevant is no object of grades"),
        (["--questions", "FINE", "--pool", "3"], "give the MODEL"),
    ],
)
def test_bad_input_gets_one_line(options, says, rows: Path, numbers: Path, tmp_path: Path, capfd) -> None:
    question = '{"id": "a", "text": "b"}\n'
    contents = {"MALFORMED": question + "{", "TWICE": 2 * question, "FINE": question}
    contents["GRADES"] = '{"id": "a", "text": "b", "relevant": {"x": -1}}'
    for name, content in contents.items():
        (tmp_path / name).write_text(content)
    places = {"ROWS": str(rows)} | {name: str(tmp_path / name) for name in contents}
    options = [places.get(option, option) for option in options]
    assert main(["mine", str(rows), "--data", str(numbers), "--out", str(tmp_path / "out"), *SIZES, *options]) == 1
    errors = [line for line in capfd.readouterr().err.splitlines() if "error:" in line]
    assert len(errors) == 1 and says in errors[0]
    assert sorted(os.listdir(tmp_path)) == sorted(contents)


def test_rows_of_other_samples_are_refused(rows: Path, mixed: Path, tmp_path: Path, capsys) -> None:
    assert main(["mine", str(rows), "--data", str(mixed), "--out", str(tmp_path / "out"), *SIZES]) == 1
    assert "holds rows of other samples than --data" in capsys.readouterr().err
