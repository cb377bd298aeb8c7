"""Runs, exports and configs written at 88189aa load, go on, and are measured and exported as they were then.

tests/old_runs holds small ones; beside the repository there may be larger ones of the same kinds, which are tried too.
"""

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mmtrain
from mmtrain.cli import main
from tests.frozen.material import write_features, write_material
from tests.frozen.training import VALUES, machine

OLD = Path(__file__).parent / "old_runs"
SHARED = Path(__file__).parents[2] / "shared" / "data" / "old_runs"
RUNS = {"contrastive": "numbers", "relation": "posts", "adapted": "numbers", "words": "features"}


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("material")
    write_material(folder)
    return folder


@pytest.fixture
def place(material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the test's own with the old runs and their material, in which it stands."""
    shutil.copytree(OLD, tmp_path, dirs_exist_ok=True)
    for part in material.iterdir():
        (tmp_path / part.name).symlink_to(part)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    return tmp_path


@pytest.mark.parametrize("name", [*RUNS, "export"])
def test_the_rows_are_those_of_then(place: Path, name: str) -> None:
    rows = np.load(OLD / "rows.npz")
    texts = json.loads((OLD / "texts.json").read_text(encoding="utf-8"))
    model = mmtrain.load(place / name)
    pictures = rows["features"] if name == "words" else rows["pixels"]
    np.testing.assert_allclose(model.encode_image(pictures), rows[f"{name}_image"], atol=1e-6)
    captions, language = (["one five", "two"], "en") if name == "words" else (texts, None)
    np.testing.assert_allclose(model.encode_text(captions, language), rows[f"{name}_text"], atol=1e-6)
    if name == "relation":
        told = mmtrain.load_relation(place / name).predict(list(map(_picture, rows["pixels"])), texts)
        for task, probabilities in told.items():
            np.testing.assert_allclose(probabilities, rows[f"relation_{task}"], atol=1e-6)


def _picture(pixels: np.ndarray) -> Any:
    from PIL import Image

    return Image.fromarray(pixels)


@pytest.mark.parametrize("name", RUNS)
def test_a_run_goes_on(place: Path, name: str) -> None:
    options = ["--ckpt_path", "last", "--trainer.max_steps=9", "--trainer.log_every_n_steps=1"]
    assert main(["fit", "--config", f"{name}/config.yaml", *options]) == 0
    with open(place / name / "metrics.csv", newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["train/loss"]]
    losses = [float(row["train/loss"]) for row in rows if int(row["step"]) > 5]
    # any processor's rounding; another learning rate, or another sample, changes the second digit
    assert losses == pytest.approx(json.loads((OLD / "resumed.json").read_text(encoding="utf-8"))[name], rel=1e-4)


MEASURED = {
    "contrastive": ("contrastive", ["--data", "numbers", "--text_to_text", "en->lv"]),
    "relation": (
        "relation",
        ["--data", "posts", "--zero_shot", "represented", "--prompts", "prompts.json", "--rerank", "5"],
    ),
    "adapted": ("adapted", ["--data", "numbers", "--rerank", "4", "--languages", "[en,ja]"]),
    "words": ("words", ["--data", "features"]),
    "pools": ("export", ["--data", "numbers", "--protocol", "mscoco/1k"]),
}


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As it was measured then: these models hardly tell two pictures apart, and threads change the last bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", MEASURED)
def test_evaluate_says_what_it_said(place: Path, name: str, one_thread: None) -> None:
    prompts = {"0": "a page without {text}", "1": "a page with {text}"}
    (place / "prompts.json").write_text(json.dumps(prompts), encoding="utf-8")
    model, options = MEASURED[name]
    assert main(["evaluate", model, *options, "--workers", "0", "--out", "report"]) == 0
    now = json.loads((place / "report" / "metrics.json").read_text(encoding="utf-8"))
    then = json.loads((OLD / "metrics" / f"{name}.json").read_text(encoding="utf-8"))
    assert now["protocol"].pop("model") == model
    assert now["protocol"].pop("data") == options[1]
    _close(now, then, name)


SAME_MACHINE = json.loads(VALUES["GenuineIntel"].read_text(encoding="utf-8"))["machine"] == machine()
HERE, ELSEWHERE = {"rel": 1e-5, "abs": 1e-5}, {"rel": 0.1, "abs": 2.0}


def _close(now: Any, then: Any, where: str) -> None:
    """The same keys, words and counts everywhere, and the same figures; on another processor to a few queries."""
    if isinstance(then, dict):
        assert isinstance(now, dict) and then.keys() <= now.keys(), where
        for key in then:
            _close(now[key], then[key], f"{where}/{key}")
    elif isinstance(then, list):
        assert len(now) == len(then), where
        for place, (one, other) in enumerate(zip(now, then, strict=True)):
            _close(one, other, f"{where}/{place}")
    elif isinstance(then, float):
        assert now == pytest.approx(then, **(HERE if SAME_MACHINE else ELSEWHERE)), where
    else:
        assert now == then, where


@pytest.mark.parametrize("name", ["contrastive", "relation", "words"])
def test_an_export_of_an_old_run_is_that_run(place: Path, name: str) -> None:
    assert main(["export", name, "--out", "exported"]) == 0
    rows = np.load(OLD / "rows.npz")
    pictures = rows["features"] if name == "words" else rows["pixels"]
    np.testing.assert_allclose(mmtrain.load("exported").encode_image(pictures), rows[f"{name}_image"], atol=1e-6)


# ---- the larger ones beside the repository

shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the larger old runs are not beside this checkout")


@pytest.fixture
def shared_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for source in SHARED.rglob("*"):
        if source.is_file():
            target = tmp_path / source.relative_to(SHARED)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())  # they are read-only there
    shutil.copy(tmp_path / "words" / "words.json", tmp_path / "words.json")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    return tmp_path


@shared
@pytest.mark.parametrize("name", ["contrastive", "export", "words"])
def test_shared_rows_are_those_of_then(shared_runs: Path, name: str) -> None:
    rows = np.load(SHARED / "rows.npz")
    model = mmtrain.load(name)
    pictures = rows["features"] if name == "words" else rows["pixels"]
    np.testing.assert_allclose(model.encode_image(pictures), rows[f"{name}_image"], atol=1e-6)
    if name != "words":
        texts = json.loads((SHARED / "texts.json").read_text(encoding="utf-8"))
        np.testing.assert_allclose(model.encode_text(texts), rows[f"{name}_text"], atol=1e-6)


@pytest.mark.system
@shared
@pytest.mark.parametrize("name", ["contrastive", "relation", "words"])
def test_shared_runs_go_on_and_are_measured_and_exported(shared_runs: Path, name: str) -> None:
    shards = {"contrastive": "sh", "relation": "posts", "words": "feat"}[name]
    if name == "relation":
        assert main(["pack", "numbers", "--posts", "--split", "val", "--languages", "[en,lv]", "--out", "posts"]) == 0
    elif name == "words":
        write_features(Path("feat"), 64)
    else:
        emoji = SHARED.parent / "emoji"
        lines = (emoji / "noto.jsonl").read_text(encoding="utf-8").splitlines()[:64]
        Path("rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
        assert main(["pack", "jsonl", "rows.jsonl", "--images", str(emoji), "--out", "sh"]) == 0
    options = ["--ckpt_path", "last", "--trainer.max_steps=7", f"--data.train={shards}", f"--data.val={shards}"]
    assert main(["fit", "--config", f"{name}/config.yaml", *options]) == 0
    assert main(["evaluate", name, "--data", shards, "--workers", "0", "--out", "report"]) == 0
    assert main(["export", name, "--out", "exported"]) == 0
