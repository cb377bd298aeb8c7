"""Adapters, frozen phases and averages of weights, each through `mmtrain fit`."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import mmtrain
from mmtrain.cli import main
from mmtrain.models.image_text import ImageTextModel
from mmtrain.models.run_folder import read_checkpoint
from mmtrain.models.weights import mean_of
from mmtrain.towers import ByteGRU, TimmTower
from tests.mmtrain.runs import column, weights
from tests.mmtrain.small import IMAGE, fit

VIT = {"patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 2}
TWO_BLOCKS = f"--model.image.options={json.dumps(VIT)}"


def tower(**options) -> ImageTextModel:
    torch.manual_seed(0)
    return ImageTextModel(
        TimmTower("vit_tiny_patch16_224", image_size=32, options=VIT, **options), ByteGRU(width=32), 16
    )


def test_adapters_begin_as_nothing_and_merge_into_the_weights() -> None:
    model, plain = tower().eval(), tower().eval()
    pixels = torch.randint(0, 255, (4, 3, 32, 32), dtype=torch.uint8)
    model.add_lora({"image": 4})
    with torch.no_grad():
        assert torch.equal(model.encode_image(pixels), plain.encode_image(pixels))
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
        adapted = model.encode_image(pixels)
        assert not torch.allclose(adapted, plain.encode_image(pixels), atol=1e-3)
        model.merge_lora()
        torch.testing.assert_close(model.encode_image(pixels), adapted, atol=1e-5, rtol=0)
    assert set(model.state_dict()) == set(plain.state_dict())


@pytest.mark.parametrize("rank", [1, 4])
def test_an_adapter_counts_twice_whatever_its_rank(rank: int) -> None:
    model = tower()
    model.add_lora({"image": rank})
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_()
    parts = dict(model.named_parameters())
    layer = "image.network.blocks.1.mlp.fc1"
    down, up = (parts[f"{layer}.lora_{side}.default.weight"].detach() for side in "AB")
    expected = parts[f"{layer}.base_layer.weight"].detach() + 2 * up @ down
    model.merge_lora()
    torch.testing.assert_close(model.state_dict()[f"{layer}.weight"], expected)


def test_only_adapters_are_trained_and_whoever_loads_gets_them_merged(shards: Path, tmp_path: Path) -> None:
    assert fit(shards, tmp_path, TWO_BLOCKS, "--trainer.max_steps=8", "--model.lora={image: 4}") == 0
    state, model = weights(tmp_path), mmtrain.load(tmp_path / "checkpoints" / "last.ckpt").model
    assert any(value.abs().max() > 0 for name, value in state.items() if "lora_B" in name)
    merged = model.state_dict()
    assert not any("lora" in name or "base_layer" in name for name in merged)
    base = state["model.image.network.blocks.0.attn.qkv.base_layer.weight"]
    assert not torch.equal(merged["image.network.blocks.0.attn.qkv.weight"], base)
    assert main(["export", str(tmp_path), "--out", str(tmp_path / "out")]) == 0


@pytest.mark.parametrize(
    ("lora", "message"),
    [("{text: 4}", "ByteGRU has no linear layers"), ("{audio: 4}", "audio: 4, expected image or text")],
)
def test_adapters_that_cannot_be(lora: str, message: str, shards: Path, tmp_path: Path, capsys) -> None:
    assert fit(shards, tmp_path, "--trainer.max_steps=1", f"--model.lora={lora}") != 0
    assert message in capsys.readouterr().err


def phases(*steps: dict) -> str:
    callback = {"class_path": "mmtrain.phases.Phases", "init_args": {"phases": list(steps)}}
    return f"--trainer.callbacks={json.dumps([callback])}"


def changed(before: dict, after: dict, part: str) -> set[bool]:
    names = [name for name in before if part in name and before[name].is_floating_point()]
    assert names
    return {not torch.equal(before[name], after[name]) for name in names}


@pytest.mark.parametrize("micro_batch", [[], ["--model.micro_batch=4"]], ids=["whole", "micro_batch"])
def test_towers_are_frozen_and_unfrozen_by_step(micro_batch: list[str], shards: Path, tmp_path: Path) -> None:
    schedule = phases({"from_step": 0, "image": 0, "text": 0}, {"from_step": 4, "image": 1, "text": "all"})
    every = [TWO_BLOCKS, schedule, "--checkpoint.every_n_steps=4", "--checkpoint.keep_last=3", *micro_batch]
    assert fit(shards, tmp_path, "--trainer.max_steps=8", "--model.warmup_steps=0", *every) == 0
    at_4, at_8 = weights(tmp_path, "previous-1.ckpt"), weights(tmp_path)
    torch.manual_seed(0)
    assert changed(at_4, at_8, "blocks.1") == {True} and changed(at_4, at_8, "text.forwards") == {True}
    assert changed(at_4, at_8, "blocks.0") == {False} and changed(at_4, at_8, "patch_embed") == {False}
    assert changed(at_4, at_8, "image_projection") == {True}
    first = tmp_path / "first"
    assert fit(shards, first, "--trainer.max_steps=1", "--model.warmup_steps=0", *every) == 0
    # frozen whole from the first step to the fourth
    at_1 = weights(first)
    assert changed(at_1, at_4, "text.forwards") == {False} and changed(at_1, at_4, "image.network") == {False}
    assert changed(at_1, at_4, "image_projection") == {True}


def test_phases_out_of_order(shards: Path, tmp_path: Path, capsys) -> None:
    assert fit(shards, tmp_path, "--trainer.max_steps=1", phases({"from_step": 5, "image": 0})) != 0
    assert "expected numbers that rise from 0" in capsys.readouterr().err
    assert fit(shards, tmp_path, "--trainer.max_steps=1", phases({"from_step": 0, "image": 7})) != 0
    assert "image: 7 blocks, TimmTower has 1" in capsys.readouterr().err


def test_weights_and_rate_change_by_step_and_go_on_exactly(shards: Path, tmp_path: Path) -> None:
    objectives = "{a: {class_path: losses.OneToKLoss}, b: {class_path: losses.SiglipLoss}}"
    steps = {"from_step": 0, "weights": {"b": 0.0}}, {"from_step": 4, "weights": {"a": 0.5}, "learning_rate": 0.0005}
    every = [f"--model.objectives={objectives}", "--model.weights={a: 1, b: 0.25}", "--model.learning_rate=0.002"]
    every += ["--trainer.max_steps=8", "--trainer.log_every_n_steps=1", "--model.layer_decay=0.5", TWO_BLOCKS]
    every += ["--model.schedule=constant", "--model.warmup_steps=0"]
    assert fit(shards, tmp_path / "whole", *every, phases(*steps)) == 0
    loss, a, b = (np.array(column(tmp_path / "whole", f"train/{name}")) for name in ("loss", "a", "b"))
    np.testing.assert_allclose(loss[:4], a[:4], rtol=1e-5)
    np.testing.assert_allclose(loss[4:], 0.5 * a[4:] + 0.25 * b[4:], rtol=1e-5)
    rates = column(tmp_path / "whole", "learning_rate")
    assert rates[4:] == pytest.approx([rates[0] / 4] * 4)
    groups = read_checkpoint(tmp_path / "whole" / "checkpoints" / "last.ckpt")["optimizer_states"][0]["param_groups"]
    assert len({group["base_lr"] for group in groups}) > 1
    assert all(group["lr"] == pytest.approx(group["base_lr"] / 4) for group in groups)
    for stop in ("2", "6"):  # before and behind the change
        run = tmp_path / stop
        stopping = {"class_path": "tests.mmtrain.stopping.StopAfter", "init_args": {"steps": int(stop)}}
        both = [json.loads(phases(*steps).partition("=")[2])[0], stopping]
        assert fit(shards, run, *every, f"--trainer.callbacks={json.dumps(both)}") == 0
        assert fit(shards, run, *every, phases(*steps), "--ckpt_path=last") == 0
        found = weights(run)
        assert all(torch.equal(tensor, found[name]) for name, tensor in weights(tmp_path / "whole").items())


@pytest.mark.parametrize(
    ("phase", "says"),
    [
        ({"weights": {"two": 1}}, "phases: weights: 'two' is none of the objectives one_to_k"),
        ({"weights": {"one_to_k": -1}}, "phases: from step 0: got -1"),
        ({"learning_rate": -0.1}, "phases: from step 0: got -0.1, expected weights and rates from 0"),
    ],
)
def test_phases_that_cannot_be(phase: dict, says: str, shards: Path, tmp_path: Path, capsys) -> None:
    assert fit(shards, tmp_path, "--trainer.max_steps=1", phases({"from_step": 0} | phase)) != 0
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    "option", [["--model.lora={image: 2}"], ["--model.image", IMAGE.replace("image_size", "frozen: true, image_size")]]
)
def test_phases_train_nothing_that_the_optimiser_lacks(option: list[str], shards: Path, tmp_path: Path, capsys) -> None:
    steps = {"from_step": 0, "image": 0, "text": 0}, {"from_step": 1, "image": "all"}
    assert fit(shards, tmp_path, "--trainer.max_steps=2", *option, phases(*steps)) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert "phases: image: all from step 1 would train" in line and "leave image out" in line
    steps = {"from_step": 0, "text": 0}, {"from_step": 1}
    every = "--checkpoint.every_n_steps=1"
    assert fit(shards, tmp_path, "--trainer.max_steps=3", every, "--model.warmup_steps=0", *option, phases(*steps)) == 0
    before, after = weights(tmp_path, "previous-1.ckpt"), weights(tmp_path)
    assert changed(before, after, "lora_" if "lora" in option[0] else "text.forwards") == {True}


def test_the_average_of_two_is_between_them() -> None:
    first, second = tower().state_dict(), {name: value + 2 for name, value in tower().state_dict().items()}
    name = "image_projection.weight"
    torch.testing.assert_close(mean_of([first, second], [3, 1])[name], first[name] + 0.5)
    assert all(torch.equal(value, first[name]) for name, value in mean_of([first, first], [0.3, 0.7]).items())
    with pytest.raises(ValueError, match="models 1 and 2 differ in"):
        mean_of([first, {**second, name: torch.zeros(2)}], [1, 1])


def test_average_and_push(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in ("1", "2"):
        options = ["--trainer.max_steps=4", f"--seed_everything={seed}"]
        assert fit(shards, tmp_path / seed, *options) == 0
    models, out = [str(tmp_path / "1"), str(tmp_path / "2")], str(tmp_path / "mean")
    assert main(["average", *models, "--out", out, "--weights", "1,3"]) == 0
    name = "image_projection.weight"
    one, two, mean = (mmtrain.load(model).model.state_dict()[name].numpy() for model in (*models, out))
    np.testing.assert_allclose(mean, one / 4 + two * 3 / 4, atol=1e-6)
    assert main(["average", models[0], "--out", out]) == 1
    assert "1 models" in capsys.readouterr().err
    assert main(["push", out, "someone/a-model", "--licence", "cc-by-4.0"]) == 0
    assert "model.safetensors" in (printed := capsys.readouterr().out) and "--upload sends it" in printed
    assert "license: cc-by-4.0" in (tmp_path / "mean" / "README.md").read_text()
    assert main(["push", out, "no repository", "--licence", "mit"]) == 1
    (tmp_path / "mean" / "weights.bin").write_bytes(b"")
    assert main(["push", out, "someone/a-model", "--licence", "mit"]) == 1
    assert "can carry code" in capsys.readouterr().err
