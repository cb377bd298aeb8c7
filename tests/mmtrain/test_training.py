"""Training as users switch it on: precision, compilation, memory savers, two processes, wandb."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import mmtrain
from mmtrain.cli import main
from mmtrain.models.run_folder import read_checkpoint
from tests.mmtrain.runs import column, log, weights
from tests.mmtrain.small import ENVIRONMENT, arguments, fit


def test_training_learns_the_colours(shards: Path, tmp_path: Path) -> None:
    assert fit(shards, tmp_path, "--trainer.max_steps=60", "--model.learning_rate=0.003", "--model.warmup_steps=5") == 0
    losses = column(tmp_path, "train/loss")
    assert losses[-1] < losses[0] - 0.5
    # four colours over 32 pictures: with the colour known, one of eight is right by chance
    assert column(tmp_path, "val/text_to_image/R@10/mean")[-1] > 60


@pytest.mark.parametrize(
    "options",
    [
        ["--trainer.precision=bf16-mixed"],
        ["--model.checkpoint_activations=true"],
        ["--model.micro_batch=3"],
        pytest.param(
            ["--model.compile=true"],
            marks=pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler"),
        ),
    ],
    ids=lambda options: options[0].split("=")[0],
)
def test_each_switch_trains_the_same_model(options: list[str], shards: Path, tmp_path: Path) -> None:
    assert fit(shards, tmp_path / "plain", "--trainer.max_steps=2") == 0
    assert fit(shards, tmp_path / "switched", "--trainer.max_steps=2", *options) == 0
    plain, switched = weights(tmp_path / "plain"), weights(tmp_path / "switched")
    assert plain.keys() == switched.keys()  # no prefix of a compiler or wrapper in the names
    tolerance = 2e-3 if "precision" in options[0] else 2e-5  # AdamW turns rounding of small gradients into steps
    for name, tensor in plain.items():
        torch.testing.assert_close(switched[name], tensor, atol=tolerance, rtol=1e-2, msg=name)


def test_weights_of_objectives_add_up(shards: Path, tmp_path: Path) -> None:
    objectives = "{a: {class_path: losses.OneToKLoss}, b: {class_path: losses.SiglipLoss}}"
    options = [f"--model.objectives={objectives}", "--model.weights={a: 0.5, b: 0.25}", "--trainer.max_steps=2"]
    assert fit(shards, tmp_path, *options) == 0
    loss, a, b = (column(tmp_path, f"train/{name}")[0] for name in ("loss", "a", "b"))
    assert loss == pytest.approx(0.5 * a + 0.25 * b, rel=1e-5)


@pytest.mark.parametrize("views", [1, 2])
def test_a_run_resumed_in_the_middle_of_an_epoch_ends_with_the_same_weights(
    views: int, shards: Path, tmp_path: Path
) -> None:
    options = ["--data.captions_per_image=2", "--data.batch_size=5", "--trainer.max_steps=9"]
    options += [f"--data.views_per_image={views}"]
    assert fit(shards, tmp_path / "whole", *options) == 0
    # a callback ends the second run after 5 of 9 steps, in the middle of an epoch of 6, with its schedule unchanged
    stop = ["--trainer.callbacks", "[{class_path: tests.mmtrain.stopping.StopAfter, init_args: {steps: 5}}]"]
    assert fit(shards, tmp_path / "halves", *options, *stop) == 0
    last = torch.load(tmp_path / "halves" / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == 5 and last["samples_seen"] == 25
    assert fit(shards, tmp_path / "halves", *options, "--ckpt_path=last") == 0
    whole, halves = weights(tmp_path / "whole"), weights(tmp_path / "halves")
    for name, tensor in whole.items():
        assert torch.equal(tensor, halves[name]), name
    whole_log, halves_log = ({row["step"]: row for row in log(tmp_path / name)} for name in ("whole", "halves"))
    assert all(halves_log[step]["train/loss"] == row["train/loss"] for step, row in whole_log.items())
    steps = [int(row["step"]) for row in log(tmp_path / "halves")]
    assert steps == sorted(steps)


@pytest.mark.system
@pytest.mark.parametrize("views", [1, 3])
def test_two_processes_train_what_one_does(views: int, shards: Path, tmp_path: Path) -> None:
    """The same global batch on one process and on two (gloo): the same losses, and the same weights to rounding."""
    steps = ["--trainer.max_steps=6", "--model.learning_rate=0.0001", "--data.captions_per_image=2"]
    steps += [f"--data.views_per_image={views}"]
    assert fit(shards, tmp_path / "one", *steps, "--data.batch_size=8") == 0
    two = ["--data.batch_size=4", "--trainer.devices=2", "--trainer.strategy=ddp"]
    command = [sys.executable, "-m", "mmtrain.cli", *arguments(shards, tmp_path / "two", *steps, *two)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for name in ("train/loss", "val/mean_recall", "samples_seen"):
        assert column(tmp_path / "two", name) == pytest.approx(column(tmp_path / "one", name), rel=1e-4), name
    one, both = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name, tensor in one.items():
        torch.testing.assert_close(both[name], tensor, atol=1e-4, rtol=1e-3, msg=name)


def test_the_logger_that_everybody_types_is_ours(shards: Path, tmp_path: Path) -> None:
    options = ("tags=[a]", "group=g", "entity=me", "save_dir=elsewhere", "mode=disabled")
    given = ["--trainer.logger=WandbLogger", *(f"--trainer.logger.{option}" for option in options)]
    assert fit(shards, tmp_path, "--trainer.max_steps=1", *given) == 0
    logger = yaml.safe_load((tmp_path / "config.yaml").read_text(encoding="utf-8"))["trainer"]["logger"]
    assert logger["class_path"] == "mmtrain.loggers.Wandb"
    assert logger["init_args"] == {"tags": ["a"], "group": "g", "entity": "me", "mode": "disabled"}
    checkpoint = read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    assert checkpoint["mmtrain"]["wandb"] == json.loads((tmp_path / "wandb" / "run.json").read_text())["id"]


@pytest.mark.system
def test_a_sweeps_run_keeps_its_id(tmp_path: Path) -> None:
    """Its agent chooses the run, whatever the logger asks for."""
    code = (
        "import sys; from pathlib import Path; from mmtrain.loggers import Wandb; logger = Wandb(tags=['a']);"
        "logger.attach(Path(sys.argv[1])); run = logger.experiment; print(run.id, logger.identity)"
    )
    sweep = {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_SWEEP_ID": "swp1", "WANDB_RUN_ID": "sweeprun1"}
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=ENVIRONMENT | sweep)
    assert done.stdout.split()[-2:] == ["sweeprun1", "sweeprun1"], done.stderr[-2000:]
    assert json.loads((tmp_path / "wandb" / "run.json").read_text())["id"] == "sweeprun1"


@pytest.mark.system
def test_wandb_offline_holds_losses_recalls_and_one_id(shards: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mmtrain.cli"]
    environment = os.environ | {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "OMP_NUM_THREADS": "1"}
    options = ["--trainer.max_steps=4", "--trainer.logger=mmtrain.loggers.Wandb", "--checkpoint.every_n_steps=2"]
    for more in ([], ["--ckpt_path=last", "--trainer.max_steps=6", "--trainer.logger=WandbLogger"]):
        run = arguments(shards, tmp_path, *options, *more)
        done = subprocess.run([*command, *run], capture_output=True, text=True, timeout=300, env=environment)
        assert done.returncode == 0, done.stderr[-2000:]
    runs = sorted((tmp_path / "wandb").glob("offline-run-*"))
    identity = json.loads((tmp_path / "wandb" / "run.json").read_text())["id"]
    assert len(runs) == 2 and all(run.name.endswith(identity) for run in runs)
    evaluate = ["evaluate", str(tmp_path), "--data", str(shards), "--out", str(tmp_path / "report"), "--workers", "0"]
    # without a key of wandb's, and nothing that says so
    del environment["WANDB_MODE"]
    environment |= {"WANDB_API_KEY": "", "HOME": str(tmp_path), "NETRC": str(tmp_path / "none")}
    done = subprocess.run([*command, *evaluate], capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    runs = sorted((tmp_path / "wandb").glob("offline-run-*"))
    assert len(runs) == 3 and runs[-1].name.endswith(identity)
    # wandb's own file keeps names and numbers as they are
    trained, measured = (next(run.glob("*.wandb")).read_bytes() for run in (runs[0], runs[-1]))
    for name in ("train/loss", "val/mean_recall", "val/text_to_image/R@1/lv", "samples_seen"):
        assert name.encode() in trained, name
    assert b"test/text_to_image/R@1/lv" in measured
    assert list(runs[-1].rglob("media/images/report/*.png"))


@pytest.mark.system
def test_the_model_and_its_card_become_an_artifact(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "staged"))
    options = ["--trainer.logger=mmtrain.loggers.Wandb", "--trainer.logger.log_model=true", "--trainer.max_steps=4"]
    assert fit(shards, tmp_path / "run", *options) == 0
    staged = [path.read_bytes() for path in (tmp_path / "staged").rglob("*") if path.is_file()]
    assert any(content.startswith(b"---\nlibrary_name: mmtrain") for content in staged)
    assert (tmp_path / "run" / "config.yaml").read_bytes() in staged
    assert (tmp_path / "run" / "checkpoints" / "best.ckpt").read_bytes() in staged


@pytest.mark.system
def test_a_wandb_that_cannot_be_reached_leaves_an_offline_run(shards: Path, tmp_path: Path) -> None:
    nobody = {
        "WANDB_BASE_URL": "http://127.0.0.1:9",
        "WANDB_API_KEY": "0" * 40,
        "WANDB_MODE": "online",
        "WANDB_INIT_TIMEOUT": "10",
    }
    run = arguments(shards, tmp_path, "--trainer.max_steps=2", "--trainer.logger=mmtrain.loggers.Wandb")
    command = [sys.executable, "-m", "mmtrain.cli", *run]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=ENVIRONMENT | nobody)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "wandb cannot be used" in done.stderr and "offline" in done.stderr
    assert list((tmp_path / "wandb").glob("offline-run-*"))


def test_every_picture_is_in_the_pool_whatever_languages_are_measured(shards: Path, tmp_path: Path) -> None:
    assert fit(shards, tmp_path / "run", "--trainer.max_steps=1") == 0
    assert len(log(tmp_path / "run")) == 1  # fewer steps than log_every_n_steps, and a row all the same
    data = ["--data", str(shards), "--workers", "0", "--out"]
    assert main(["evaluate", str(tmp_path / "run"), *data, str(tmp_path / "ar"), "--languages", "[ar]"]) == 0
    metrics = json.loads((tmp_path / "ar" / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["protocol"]["images"] == 32 and metrics["protocol"]["texts"] == 16
    assert metrics["text_to_image"]["ar"]["queries"] == metrics["image_to_text"]["ar"]["queries"] == 16
    model = mmtrain.load(tmp_path / "run")
    for wrong, said in ((np.zeros((2, 8), np.float32), "uint8"), (Image.new("RGB", (8, 8)), "a list")):
        with pytest.raises(ValueError, match=said):
            model.encode_image(wrong)
    pictures = np.zeros((2, 40, 48, 3), np.uint8)
    assert (model.encode_image(list(pictures)) == model.encode_image(pictures)).all()


def test_a_report_does_not_replace_a_file(shards: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "taken").write_text("mine")
    arguments = ["--data", str(shards), "--out", str(tmp_path / "taken")]
    assert main(["evaluate", str(tmp_path / "none"), *arguments]) == 1
    assert "taken is a file; a folder" in capfd.readouterr().err
