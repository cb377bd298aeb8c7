"""`mmtrain evaluate --questions`: figures against brute force with the loaded model, and one line for bad input."""

import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from webdataset import TarWriter

import mmtrain
from mmtrain.cli import main
from mmtrain.models.encoder import Encoder
from tests.mmtrain.conftest import COLOURS
from tests.mmtrain.indexes import model
from tests.mmtrain.mixed import mixed, picture

__all__ = ["mixed", "model"]

NAMES = ("red", "green", "blue", "grey")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """32 pages of four colours in two documents, without captions; two are of the same pixels, some have text."""
    folder = tmp_path_factory.mktemp("pages")
    rows = []
    random = np.random.default_rng(1)
    for number in range(32):
        pixels = np.full((60, 40, 3), 255, "uint8")
        pixels[10:50, 5:35] = (np.array(COLOURS[number % 4]) + random.integers(-30, 30, (40, 30, 3))).clip(0, 255)
        Image.fromarray(pixels).save(folder / f"{number if number != 31 else 30}.png")
        row: dict[str, Any] = {"id": f"p{number}", "image": f"{number if number != 31 else 30}.png"}
        row["pool"] = "first" if number < 16 else ["second", "odd"][: 1 + number % 2]
        if number != 5:
            row |= {"text": {"en": f"page {number} is {NAMES[number % 4]}"}}
        rows.append(row)
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    options = ["--samples_per_shard", "20", "--workers", "1"]
    assert main(["pack", "jsonl", str(folder / "rows.jsonl"), "--out", str(folder / "shards"), *options]) == 0
    return folder


def evaluate(model: Path, data: Path | str, out: Path, questions: Sequence[dict], *options: str) -> dict[str, Any]:
    file = out.parent / f"{out.name}.jsonl"
    file.write_text("\n".join(json.dumps(each, ensure_ascii=False) for each in questions), encoding="utf-8")
    arguments = ["--data", str(data), "--questions", str(file), "--out", str(out), "--workers", "0", "--device", "cpu"]
    assert main(["evaluate", str(model), *arguments, *options]) == 0
    return json.loads((out / "metrics.json").read_text(encoding="utf-8"))


def rows_of(encoder: Encoder, pages: Path) -> np.ndarray:
    pictures = [Image.open(pages / f"{number if number != 31 else 30}.png") for number in range(32)]
    return encoder.encode_image(pictures)


def test_questions_look_for_pages_that_have_no_captions(
    model: Path, pages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MMTRAIN_PROGRESS_SECONDS", "0")
    encoder = mmtrain.load(model)
    items = rows_of(encoder, pages)
    asked = [("en", "red", None), ("lv", "zils", None), ("en", None, "3.png"), ("en", "green", "7.png")]
    queries = [{"text": text, "images": [] if file is None else [Image.open(pages / file)]} for _, text, file in asked]
    rows = encoder.encode_queries([query | {"role": "query"} for query in queries])
    within = [range(32), range(16, 32), [number for number in range(16, 32) if number % 2], [2, 5, 11]]
    pools: list[Any] = [None, "second", "odd", ["p2", "p5", "p11", "p5", "gone"]]
    questions, expected = [], {"en": [], "lv": []}
    for number, ((language, text, file), row, pool) in enumerate(zip(asked, rows, within, strict=True)):
        order = sorted(pool, key=lambda item: (-round(float(items[item] @ row) * 1e6), item == 2 + number))
        right = order[number % 3]
        expected[language].append(100 / (1 + number % 3))
        question: dict[str, Any] = {"id": f"q{number}", "language": language, "group": "ab"[number % 2]}
        question |= {"relevant": {f"p{right}": 1, "p0": 0}, "pool": pools[number]}
        question |= {} if text is None else {"text": text}
        questions.append(question | ({} if file is None else {"images": [str(pages / file)]}))
    lost = {"id": "lost", "text": "red", "language": "sw", "relevant": {"nowhere": 1}}
    metrics = evaluate(
        model, pages / "shards", tmp_path / "out", [*questions, lost, lost | {"id": "no", "relevant": {}}]
    )
    figures = metrics["questions"]
    assert list(figures) == ["en", "lv", "mean", "groups"]
    for language, places in expected.items():
        assert figures[language]["MRR@10"] == pytest.approx(np.mean(places))
        assert figures[language]["queries"] == len(places)
    assert figures["groups"]["b"]["MRR@10"] == pytest.approx(np.mean([expected["lv"][0], expected["en"][2]]))
    names = {"nDCG@5", "nDCG@10", "R@1", "R@5", "R@10", "MRR@10"}
    assert all(low <= figures["en"][name] <= high for name in names for low, high in [figures["en"][f"{name}_ci95"]])
    assert set(figures["mean"]) == names | {f"{name}_ci95" for name in names} | {"queries"}
    facts = metrics["protocol"]["questions"]
    assert (facts["questions"], facts["items"], facts["excluded"], facts["unknown_items"]) == (6, 32, 2, 2)
    assert facts["pools"] == [3, 32] and facts["repeated_items"] == 0
    assert "text_to_image" not in metrics and "mean_recall" not in metrics
    assert re.search(r"^encoding: (\d) of \1 questions \(100%\)", capsys.readouterr().err, re.MULTILINE)
    report = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "Questions in 2 languages" in report and "<bdi>p" in report and report.count("data:image/webp") >= 9


def test_a_sample_without_a_picture_is_found_by_its_text(model: Path, mixed: Path, tmp_path: Path) -> None:
    """Pictures are items, and so are captions and positive texts where there is no picture. A broken picture is none,
    nor is a sample with neither.
    """
    encoder = mmtrain.load(model)
    texts = encoder.encode_text(["three\ndrei", "četri"] * 2, role="passage")
    pictures = encoder.encode_image([Image.open(io.BytesIO(picture(seed))) for seed in (0, 2, 0, 1, 3, 1)])
    scores = np.concatenate([texts, pictures]) @ encoder.encode_text(["četri"], "lv", role="query")[0]
    steps = np.rint(scores / 1e-6)
    reached = int((steps >= steps[1]).sum())
    questions = [{"id": "q", "text": "četri", "language": "lv", "relevant": {"s3-0": 1}}]
    with TarWriter(str(tmp_path / "more.tar")) as tar:
        tar.write({"__key__": "nothing", "json": b'{"id": "nothing"}'})
    metrics = evaluate(model, f"{mixed}::{tmp_path / 'more.tar'}", tmp_path / "out", questions)
    facts, skipped = metrics["protocol"]["questions"], metrics["protocol"]["skipped"]
    assert (facts["items"], facts["text_items"]) == (10, 4)
    assert skipped["skipped"] == 3 and skipped["causes"]["neither picture nor text"] == 1
    expected = 0 if reached > 10 else 100 / reached
    assert metrics["questions"]["lv"]["MRR@10"] == pytest.approx(expected)
    plain = ["--data", str(mixed), "--out", str(tmp_path / "plain"), "--workers", "0", "--device", "cpu"]
    assert main(["evaluate", str(model), *plain]) == 0
    without = json.loads((tmp_path / "plain" / "metrics.json").read_text())
    assert metrics["text_to_image"] == without["text_to_image"]  # captions of pictures alone


def test_captions_are_measured_too_where_there_are_some(model: Path, shards: Path, tmp_path: Path) -> None:
    questions = [{"id": f"q{n}", "text": NAMES[n % 4], "language": "en", "relevant": {f"c{n}": 2}} for n in range(32)]
    metrics = evaluate(model, shards, tmp_path / "out", questions)
    plain = ["--data", str(shards), "--out", str(tmp_path / "plain"), "--workers", "0", "--device", "cpu"]
    assert main(["evaluate", str(model), *plain]) == 0
    without = json.loads((tmp_path / "plain" / "metrics.json").read_text())
    assert {name: metrics[name] for name in without if name != "protocol"} == {
        name: without[name] for name in without if name != "protocol"
    }
    # a question with the words of the captions is one of them
    for name in ("R@1", "R@5", "R@10", "MRR@10", "nDCG@10"):
        assert metrics["questions"]["en"][name] == pytest.approx(metrics["text_to_image"]["en"][name])
    only = evaluate(
        model, shards, tmp_path / "lv", [*questions, questions[0] | {"id": "x", "language": "lv"}], "--languages", "lv"
    )
    assert list(only["questions"]) == ["lv", "mean", "groups"]


def test_the_most_similar_choice_is_taken(model: Path, pages: Path, tmp_path: Path) -> None:
    encoder = mmtrain.load(model)
    choices = [*NAMES, "green"]
    questions, right = [], []
    for number in range(6):
        question: dict[str, Any] = {"id": f"q{number}", "text": "which colour?", "language": "en", "choices": choices}
        if number < 3:
            question["images"] = [str(pages / f"{number}.png")]
            row = encoder.encode_image([Image.open(question["images"][0])])[0]
            written = [f"which colour? {choice}" for choice in choices]
        else:
            question["text"] = f"colour {number}"
            row, written = encoder.encode_text([question["text"]], "en")[0], choices
        best = int(np.argmax(encoder.encode_text(written, "en")[:4] @ row))
        question["answer"] = best if number % 2 else (best + 1) % 5
        right.append(question["answer"] == best)
        questions.append(question)
    metrics = evaluate(model, pages / "shards", tmp_path / "out", questions)
    assert metrics["questions"]["en"]["accuracy"] == pytest.approx(100 * np.mean(right))
    assert set(metrics["questions"]["en"]) == {"accuracy", "accuracy_ci95", "queries"}
    assert metrics["protocol"]["questions"]["excluded"] == 0
    questions[0]["relevant"] = {"p3": 1}
    both = evaluate(model, pages / "shards", tmp_path / "both", questions)["questions"]["en"]
    assert both["queries"] == 6 and "nDCG@10" in both and both["accuracy"] == metrics["questions"]["en"]["accuracy"]


def test_a_smaller_corpus_is_mined_and_measured(model: Path, pages: Path, tmp_path: Path) -> None:
    questions = [
        {"id": f"q{number}", "text": name, "language": "en", "relevant": {f"p{number}": 1}}
        for number, name in enumerate(NAMES)
    ]
    whole = evaluate(model, pages / "shards", tmp_path / "whole", questions)
    options = ["--pool", "10", "--questions", str(tmp_path / "whole.jsonl"), "--workers", "0", "--device", "cpu"]
    out = tmp_path / "pool"
    assert main(["mine", str(model), "--data", str(pages / "shards"), "--out", str(out), *options]) == 0
    named = [json.loads(line) for line in (out / "questions.jsonl").read_text().splitlines()]
    part = evaluate(model, out, tmp_path / "part", named)
    assert part["protocol"]["questions"]["items"] < 32
    assert part["protocol"]["questions"]["pools"] == [part["protocol"]["questions"]["items"]] * 2
    for name in ("R@5", "R@10", "nDCG@10"):  # the ten nearest of each are there
        assert part["questions"]["en"][name] == pytest.approx(whole["questions"]["en"][name])


def test_text_alone_answers_the_same_questions(model: Path, pages: Path, tmp_path: Path) -> None:
    """One's own words find a page; a page without text is there and is not found."""
    for name in ("bm25s", "icu4py"):
        pytest.importorskip(name)
    questions = [
        {"id": f"q{n}", "text": f"which PAGE is {n}?", "language": "en", "relevant": {f"p{n}": 1}}
        for n in (3, 5, 12, 20)
    ]
    picture = {"id": "picture", "images": [str(pages / "3.png")], "relevant": {"p3": 1}}
    options = ["--text_baselines", f"bm25,{model}"]
    metrics = evaluate(model, pages / "shards", tmp_path / "out", [*questions, picture], *options)
    bm25, ours = metrics["text_baselines"]["bm25"], metrics["text_baselines"][str(model)]
    assert bm25["questions"]["en"]["R@1"] == 75 and bm25["questions"]["en"]["R@10"] == 75
    assert bm25["questions"]["mean"]["queries"] == 4 and bm25["items_without_text"] == 1
    gain = bm25["gain"]["mean"]["R@1"]
    assert gain["difference"] == pytest.approx(metrics["questions"]["en"]["R@1"] - 75) and gain["queries"] == 4
    encoder = mmtrain.load(model)
    texts = [f"page {n} is {NAMES[n % 4]}" if n != 5 else "" for n in range(32)]
    scores = encoder.encode_text([each["text"] for each in questions], "en") @ encoder.encode_text(texts, "en").T
    scores[:, 5] = 0
    right = [int(scores[row].argmax() == place) for row, place in enumerate((3, 5, 12, 20))]
    assert ours["questions"]["en"]["R@1"] == pytest.approx(100 * np.mean(right))
    assert "Beside the text of the pages" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


FINE = {"id": "a", "text": "red", "language": "en", "relevant": {"p1": 1}}


@pytest.mark.parametrize(
    ("lines", "options", "says"),
    [
        ([FINE, "{"], [], "line 2: no JSON"),
        (["[1]"], [], "line 1: no JSON object"),
        ([FINE, FINE], [], "line 2: 'a' comes twice"),
        ([FINE | {"relevant": {"p1": -1}}], [], "relevant is no object of grades, finite and not below 0"),
        (['{"id": "a", "text": "b", "relevant": {"p1": NaN}}'], [], "relevant is no object of grades"),
        ([FINE | {"relevant": {"p1": True}}], [], "relevant is no object of grades"),
        ([FINE | {"relevant": {"p1": 10**400}}], [], "relevant is no object of grades"),
        ([FINE | {"relevant": ["p1"]}], [], "relevant is no object of grades"),
        ([FINE | {"pool": 3}], [], "pool is neither a name nor a list"),
        ([FINE | {"choices": ["x", "y"]}], [], "answer is None; expected the number of one of 2 choices, from 0"),
        ([FINE | {"choices": ["x", "y"], "answer": 2}], [], "answer is 2"),
        ([FINE | {"choices": "xy", "answer": 0}], [], "choices is no list"),
        ([{"id": "a", "language": "en"}], [], "neither text nor images"),
        ([FINE | {"id": 3}], [], "id, text, language and group are strings"),
        ([FINE | {"images": ["nowhere.png"]}], [], "nowhere.png cannot be read (No such file or directory)"),
        ([FINE | {"images": ["questions.jsonl"]}], [], "questions.jsonl cannot be read (no picture)"),
        ([FINE | {"relevant": {"x": 1}}], [], "none of 1 questions has an answer among its items; 1 ids are no item"),
        ([FINE | {"pool": "nowhere"}], [], "none of 1 questions has an answer"),
        ([FINE | {"pool": ["p2"]}], [], "none of 1 questions has an answer"),
        ([], [], "holds no question"),
        ([FINE], ["--languages", "lv"], "--languages: no question of"),
        ([FINE], ["--dims", "4"], "--dims: "),
        ([FINE], ["--text_baselines", "hf:/nowhere"], "--text_baselines: hf:/nowhere cannot be loaded"),
    ],
)
def test_bad_input_gets_one_line(
    lines: Sequence[dict | str], options: list[str], says: str, model: Path, pages: Path, tmp_path: Path, capfd
) -> None:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    (tmp_path / "questions.jsonl").write_text(text)
    arguments = ["--questions", str(tmp_path / "questions.jsonl"), "--out", str(tmp_path / "out"), "--workers", "0"]
    arguments += ["--data", str(pages / "shards"), "--device", "cpu"]
    assert main(["evaluate", str(model), *arguments, *options]) == 1
    errors = [line for line in capfd.readouterr().err.splitlines() if "error:" in line]
    assert len(errors) == 1 and says in errors[0]
    assert not (tmp_path / "out" / "metrics.json").exists()
