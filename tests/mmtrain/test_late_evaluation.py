"""`mmtrain evaluate` by late interaction, against loops over the token rows that the loaded model gives."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import mmtrain
from losses import Embeddings, MultiEmbeddings
from mmtrain.cli import main
from mmtrain.evaluation.measuring.late import ManyRows
from tests.mmtrain.batches import made_batch
from tests.mmtrain.conftest import WORDS
from tests.mmtrain.runs import log
from tests.mmtrain.small import fit

MULTI = ["--model.multi={dimension: 8}", "--trainer.max_steps=2"]


@pytest.fixture(scope="module")
def run(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of one space in two forms, on captions of languages that samples lack."""
    folder = tmp_path_factory.mktemp("many") / "run"
    both = "init_args: {queries: texts, targets: image}"
    dense = (
        "{class_path: losses.MatryoshkaLoss, init_args: {objective: {class_path: losses.OneToKLoss}, dims: [4, 16]}}"
    )
    objectives = {
        "dense": dense,
        "late": f"{{class_path: losses.LateInteractionLoss, {both}}}",
        "both": f"{{class_path: losses.ScoreDistillationLoss, {both}}}",
    }
    given = "{" + ", ".join(f"{name}: {each}" for name, each in objectives.items()) + "}"
    weights = "--model.weights={dense: 1.0, late: 0.5, both: 0.1}"
    assert fit(shards, folder, *MULTI, f"--model.objectives={given}", weights) == 0
    assert all(float(row[name]) > 0 for row in log(folder)[:1] for name in ("train/dense", "train/late", "train/both"))
    return folder


def evaluated(run: Path, shards: Path, out: Path, *options: str) -> dict:
    command = ["evaluate", str(run), "--data", str(shards), "--workers", "0", "--out", str(out), *options]
    assert main(command) == 0
    return json.loads((out / "metrics.json").read_text())


def loop(run: Path, shards: Path, language: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores of single rows and of token rows [32, M], and whose caption each is."""
    model, pictures = mmtrain.load(run), sorted(shards.parent.glob("*.png"), key=lambda path: int(path.stem))
    images = [Image.open(path) for path in pictures]
    own = np.array([number for number in range(32) if language != "ar" or number % 2])
    texts = [WORDS[language][number % 4] for number in own]
    items, queries = model.encode_image(images, multi=True), model.encode_text(texts, language, multi=True)
    late = [
        [np.mean([max(np.double(q) @ np.double(p) for p in item) for q in query]) for query in queries]
        for item in items
    ]
    return model.encode_image(images) @ model.encode_text(texts, language).T, np.array(late), own


def recall(scores: np.ndarray, right: np.ndarray, k: int) -> float:
    """In percent, of queries [Q, P]; ties count against the model."""
    steps = np.rint(scores / 1e-6)
    best = np.where(right, steps, -np.inf).max(1, keepdims=True)
    return 100 * float(np.mean(((steps >= best) & ~right).sum(1) < k))


def test_figures_are_those_of_the_loop(run: Path, shards: Path, tmp_path: Path) -> None:
    metrics = evaluated(run, shards, tmp_path / "many", "--similarity", "late", "--text_to_text", "lv->en")
    assert metrics["protocol"]["similarity"] == "late" and metrics["text_to_text"]["lv->en"]["queries"] == 32
    for language in WORDS:
        _, late, own = loop(run, shards, language)
        right = np.arange(32)[:, None] == own
        for k in (1, 5, 10):
            assert metrics["text_to_image"][language][f"R@{k}"] == pytest.approx(recall(late.T, right.T, k))
            expected = recall(late[own], right[own], k)
            assert metrics["image_to_text"][language][f"R@{k}"] == pytest.approx(expected)
        assert len(metrics["text_to_image"][language]["R@1_ci95"]) == 2
    assert "late similarity" in (tmp_path / "many" / "report.html").read_text()
    again = evaluated(run, shards, tmp_path / "again", "--similarity", "late", "--batch_size", "3")
    for direction in ("text_to_image", "image_to_text"):  # neither batch-mates nor padding
        assert again[direction] == metrics[direction]


def test_reranking_loses_what_the_candidates_lack(
    run: Path, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = evaluated(run, shards, tmp_path / "few", "--rerank", "3", "--rerank_by", "late")["rerank"]
    assert few["by"] == "late" and few["k"] == 3
    assert "sorted again by late interaction" in capsys.readouterr().out
    assert "By late interaction" in (tmp_path / "few" / "report.html").read_text()
    for language in WORDS:
        dense, late, own = loop(run, shards, language)
        right = np.arange(32)[:, None] == own
        table = few["text_to_image"][language]
        candidates = np.argsort(-dense.T, axis=1, kind="stable")[:, :3]
        judged = np.take_along_axis(late.T, candidates, 1)
        found = np.take_along_axis(right.T, candidates, 1)
        reached = found.any(1) & (np.where(found, judged, -9).max(1) > np.where(found, -9, judged).max(1) + 1e-6)
        assert table["R@1"] == pytest.approx(100 * reached.mean())
        for k in (1, 5, 10):
            assert table[f"R@{k}_exact"] == pytest.approx(recall(late.T, right.T, k))
            assert table[f"R@{k}_lost"] == pytest.approx(table[f"R@{k}_exact"] - table[f"R@{k}"])
    every = evaluated(run, shards, tmp_path / "every", "--rerank", "32", "--rerank_by", "late")["rerank"]
    for direction in ("text_to_image", "image_to_text"):
        assert all(value == 0 for name, value in every[direction]["mean"].items() if name.endswith("_lost"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--similarity", "late"], "multi: the model gives no token rows; train one"),
        (["--rerank", "3", "--rerank_by", "late"], "multi: the model gives no token rows; train one"),
        (["--rerank_by", "late"], "--rerank_by: late says nothing by itself; it needs --rerank K"),
        (["--similarity", "late", "--rerank", "3"], "--rerank: is about single rows; without --similarity late"),
        (["--similarity", "late", "--dims", "4"], "--dims: is about single rows"),
    ],
)
def test_what_cannot_be_is_one_line(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert fit(shards, tmp_path / "run", "--trainer.max_steps=1") == 0
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "run"), "--data", str(shards), "--workers", "0", *options]) == 1
    said = capsys.readouterr()
    assert message in said.err and "Traceback" not in said.err


def test_questions_look_for_items_by_their_token_rows(run: Path, shards: Path, tmp_path: Path) -> None:
    _, late, own = loop(run, shards, "lv")
    ids = [f"c{number}" for number in range(32)]
    questions = tmp_path / "questions.jsonl"
    rows = [
        {"id": f"q{i}", "text": WORDS["lv"][i % 4], "language": "lv", "relevant": {ids[i]: 1}, "pool": ids[: 20 + i]}
        for i in range(8)
    ]
    questions.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    asked = evaluated(run, shards, tmp_path / "many", "--similarity", "late", "--questions", str(questions))
    right = np.arange(32)[None] == own[:8, None]
    within = [recall(late.T[[i], : 20 + i], right[[i], : 20 + i], 1) for i in range(8)]
    assert asked["questions"]["lv"]["R@1"] == pytest.approx(np.mean(within))
    assert asked["protocol"]["questions"]["similarity"] == "late"


def scored(asks: np.ndarray, found: np.ndarray) -> float:
    return float(np.mean([max(np.double(q) @ np.double(p) for p in found) for q in asks]))


def test_pictures_ask_and_choices_are_compared_by_token_rows(run: Path, shards: Path, tmp_path: Path) -> None:
    model, files = mmtrain.load(run), [shards.parent / f"{number}.png" for number in range(32)]
    items = model.encode_image([Image.open(file) for file in files], multi=True)
    text = model.encode_text(["blue"], "en", multi=True)[0]
    asks = [items[3], np.concatenate([text, items[3], items[5]])]  # a query has all the rows of its inputs
    choices = ["red", "blue and red", "grey"]
    offered = model.encode_text([f"which? {choice}" for choice in choices], "en", multi=True)
    passages = model.encode_text(choices, "en", multi=True)
    answers = [[scored(each, items[3]) for each in offered], [scored(text, each) for each in passages]]
    rows = [{"images": [str(files[3])]}, {"text": "blue", "images": [str(files[3]), str(files[5])]}]
    places = []
    for row, query in zip(rows, asks, strict=True):
        order = np.argsort([-scored(query, item) for item in items], kind="stable")
        places.append(1 + len(places))
        row["relevant"] = {f"c{order[places[-1] - 1]}": 1}
    for answer, row in zip(answers, ({"text": "which?", "images": [str(files[3])]}, {"text": "blue"}), strict=True):
        rows.append({**row, "choices": choices, "answer": int(np.argmax(answer))})
    rows.append(rows[-1] | {"answer": (rows[-1]["answer"] + 1) % 3})
    lines = [json.dumps({"id": str(place), "language": "en"} | row) for place, row in enumerate(rows)]
    (tmp_path / "questions.jsonl").write_text("\n".join(lines))
    options = ["--similarity", "late", "--questions", str(tmp_path / "questions.jsonl")]
    figures = evaluated(run, shards, tmp_path / "out", *options)["questions"]["en"]
    assert figures["MRR@10"] == pytest.approx(100 * np.mean([1 / place for place in places]))
    assert figures["accuracy"] == pytest.approx(200 / 3) and figures["queries"] == 5


def test_token_rows_of_pictures_are_held_once() -> None:
    many, batch = ManyRows(), made_batch(torch.zeros(3, 3, 8, 8), K=0)
    rows = torch.arange(24.0).view(3, 1, 4, 2)
    many.add(batch, Embeddings(torch.zeros(3, 2), None, multi={"image": MultiEmbeddings(rows, None)}))
    assert many.images([0, 1, 2]) is many.images(np.arange(3))
    assert torch.equal(many.images([2, 0]).values, torch.cat([rows[2, 0], rows[0, 0]]))
