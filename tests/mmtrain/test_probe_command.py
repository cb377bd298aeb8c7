"""`mmtrain evaluate --probe`: on pictures and on patches, learnt from the run's shards or from others."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from datamodules import ImagePipeline
from datamodules.numbers import pack_scenes
from mmtrain.cli import main
from tests.mmtrain.small import fit

VIT = {"patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2}
PAGES = ["--data.images.size=48", "--model.image.image_size=48", "--data.languages=[en,lv]", "--trainer.max_steps=2"]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    for split, count in (("train", 40), ("test", 24)):
        pack_scenes(folder / split, split, ["en", "lv"], scenes=count)
    return folder


@pytest.fixture(scope="module")
def run(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    options = [*PAGES, f"--model.image.options={json.dumps(VIT)}"]
    assert fit(scenes / "train", folder, *options) == 0
    return folder


def evaluated(run: Path, scenes: Path, out: Path, *options: str) -> dict:
    command = ["evaluate", str(run), "--data", str(scenes / "test"), "--workers", "0", "--out", str(out), *options]
    assert main(command) == 0
    return json.loads((out / "metrics.json").read_text(encoding="utf-8"))


def test_patches_are_probed_where_the_labels_lie(
    run: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = evaluated(run, scenes, tmp_path, "--probe", "digit", "--patches")
    found = metrics["probe"]["digit"]
    assert found["of"] == "patches" and found["classes"] == 10 and found["n"] > 2 * 24 and found["train"] > 2 * 40
    assert found["accuracy"] > found["majority"]  # one random layer sees strokes
    low, high = found["accuracy_ci95"]
    assert low < found["accuracy"] < high
    assert metrics["protocol"]["probe"]["train"] == str(scenes / "train")
    assert re.search(rf"digit .*{found['accuracy']:.1f} .*{low:.1f} to {high:.1f}", capsys.readouterr().out)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "A linear probe of frozen rows" in page and "<td>patches</td>" in page


def test_pictures_are_probed_by_their_labels(run: Path, scenes: Path, tmp_path: Path) -> None:
    options = ("--probe", "numbers", "--train", str(scenes / "test"))
    found = evaluated(run, scenes, tmp_path, *options)["probe"]["numbers"]
    assert (found["of"], found["n"], found["train"]) == ("pictures", 24, 24)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--probe", "colour"], "test is labelled with 'colour'; there are numbers"),
        (["--probe", "colour", "--patches"], "train that can be read has the label 'colour' at a place"),
        (["--probe", "numbers", "--patches"], "has the label 'numbers' at a place of its picture (\"places\")"),
        (["--patches"], "--patches: says nothing by itself; it needs --probe TASK"),
        (["--train", "FOLDER"], "--train: FOLDER says nothing by itself; it needs --baselines or --probe TASK"),
        (["--beams", "3"], "--beams: 3 says nothing by itself; it needs --generate"),
        (["--task", "numbers"], "--task: numbers says nothing by itself; it needs --classes FILE"),
        (["--sts", "--templates", "FILE"], "--templates: FILE says nothing by itself; it needs --classes FILE"),
        (["--sts", "--recall_at", "3"], "--recall_at: says nothing about --sts"),
        (["--probe", "numbers", "--sts"], "--probe: says nothing about --sts"),
        (["--probe", "numbers", "--train", "missing"], "--train: missing does not exist; a folder of .tar"),
        (["--baselines", "--train", "missing"], "--train: missing does not exist; a folder of .tar"),
        (["--data", "missing"], "--data: missing does not exist; a folder of .tar"),
    ],
)
def test_what_cannot_be_probed_is_one_line(
    options: list[str], says: str, run: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(run), "--data", str(scenes / "test"), "--out", str(tmp_path), *options]) != 0
    assert says in capsys.readouterr().err.strip().splitlines()[-1]


def test_places_follow_the_view() -> None:
    wide = Image.new("RGB", (200, 100))
    assert ImagePipeline(resize="squash").in_view(wide, 0.1, 0.3) == (0.1, 0.3)
    assert ImagePipeline().in_view(wide, 0.5, 0.3) == (0.5, pytest.approx(0.3))
    assert ImagePipeline().in_view(wide, 0.25, 0.3)[0] == 0
    assert ImagePipeline().in_view(wide, 0.1, 0.3)[0] < 0
