"""Weights divided over processes (FSDP2): two train what one does, and each goes on from the other's checkpoints."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pytorch_lightning.strategies import ModelParallelStrategy

from mmtrain.cli import main
from mmtrain.models.run_folder import read_checkpoint
from mmtrain.training.sharding import FullySharded, supported
from tests.mmtrain.runs import column
from tests.mmtrain.small import ENVIRONMENT, arguments, fit

VIT = {"patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 2}
SIGLIP = {"class_path": "losses.SiglipLoss"}
ONE_TO_K = {"class_path": "losses.OneToKLoss", "init_args": {"scale": 99.9}}
OPTIONS = [
    f"--model.image.options={json.dumps(VIT)}",
    f"--model.objectives={json.dumps({'one_to_k': ONE_TO_K, 'siglip': SIGLIP})}",
    "--model.learning_rate=0.01",
    "--model.layer_decay=0.9",
    "--trainer.gradient_clip_val=0.5",
    "--trainer.max_steps=8",
    "--checkpoint.every_n_steps=4",
]


def fit_on_two(shards: Path, run: Path, *options: str, strategy: str = "fsdp2") -> None:
    two = ["--data.batch_size=4", "--trainer.devices=2", f"--trainer.strategy={strategy}"]
    command = [sys.executable, "-m", "mmtrain.cli", *arguments(shards, run, *OPTIONS, *two, *options)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr[-3000:]


def same(one: Path, two: Path) -> None:
    first, second = (
        read_checkpoint(one / "checkpoints" / "last.ckpt"),
        read_checkpoint(two / "checkpoints" / "last.ckpt"),
    )
    for name, tensor in first["state_dict"].items():
        torch.testing.assert_close(second["state_dict"][name], tensor, atol=1e-6, rtol=1e-6, msg=name)
    (first,), (second,) = first["optimizer_states"], second["optimizer_states"]
    assert json.dumps(first["param_groups"]) == json.dumps(second["param_groups"])
    for number, state in first["state"].items():
        for name, value in state.items():
            torch.testing.assert_close(second["state"][number][name], value, atol=1e-6, rtol=1e-5)


@pytest.mark.system
def test_two_processes_with_half_of_the_weights_train_what_one_does(shards: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    assert fit(shards, one, *OPTIONS) == 0
    fit_on_two(shards, two)
    same(one, two)
    for name in ("train/loss", "gradient_norm/image", "gradient_norm/objectives", "one_to_k/scale", "siglip/bias"):
        assert column(two, name) == pytest.approx(column(one, name), rel=1e-5), name
    assert max(column(two, "one_to_k/scale")) <= 100.0 + 1e-4
    # each goes on from the other's fourth step
    for name, run in (("one again", two), ("two again", one)):
        again = [f"--ckpt_path={run / 'checkpoints' / 'previous-1.ckpt'}"]
        if name == "one again":
            assert fit(shards, tmp_path / name, *OPTIONS, *again) == 0
        else:
            fit_on_two(shards, tmp_path / name, *again)
        same(one, tmp_path / name)
    assert main(["evaluate", str(two), "--data", str(shards), "--workers", "0", "--out", str(tmp_path / "report")]) == 0


@pytest.fixture
def hinted(shards: Path, tmp_path: Path) -> Path:
    """The shards with a further text in five samples, so that many a batch of four has none."""
    rows = [json.loads(line) for line in (shards.parent / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    for row in rows[:5]:
        row["hint"] = f"a hint about {row['id']}"
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / "rows.jsonl").write_text(lines, encoding="utf-8")
    command = ["pack", "jsonl", str(tmp_path / "rows.jsonl"), "--images", str(shards.parent)]
    assert main([*command, "--out", str(tmp_path / "hinted")]) == 0
    return tmp_path / "hinted"


@pytest.mark.system
def test_processes_with_other_numbers_of_texts_make_the_same_calls(hinted: Path, tmp_path: Path) -> None:
    """Each call of a block gathers its weights from all processes, which wait for one another there."""
    bert = {
        "model_type": "bert",
        "vocab_size": 300,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    bert |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    text = {"class_path": "mmtrain.towers.TransformersTower", "init_args": {"config": bert}}
    hint = {"class_path": "datamodules.Texts", "init_args": {"required": False}}
    one_to_k = {**ONE_TO_K, "init_args": {"distractors": "hint"}}
    options = [
        f"--model.text={json.dumps(text)}",
        f"--data.fields={json.dumps({'hint': hint})}",
        f"--model.objectives={json.dumps({'one_to_k': one_to_k})}",
    ]
    one, two = tmp_path / "one", tmp_path / "two"
    assert fit(hinted, one, *OPTIONS, *options) == 0
    fit_on_two(hinted, two, *options)
    same(one, two)


def test_lightnings_own_strategies() -> None:
    lightnings = ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1)
    assert all(isinstance(supported(each), FullySharded) for each in ("fsdp2", "ModelParallelStrategy", lightnings))
    assert supported("ddp") == "ddp"
    with pytest.raises(ValueError, match="trainer.strategy.tensor_parallel_size: got 2, expected 1"):
        supported(ModelParallelStrategy(data_parallel_size=1, tensor_parallel_size=2))


def test_flattened_parameters_are_refused(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit(shards, tmp_path, "--trainer.strategy=fsdp") != 0
    message = capsys.readouterr().err.strip().splitlines()
    assert len(message) == 1 and "trainer.strategy: got fsdp, which flattens the parameters; use fsdp2" in message[0]
