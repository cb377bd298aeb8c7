"""What the guard does with steps that are not finite, and what it says about runs that look wrong."""

import json
import math
from pathlib import Path

import pytest
import torch
from PIL import Image

from losses import ClipLoss, MatryoshkaLoss, OneToKLoss, SiglipLoss
from mmtrain.cli import main
from mmtrain.models.run_folder import read_checkpoint
from tests.mmtrain.runs import column, step, weights, with_callback
from tests.mmtrain.small import fit


def test_a_step_that_is_not_finite_is_left_out(shards: Path, tmp_path: Path, recwarn) -> None:
    options = ["--trainer.max_steps=6", "--checkpoint.every_n_steps=1"]
    assert fit(shards, tmp_path, *options, with_callback("Poison", steps=[3, 5])) == 0
    assert all(torch.isfinite(tensor).all() for tensor in weights(tmp_path).values())
    assert sum("the step is left out" in str(warning.message) for warning in recwarn) == 2
    [row] = json.loads((tmp_path / "nonfinite.json").read_text())
    assert row["step"] == 4 and len(row["ids"]) == 8 and row["ids"][0].startswith("c")


def test_too_many_in_a_row_end_the_run_and_keep_the_checkpoint(shards: Path, tmp_path: Path, capsys) -> None:
    options = ["--trainer.max_steps=20", "--checkpoint.every_n_steps=2", "--guard.nonfinite_steps=2"]
    assert fit(shards, tmp_path, *options, with_callback("Poison", steps=[5, 6, 7])) == 1
    assert "not finite 2 times in a row" in capsys.readouterr().err
    assert step(tmp_path / "checkpoints" / "last.ckpt") == 4
    assert [row["step"] for row in json.loads((tmp_path / "nonfinite.json").read_text())] == [4, 5]


FUSED = "--model.optimizer={class_path: torch.optim.AdamW, init_args: {fused: true}}"


def test_a_fused_optimiser_leaves_out_the_same_steps(shards: Path, tmp_path: Path, recwarn) -> None:
    options = ["--trainer.max_steps=6", "--checkpoint.every_n_steps=1", "--checkpoint.keep_last=3", FUSED]
    assert fit(shards, tmp_path, *options, with_callback("Poison", steps=[4, 6])) == 0
    assert sum("the step is left out" in str(warning.message) for warning in recwarn) == 2  # one of them the last
    [row] = json.loads((tmp_path / "nonfinite.json").read_text())
    assert row["step"] == 5 and len(row["ids"]) == 8
    before, after = weights(tmp_path, "previous-1.ckpt"), weights(tmp_path)
    assert all(torch.isfinite(tensor).all() and torch.equal(tensor, before[name]) for name, tensor in after.items())
    checkpoint = read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    assert {int(state["step"]) for state in checkpoint["optimizer_states"][0]["state"].values()} == {4}


def test_too_many_in_a_row_end_a_fused_run_before_another_weight_changes(shards: Path, tmp_path: Path, capsys) -> None:
    options = ["--trainer.max_steps=20", "--checkpoint.every_n_steps=1", "--guard.nonfinite_steps=2", FUSED]
    assert fit(shards, tmp_path, *options, "--checkpoint.keep_last=4", with_callback("Poison", steps=[5, 6])) == 1
    assert "not finite 2 times in a row" in capsys.readouterr().err
    assert [row["step"] for row in json.loads((tmp_path / "nonfinite.json").read_text())] == [4, 5]
    before, after = weights(tmp_path, "previous-2.ckpt"), weights(tmp_path)
    assert step(tmp_path / "checkpoints" / "last.ckpt") == 6
    assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())


def float16(scale: float) -> str:
    """Mixed precision on the CPU, with a loss scale to begin with."""
    scaler = {"class_path": "torch.amp.GradScaler", "init_args": {"device": "cpu", "init_scale": scale}}
    options = {"precision": "16-mixed", "device": "cpu", "scaler": scaler}
    precision = {"class_path": "pytorch_lightning.plugins.MixedPrecision", "init_args": options}
    return f"--trainer.plugins={json.dumps(precision)}"


@pytest.mark.parametrize(
    ("callback", "scale", "stopped"),
    [
        (with_callback("Poison", steps=[2, 3, 4]), 256.0, [1, 2]),  # the loss is not finite
        (with_callback("Infinite"), 4.0, [2, 3]),  # the gradient, and the scale is 1 after two halvings
    ],
)
def test_float16_is_guarded_too(
    callback: str, scale: float, stopped: list[int], shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    options = ["--trainer.max_steps=9", "--guard.nonfinite_steps=2", float16(scale)]
    assert fit(shards, tmp_path, *options, callback) == 1
    assert "not finite 2 times in a row" in capsys.readouterr().err
    assert [row["step"] for row in json.loads((tmp_path / "nonfinite.json").read_text())] == stopped


def test_float16_may_look_for_its_scale(shards: Path, tmp_path: Path) -> None:
    options = ["--trainer.max_steps=12", "--guard.nonfinite_steps=1", float16(2.0**20), "--model.warmup_steps=0"]
    assert fit(shards, tmp_path, *options, "--trainer.log_every_n_steps=1") == 0
    assert not (tmp_path / "nonfinite.json").exists()
    assert column(tmp_path, "learning_rate")[-1] < 0.01 * column(tmp_path, "learning_rate")[0]  # every step counts


def test_a_run_that_learns_nothing_is_told_so(tmp_path: Path, recwarn) -> None:
    rows = []
    for index in range(16):  # no two alike: equal captions would not be each other's negatives
        Image.effect_noise((32, 32), 20 + 10 * index).save(tmp_path / f"{index}.png")
        rows.append({"id": str(index), "image": f"{index}.png", "captions": {"en": f"noise {index}"}})
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert main(["pack", "jsonl", str(tmp_path / "rows.jsonl"), "--out", str(tmp_path / "shards")]) == 0
    frozen = ["--model.learning_rate=1e-12", "--model.warmup_steps=0", "--trainer.log_every_n_steps=1"]
    objectives = "--model.objectives={one_to_k: {class_path: losses.OneToKLoss, init_args: {scale: 1.0}}}"
    # wide, so that cosines of random rows are all close to each other's, as those of a large model are
    options = ["--data.captions_per_image=1", "--trainer.max_steps=25", "--model.dimension=512"]
    assert fit(tmp_path / "shards", tmp_path / "run", *frozen, objectives, *options) == 0
    messages = [str(warning.message) for warning in recwarn]
    assert sum("a model that knows nothing" in message for message in messages) == 1
    assert sum("the temperature is at its bound" in message for message in messages) == 1


def test_the_loss_of_ignorance() -> None:
    assert ClipLoss().chance(16, 1.0) == math.log(16)
    assert OneToKLoss().chance(16, 4.0) == math.log(16) + math.log(4) / 2
    assert MatryoshkaLoss(ClipLoss(), [4, 8], [1, 0.5]).chance(16, 1.0) == 1.5 * math.log(16)
    assert SiglipLoss().chance(16, 1.0) is None


def test_speed_is_logged(shards: Path, tmp_path: Path) -> None:
    assert fit(shards, tmp_path, "--trainer.max_steps=4") == 0
    for name in ("speed/samples_per_second", "speed/seconds_per_step", "memory/process_gib"):
        assert all(value > 0 for value in column(tmp_path, name)) and column(tmp_path, name), name
    assert all(0 <= share <= 1 for share in column(tmp_path, "speed/data_wait_share"))
