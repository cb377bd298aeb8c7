"""Heads that start from a logistic regression, and the baselines that evaluation puts beside them."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression

import mmtrain
from mmtrain.cli import main
from mmtrain.fusion import RelationHead
from mmtrain.models.run_folder import read_checkpoint
from tests.mmtrain.posts import finetune, finetuning
from tests.mmtrain.small import ENVIRONMENT

START = ["--model.start=regression", "--data.train_languages=[en]", "--data.val_languages=[en]", "--model.itm=0"]
STILL = ["--trainer.max_steps=1", "--model.learning_rate=1e-12"]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(run / "checkpoints" / "last.ckpt")["state_dict"]


def test_the_layers_start_as_scikit_learns_regression(posts: Path, tmp_path: Path) -> None:
    assert finetune(posts, tmp_path, *START, *STILL) == 0
    encoder = mmtrain.load(tmp_path)
    head = encoder.head
    assert isinstance(head, RelationHead) and head.rows == 16
    rows = [json.loads(line) for line in (posts.parent / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    v = encoder.encode_image([Image.open(posts.parent / row["image"]) for row in rows])
    t = encoder.encode_text([row["captions"]["en"] for row in rows], "en")
    seen = np.concatenate([4 * v, 4 * t, 4 * np.abs(v - t), 16 * v * t], 1).astype(np.float64)
    named = [place for place, row in enumerate(rows) if "mood" in row["labels"]]
    theirs = LogisticRegression(C=1 / 16, class_weight="balanced", tol=1e-8, max_iter=1000)
    theirs.fit(seen[named], [rows[place]["labels"]["mood"] for place in named])
    weight = head.out[list(head.names).index("mood")].get_parameter("weight").numpy()
    np.testing.assert_allclose(weight[:, : head.fusion.width], 0, atol=1e-9)
    np.testing.assert_allclose(weight[:, head.fusion.width :], theirs.coef_, atol=1e-3)


def test_a_resumed_run_does_not_start_again(posts: Path, tmp_path: Path) -> None:
    for name, *steps in (("whole", "2"), ("parts", "1", "2")):
        for step in steps:
            options = [*START, f"--trainer.max_steps={step}", "--checkpoint.every_n_steps=1", "--ckpt_path=last"]
            assert finetune(posts, tmp_path / name, *options, "--model.schedule=constant") == 0
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, msg=name)


@pytest.mark.system
def test_two_processes_start_where_one_does(posts: Path, tmp_path: Path) -> None:
    assert finetune(posts, tmp_path / "one", *START, *STILL) == 0
    two = ["--data.batch_size=4", "--trainer.devices=2", "--trainer.strategy=ddp"]
    command = [sys.executable, "-m", "mmtrain.cli", *finetuning(posts, tmp_path / "two", *START, *STILL, *two)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr[-2000:]
    one, both = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name in one:
        torch.testing.assert_close(both[name], one[name], atol=1e-4, rtol=1e-4, msg=name)


def test_what_cannot_start_is_said(posts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert finetune(posts, tmp_path, *STILL, "--model.start=regression", "--model.rows=false") == 1
    assert "expected random, or regression with model.rows true" in capsys.readouterr().err


def test_baselines_stand_beside_the_head(
    trained: Path, posts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the posts that the run's config names, in the language it was trained in."""
    options = ["--data", str(posts), "--out", str(tmp_path), "--workers", "0", "--languages", "en,lv"]
    assert main(["evaluate", str(trained), *options, "--baselines"]) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["protocol"]["baselines"] | {"skipped": 0} == {
        "train": str(posts),
        "languages": ["en"],
        "skipped": 0,
    }
    match, mood = (metrics["baselines"][task] for task in ("match", "mood"))
    assert set(match) == set(mood) == {"chance", "majority class", "linear probe", "fine-tuned"}
    assert mood["fine-tuned"] == metrics["relation_tasks"]["mood"]
    assert mood["linear probe"]["en"]["macro_f1"] > 90 > 50 > mood["chance"]["en"]["macro_f1"]
    assert mood["majority class"]["mean"]["macro_f1"] < 30 and set(mood["linear probe"]) == {"en", "lv", "mean"}
    said = capsys.readouterr().out
    assert "mood, macro F1 in percent (95 %)" in said and "majority class" in said
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "linear probe" in page and page.count(">Image-text relations: mood</h2>") == 1


def test_baselines_need_posts_to_learn_from(
    trained: Path, posts: Path, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(trained), "--out", str(tmp_path / "space")]) == 0
    options = ["--data", str(posts), "--out", str(tmp_path / "out"), "--workers", "0"]
    for model, more, line in (
        (tmp_path / "space", ["--baselines"], "space does not name the shards it was trained on; --train SHARDS"),
        (trained, ["--baselines", "--train", str(shards)], "has no labels to learn from"),
        (trained, ["--train", str(posts)], "it needs --baselines"),
        (trained, ["--baselines", "--sts"], "--baselines: says nothing about --sts"),
    ):
        assert main(["evaluate", str(model), *options, *more]) == 1
        assert line in capsys.readouterr().err
    # a space without a head: what a linear probe reads in it
    assert main(["evaluate", str(tmp_path / "space"), *options, "--baselines", "--train", str(posts)]) == 0
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))
    assert set(metrics["baselines"]["mood"]) == {"chance", "majority class", "linear probe"}
