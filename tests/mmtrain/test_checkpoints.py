"""Checkpoints of real runs: which are kept, what a broken one costs, and that going on is exact."""

import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from datamodules.files import writing_into
from mmtrain.models.run_folder import read_checkpoint
from mmtrain.training.checkpoints import callback
from tests.mmtrain.runs import column, log, step, weights, with_callback
from tests.mmtrain.small import ENVIRONMENT, arguments, fit
from tests.mmtrain.stopping import Clock

NINE = ["--data.captions_per_image=2", "--data.batch_size=5", "--trainer.max_steps=9", "--checkpoint.every_n_steps=2"]


@pytest.fixture(scope="module")
def whole(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of nine steps that nothing disturbs."""
    folder = tmp_path_factory.mktemp("whole")
    assert fit(shards, folder, *NINE) == 0
    return folder


@pytest.fixture
def file_size_limit() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def assert_same_run(whole: Path, other: Path) -> None:
    expected, found = weights(whole), weights(other)
    for name, tensor in expected.items():
        assert torch.equal(tensor, found[name]), name
    assert column(other, "train/loss") == column(whole, "train/loss")


def test_the_newest_and_those_before_it_are_kept(whole: Path, shards: Path, tmp_path: Path) -> None:
    files = whole / "checkpoints"
    assert step(files / "last.ckpt") == 9 and step(files / "previous-1.ckpt") == 8
    assert not (files / "previous-2.ckpt").exists()
    assert fit(shards, tmp_path, *NINE, "--checkpoint.keep_last=3") == 0
    assert [step(tmp_path / "checkpoints" / f"previous-{number}.ckpt") for number in (1, 2)] == [8, 6]
    assert not list((tmp_path / "checkpoints").glob("*.tmp"))


@pytest.mark.parametrize(
    ("mode", "values", "best"), [("max", [2, 1, 3], 3), ("min", [2, 1, 3], 2), ("max", [None, 2, 1], 2)]
)
def test_the_best_is_the_largest_or_the_smallest(
    mode: str, values: list[float | None], best: int, shards: Path, tmp_path: Path
) -> None:
    chosen = ["--checkpoint.monitor=val/told", f"--checkpoint.mode={mode}", "--trainer.val_check_interval=1"]
    told = with_callback("Measure", values=values)
    assert fit(shards, tmp_path, "--trainer.max_steps=3", *chosen, told) == 0
    assert step(tmp_path / "checkpoints" / "best.ckpt") == best


def test_minutes_are_minutes(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callback, "time", SimpleNamespace(monotonic=lambda: Clock.now))
    every = ["--checkpoint.every_n_steps=null", "--checkpoint.every_minutes=1", "--checkpoint.keep_last=9"]
    slow = with_callback("Clock", seconds=25.0)
    assert fit(shards, tmp_path, "--trainer.max_steps=8", "--trainer.val_check_interval=8", *every, slow) == 0
    written = sorted(step(path) for path in (tmp_path / "checkpoints").glob("[lp]*.ckpt"))
    assert written == [3, 6, 8]  # after 75 seconds each, and the last


def test_writing_beside_the_training_gives_the_same_files(whole: Path, shards: Path, tmp_path: Path) -> None:
    assert fit(shards, tmp_path, *NINE, "--checkpoint.asynchronous=true") == 0
    for name in ("last.ckpt", "previous-1.ckpt"):
        one, other = (read_checkpoint(run / "checkpoints" / name) for run in (whole, tmp_path))
        assert one["global_step"] == other["global_step"]
        assert all(torch.equal(tensor, other["state_dict"][key]) for key, tensor in one["state_dict"].items())


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR2"])
def test_a_signal_ends_the_run_behind_a_checkpoint(name: str, whole: Path, shards: Path, tmp_path: Path) -> None:
    before = signal.getsignal(signal.Signals[name])
    assert fit(shards, tmp_path, *NINE, with_callback("SignalAt", step=5, name=name)) == 75
    assert step(tmp_path / "checkpoints" / "last.ckpt") == 5
    assert signal.getsignal(signal.Signals[name]) == before
    assert fit(shards, tmp_path, *NINE, "--ckpt_path=last") == 0
    assert_same_run(whole, tmp_path)


def test_a_truncated_checkpoint_costs_one_interval(whole: Path, shards: Path, tmp_path: Path, capsys) -> None:
    assert fit(shards, tmp_path, *NINE, with_callback("StopAfter", steps=6)) == 0
    last = tmp_path / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:-1000])
    assert fit(shards, tmp_path, *NINE, "--ckpt_path=last") == 0
    assert capsys.readouterr().err.count("last.ckpt cannot be read") == 1
    assert_same_run(whole, tmp_path)
    steps = [int(row["step"]) for row in log(tmp_path)]
    assert steps == sorted(steps)


def test_nothing_readable_is_said(whole: Path, shards: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").write_bytes(b"half")
    assert fit(shards, tmp_path, *NINE, "--ckpt_path=last") == 1
    assert "none of 1 checkpoints can be read" in capsys.readouterr().err
    assert (tmp_path / "checkpoints" / "last.ckpt").read_bytes() == b"half"


def test_a_disk_full_for_a_while_keeps_the_old_checkpoint(
    whole: Path, shards: Path, tmp_path: Path, recwarn, file_size_limit: None
) -> None:
    assert fit(shards, tmp_path, *NINE, "--checkpoint.keep_last=9", with_callback("FullDisk", first=3, last=5)) == 0
    written = sorted(step(path) for path in (tmp_path / "checkpoints").glob("[lp]*.ckpt"))
    assert written == [2, 6, 8, 9]  # not 4
    messages = [str(warning.message) for warning in recwarn]
    assert any("last.ckpt could not be written" in message and "is kept" in message for message in messages)
    assert_same_run(whole, tmp_path)


def test_a_disk_full_at_the_end_is_a_failure(shards: Path, tmp_path: Path, capsys, file_size_limit: None) -> None:
    assert fit(shards, tmp_path, *NINE, with_callback("FullDisk", first=5, last=99)) == 1
    assert "could not be written" in capsys.readouterr().err
    files = tmp_path / "checkpoints"
    assert step(files / "last.ckpt") == 4
    assert not list(files.glob("*.tmp"))


def test_a_folder_that_cannot_be_made_is_said(shards: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "file").write_text("no folder")
    assert fit(shards, tmp_path / "file" / "run", *NINE) == 1
    assert capsys.readouterr().err.count("\n") == 1


OURS, LIGHTNINGS = "WeightAverage", "EMAWeightAveraging"
AVERAGED = "model.image_projection.weight"


@pytest.mark.parametrize(
    ("name", "length"),
    [(OURS, ["--trainer.max_steps=9"]), (LIGHTNINGS, ["--trainer.max_steps=-1", "--trainer.max_epochs=2"])],
)
def test_averaged_weights_are_saved_and_resumed(name: str, length: list[str], shards: Path, tmp_path: Path) -> None:
    average = [f"--trainer.callbacks+={name}", "--trainer.callbacks.decay=0.5"]
    every = [*NINE, "--checkpoint.every_n_steps=1", "--checkpoint.keep_last=20", *length]
    assert fit(shards, tmp_path / "whole", *every, *average) == 0
    assert fit(shards, tmp_path / "halves", *every, with_callback("StopAfter", steps=5), *average) == 0
    assert fit(shards, tmp_path / "halves", *every, *average, "--ckpt_path=last") == 0
    whole, halves = (read_checkpoint(tmp_path / name / "checkpoints" / "last.ckpt") for name in ("whole", "halves"))
    for part in ("state_dict", "current_model_state"):
        assert all(torch.equal(tensor, halves[part][key]) for key, tensor in whole[part].items())
    # the definition, step by step; the last checkpoint has both, whatever ended the run
    files = sorted((tmp_path / "whole" / "checkpoints").glob("[lp]*.ckpt"), key=step)
    steps = [read_checkpoint(path)["current_model_state"][AVERAGED] for path in files]
    expected = steps[0]
    for weight in steps[1:]:
        expected = expected.lerp(weight, 0.5)
    assert torch.equal(whole["state_dict"][AVERAGED], expected)
    assert torch.equal(whole["current_model_state"][AVERAGED], steps[-1]) and not torch.equal(expected, steps[-1])


@pytest.mark.parametrize(
    "callback",
    [
        "ModelCheckpoint|every_n_train_steps=2|save_last=true",
        "ModelCheckpoint|every_n_train_steps=2|save_last=true|dirpath={run}/checkpoints",
        "ModelCheckpoint|monitor=val/mean_recall|dirpath={run}/own",
        "OnExceptionCheckpoint|dirpath={run}/own",
    ],
)
def test_another_callback_that_writes_checkpoints(callback: str, whole: Path, shards: Path, tmp_path: Path) -> None:
    name, *options = callback.format(run=tmp_path).split("|")
    more = [f"--trainer.callbacks+={name}", *(f"--trainer.callbacks.{option}" for option in options)]
    assert fit(shards, tmp_path, *NINE, with_callback("StopAfter", steps=6), *more) == 0
    assert fit(shards, tmp_path, *NINE, *more, "--ckpt_path=last") == 0
    assert_same_run(whole, tmp_path)


@pytest.mark.parametrize("option", ["fast_dev_run=true", "fast_dev_run=5", "enable_checkpointing=false"])
def test_what_is_to_write_no_checkpoint_writes_none(option: str, shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert fit(shards, run, *NINE, f"--trainer.{option}") == 0
    written = {path.name for path in run.rglob("*")}
    assert written == (set() if "fast" in option else {"config.yaml", "metrics.csv", "skipped.json"})


def test_a_run_folder_has_one_run_at_a_time(whole: Path, shards: Path, capsys: pytest.CaptureFixture) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    with writing_into(whole):
        assert fit(shards, whole, *NINE) == 1
    assert "another run writes here" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*")} == before
    assert fit(shards, whole, *NINE, "--ckpt_path=last") == 0


def test_a_checkpoint_that_wants_to_run_code_is_refused(shards: Path, tmp_path: Path, capsys) -> None:
    torch.save({"mmtrain": {}, "state_dict": {}, "code": Path("x")}, tmp_path / "evil.ckpt")
    assert fit(shards, tmp_path / "run", *NINE, f"--ckpt_path={tmp_path / 'evil.ckpt'}") == 1
    assert "evil.ckpt" in capsys.readouterr().err


@pytest.mark.system
def test_a_signal_to_one_process_stops_both(shards: Path, tmp_path: Path) -> None:
    two = ["--data.batch_size=4", "--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.max_steps=50"]
    run = arguments(shards, tmp_path, *two, with_callback("SignalAt", step=5, name="SIGUSR2", rank=1))
    command = [sys.executable, "-m", "mmtrain.cli", *run]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=ENVIRONMENT)
    assert done.returncode == 75, done.stderr[-2000:]
    assert step(tmp_path / "checkpoints" / "last.ckpt") == 5


@pytest.mark.system
def test_three_kills_change_nothing(tmp_path: Path) -> None:
    from benchmarks.kills import killed_run

    assert killed_run(tmp_path, kills=3, seed=0).same
