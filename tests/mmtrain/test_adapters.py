"""Adapters by name beside one frozen base: trained by part, source and language, told apart, kept, exported."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

import mmtrain
from datamodules import ByteTokenizer
from datamodules.batch import Batch
from mmtrain.cli import main
from mmtrain.models.adapter_folder import add_folder
from mmtrain.models.adapters import Adapter
from mmtrain.models.batches import embed_batch
from mmtrain.models.fingerprint import fingerprint
from mmtrain.models.image_text import ImageTextModel
from mmtrain.models.run_folder import read_checkpoint
from mmtrain.towers import TimmTower, TransformersTower
from mmtrain.training.starting_weights import start
from tests.mmtrain.runs import column, weights, with_callback
from tests.mmtrain.small import arguments, fit

BERT = {"model_type": "bert", "vocab_size": 260, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
BERT |= {"intermediate_size": 32, "attention_probs_dropout_prob": 0.0, "hidden_dropout_prob": 0.1}
TEXT = {"class_path": "mmtrain.towers.TransformersTower", "init_args": {"config": BERT}}
VIT = {"patch_size": 16, "embed_dim": 32, "depth": 1, "num_heads": 2}
TWO = {"number": Adapter(4, targets=["text"]), "hand": Adapter(2, alpha=3, dropout=0.1, targets=["query", "mlp.fc1"])}
CAPTIONS = ["red", "sarkans", "a longer caption of a red page", "zils", "", "blue"]


def network(adapters: dict[str, Adapter] | None = None, seed: int = 0) -> ImageTextModel:
    torch.manual_seed(seed)
    tower = TimmTower("vit_tiny_patch16_224", image_size=32, options=VIT)
    return ImageTextModel(tower, TransformersTower(config=BERT), 16, adapters=adapters)


def grown(model: ImageTextModel) -> ImageTextModel:
    """The model with adapters that do something."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name in model.bank.settings:
            for each in model.bank.weights(name).values():
                each.copy_(torch.randn(each.shape, generator=generator) / 4)
    return model.eval()


def pixels(count: int) -> torch.Tensor:
    return torch.randint(0, 255, (count, 3, 32, 32), generator=torch.Generator().manual_seed(2)).to(torch.uint8)


def read(model: ImageTextModel, captions: list[str], *numbers: int) -> torch.Tensor:
    with torch.no_grad():
        return model.encode_text(*ByteTokenizer()(captions, ["en"] * len(captions)), None, torch.tensor(numbers))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, shards: Path) -> Path:
    run = tmp_path_factory.mktemp("base")
    assert fit(shards, run, f"--model.text={json.dumps(TEXT)}", "--trainer.max_steps=2") == 0
    return run


def with_adapters(shards: Path, base: Path, run: Path, adapters: str, *options: str) -> list[str]:
    own = [f"--model.text={json.dumps(TEXT)}", f"--model.pretrained={base}", f"--model.adapters={adapters}"]
    return arguments(shards, run, *own, "--trainer.max_steps=6", "--model.warmup_steps=0", *options)


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory, shards: Path, base: Path) -> Path:
    """A run in which Latvian has an adapter."""
    run = tmp_path_factory.mktemp("bank")
    sources = json.dumps([{"shards": str(shards), "adapter_of": "language"}])
    command = with_adapters(shards, base, run, "{lv: {rank: 4, targets: [text]}}", f"--data.train={sources}")
    assert main(command) == 0
    return run


def test_the_base_is_the_same_bit_for_bit_and_a_batch_may_mix() -> None:
    plain, model = network().eval(), grown(network(TWO))
    assert torch.equal(read(model, CAPTIONS, *[-1] * 6), read(plain, CAPTIONS, *[-1] * 6))
    with torch.no_grad():
        assert torch.equal(model.encode_image(pixels(4)), plain.encode_image(pixels(4)))
    mixed = read(model, CAPTIONS, 0, 1, -1, 0, 1, -1)
    for number in (-1, 0, 1):
        own = [i for i, each in enumerate((0, 1, -1, 0, 1, -1)) if each == number]
        alone = torch.cat([read(model, [CAPTIONS[i]], number) for i in own])
        torch.testing.assert_close(mixed[own], alone, atol=1e-6, rtol=0)
    assert (mixed[:2] - read(plain, CAPTIONS, *[-1] * 6)[:2]).abs().amax(1).min() > 1e-5
    model.bank.default = "hand"
    with torch.no_grad():
        hand, numbers = model.encode_image(pixels(3)), torch.tensor([1, -1, 1])
        torch.testing.assert_close(model.encode_image(pixels(3), numbers)[[0, 2]], hand[[0, 2]], atol=1e-6, rtol=0)


@pytest.mark.parametrize("micro_batch", [None, 2])
def test_gradients_of_a_mixed_batch_are_those_of_separate_ones(micro_batch: int | None) -> None:
    model, numbers = grown(network(TWO)), torch.tensor([0, 1, 1, 0, -1, 0])
    inputs = ByteTokenizer()(CAPTIONS, ["en"] * 6)
    target = torch.randn(6, 16, generator=torch.Generator().manual_seed(3))

    def gradients() -> list[torch.Tensor]:
        own = [each for name in TWO for each in model.bank.weights(name).values() if each.grad is not None]
        return [each.grad.clone() for each in own]  # type: ignore[union-attr]

    for i in (0, 1, 2, 3, 5):
        one = slice(i, i + 1)
        (model.encode_text(*(each[one] for each in inputs), None, numbers[one]) * target[one]).sum().backward()
    separate = gradients()
    model.zero_grad()
    model.micro_batch = micro_batch
    (model.encode_text(*inputs, None, numbers) * target).sum().backward()
    assert separate
    torch.testing.assert_close(gradients(), separate, atol=1e-5, rtol=1e-4)


def test_the_base_neither_trains_nor_drops_out_beside_adapters() -> None:
    model = network(TWO).train()
    assert {name for name, each in model.named_parameters() if each.requires_grad} == {
        weight for name in TWO for weight in model.bank.weights(name)
    }
    assert torch.equal(read(model, CAPTIONS, *[-1] * 6), read(network().eval(), CAPTIONS, *[-1] * 6))
    assert not torch.equal(read(grown(model).train(), CAPTIONS, *[1] * 6), read(model.eval(), CAPTIONS, *[1] * 6))


def test_rows_of_a_batch_are_read_by_what_it_says() -> None:
    model = grown(network(TWO))
    model.bank.languages = ["en", "number"]
    tokens, mask = ByteTokenizer()(["red", "blue", "red", "blue"], ["en"] * 4)
    ids, both = torch.arange(2), torch.ones(2, 2, dtype=torch.bool)
    batch = Batch(
        pixels(2), tokens.view(2, 2, -1), mask.view(2, 2, -1), both, torch.tensor([[0, 1], [0, 1]]), ids, both.long(),
        ids, ids * 0, ["a", "b"], [["red", "blue"]] * 2, adapters=torch.tensor([1, -2]),
    )  # fmt: skip
    with torch.no_grad():
        found = embed_batch(model, batch)
        _, texts, *_ = model.tokens(
            pixels(2), tokens, mask, batch.languages.flatten(), (batch.adapters, torch.tensor([1, 1, -2, -2]))
        )
        image = model.encode_image(pixels(2), torch.tensor([1, -1]))
    expected = read(model, ["red", "blue", "red", "blue"], 1, 1, -1, 0)
    assert found.texts is not None and found.image is not None
    torch.testing.assert_close(found.texts.flatten(0, 1), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(texts, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.image, image, atol=1e-6, rtol=0)


def test_a_language_has_an_adapter_and_the_others_lose_no_bit(bank: Path, base: Path, shards: Path) -> None:
    before, after = mmtrain.load(base), mmtrain.load(bank)
    assert np.array_equal(after.encode_text(CAPTIONS, "lv"), before.encode_text(CAPTIONS, "lv"))
    own = after.encode_text(CAPTIONS, "lv", adapter="lv")
    assert np.abs(own - before.encode_text(CAPTIONS, "lv")).max() > 1e-4
    assert np.array_equal(after.encode_text(CAPTIONS, "lv", adapter="language"), own)
    assert np.array_equal(after.encode_text(CAPTIONS, "en", adapter="language"), before.encode_text(CAPTIONS, "en"))
    assert np.array_equal(mmtrain.load(bank, adapter="lv").encode_text(CAPTIONS), own)
    assert np.array_equal(mmtrain.load(bank, adapter="language").encode_text(CAPTIONS, "lv"), own)
    assert np.array_equal(mmtrain.load(bank, adapter="lv", text_only=True).encode_text(CAPTIONS), own)
    query = after.encode_queries([{"text": "sarkans", "adapter": "lv"}, {"text": "sarkans"}])
    np.testing.assert_allclose(query[0], own[1], atol=1e-6)
    assert not np.allclose(query[1], own[1], atol=1e-5)
    assert fingerprint(after) == fingerprint(before) != fingerprint(mmtrain.load(bank, adapter="lv"))
    for adapter, out in (("language", bank / "by"), ("lv", bank / "lv")):
        assert main(["evaluate", str(bank), "--data", str(shards), "--adapter", adapter, "--out", str(out)]) == 0
    assert main(["evaluate", str(base), "--data", str(shards), "--out", str(base / "report")]) == 0
    found = [json.loads((out / "metrics.json").read_text()) for out in (bank / "by", bank / "lv", base / "report")]
    ranks = [{each: one["text_to_image"][each]["mean_rank"] for each in ("en", "lv")} for one in found]
    assert ranks[0]["en"] == ranks[2]["en"] and ranks[0]["lv"] == ranks[1]["lv"]


def test_a_stopped_training_goes_on_exactly(base: Path, shards: Path, tmp_path: Path) -> None:
    sources = json.dumps([{"shards": str(shards), "adapter": "one"}, {"shards": str(shards), "adapter": "two"}])
    adapters = "{one: {rank: 2, dropout: 0.1}, two: {rank: 2, targets: [text]}, rest: {rank: 1}}"
    average = {"class_path": "mmtrain.training.averaging.WeightAverage", "init_args": {"decay": 0.5}}
    options = [f"--data.train={sources}", "--trainer.log_every_n_steps=1"]
    callbacks = f"--trainer.callbacks={json.dumps([average])}"
    assert main(with_adapters(shards, base, tmp_path / "whole", adapters, *options, callbacks)) == 0
    stopping = json.loads(with_callback("StopAfter", steps=3).partition("=")[2])
    stopped = f"--trainer.callbacks={json.dumps([average, *stopping])}"
    assert main(with_adapters(shards, base, tmp_path / "cut", adapters, *options, stopped)) == 0
    assert main(with_adapters(shards, base, tmp_path / "cut", adapters, *options, callbacks, "--ckpt_path=last")) == 0
    expected, found = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())
    assert column(tmp_path / "whole", "train/loss") == column(tmp_path / "cut", "train/loss")
    moved = {name for name in ("one", "two", "rest") if any(
        value.abs().max() > 0 for key, value in expected.items() if f"lora_B.{name}." in key)}  # fmt: skip
    assert moved == {"one", "two"}


def test_one_after_another_each_from_a_copy_by_stages(base: Path, shards: Path, tmp_path: Path) -> None:
    shared = {"rank": 2, "targets": ["text"]}
    first = {"model": {"init_args": {"adapters": {"shared": shared}}}}
    copied = {"shared": shared, "task": shared | {"start": "shared"}}
    second = {
        "model": {"init_args": {"adapters": copied, "learning_rate": 0.0}},
        "data": {"init_args": {"train": [{"shards": str(shards), "adapter": "task"}]}},
    }
    page = tmp_path / "page.json"
    data = {"class_path": "datamodules.ShardDataModule", "init_args": {"train": str(shards)}}
    page.write_text(json.dumps({"data": data, "stages": [first, second]}))
    words = with_adapters(shards, base, tmp_path / "run", "{}")
    words = [word for word in words if not word.startswith(("--model.adapters", "--data.train"))]
    assert main([*words[:3], "--config", str(page), *words[3:]]) == 0
    last = [tmp_path / "run" / number / "checkpoints" / "last.ckpt" for number in "12"]
    before, after = map(mmtrain.load, last)
    rows = before.encode_text(CAPTIONS, adapter="shared")
    assert np.abs(rows - before.encode_text(CAPTIONS)).max() > 1e-4
    for name in ("shared", "task"):
        np.testing.assert_array_equal(after.encode_text(CAPTIONS, adapter=name), rows)


def test_a_folder_of_peft_goes_out_and_in(bank: Path, base: Path, tmp_path: Path) -> None:
    folder, own = tmp_path / "lv.peft", mmtrain.load(bank).encode_text(CAPTIONS, adapter="lv")
    assert main(["export", str(bank), "--adapter", "lv", "--out", str(folder)]) == 0
    assert {"adapter_config.json", "adapter_model.safetensors"} <= {each.name for each in folder.iterdir()}
    assert not (folder / "model.safetensors").exists()
    again = mmtrain.load(base, adapter=folder)
    assert np.array_equal(again.encode_text(CAPTIONS), own)
    assert np.array_equal(again.encode_text(CAPTIONS, adapter="lv_peft"), own)
    plain = mmtrain.load(base)
    PeftModel.from_pretrained(plain.model, str(folder))
    np.testing.assert_allclose(plain.encode_text(CAPTIONS), own, atol=1e-6)
    for format in ("safetensors", "onnx"):
        out = tmp_path / format
        assert main(["export", str(bank), "--adapter", "lv", "--format", format, "--out", str(out)]) == 0
        np.testing.assert_allclose(mmtrain.load(out).encode_text(CAPTIONS), own, atol=1e-5)
        with pytest.raises(ValueError, match="adapter 'lv', but .* has no adapters"):
            mmtrain.load(out).encode_text(CAPTIONS, adapter="lv")
    assert main(["export", str(bank), "--out", str(tmp_path / "all")]) == 0
    assert np.array_equal(mmtrain.load(tmp_path / "all").encode_text(CAPTIONS, adapter="lv"), own)
    with pytest.raises(ValueError, match="another base"):
        start(network(seed=9), None, {}, {"en": Adapter(4, targets=["text"], start=str(folder))})


def test_an_adapter_that_peft_trained_for_one_tower(base: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    theirs = mmtrain.load(base)
    tower = theirs.model.get_submodule("text")
    config = LoraConfig(r=3, lora_alpha=5, use_rslora=True, target_modules=["query", "value"], init_lora_weights=False)
    adapted = get_peft_model(tower.network, config).eval()
    adapted.save_pretrained(tmp_path / "theirs")
    ours = mmtrain.load(base, adapter=tmp_path / "theirs").encode_text(CAPTIONS)
    np.testing.assert_allclose(ours, theirs.encode_text(CAPTIONS), atol=1e-6)
    assert np.abs(ours - mmtrain.load(base).encode_text(CAPTIONS)).max() > 1e-4


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"peft_type": "IA3"}, "adapter_config.json: peft_type: got 'IA3', expected LORA"),
        ({"use_dora": True}, "adapter_config.json: use_dora: got 'True'"),
        ({"modules_to_save": ["text_projection"]}, "modules_to_save: got"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights: got 'pissa'"),
        ({"r": "8"}, "adapter_config.json: r: got '8', expected a number"),
        ({"r": 3}, "another base"),
    ],
)
def test_a_folder_that_is_more_than_two_matrices(change: dict, says: str, bank: Path, base: Path, tmp_path) -> None:
    assert main(["export", str(bank), "--adapter", "lv", "--out", str(tmp_path / "lv")]) == 0
    config = tmp_path / "lv" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    with pytest.raises(ValueError, match=says) as error:
        mmtrain.load(base, adapter=tmp_path / "lv")
    assert "\n" not in str(error.value)


def test_an_adapter_nobody_has_and_another_base(bank: Path, base: Path, tmp_path: Path, capsys) -> None:
    with pytest.raises(ValueError, match="adapter 'sw', but .* has only lv"):
        mmtrain.load(bank, adapter="sw")
    with pytest.raises(ValueError, match="adapter 'sw', but .* has only lv"):
        mmtrain.load(bank).encode_text([], adapter="sw")
    assert main(["export", str(bank), "--adapter", "sw", "--out", str(tmp_path / "out")]) == 1
    assert "adapter 'sw', but" in capsys.readouterr().err
    assert main(["export", str(base), "--format", "peft", "--out", str(tmp_path / "out")]) == 1
    assert "--adapter NAME" in capsys.readouterr().err
    assert main(["export", str(bank), "--adapter", "lv", "--out", str(tmp_path / "lv")]) == 0
    weights = load_file(tmp_path / "lv" / "adapter_model.safetensors")
    with pytest.raises(ValueError, match="another base"):
        add_folder(network(seed=3), tmp_path / "lv")
    save_file({f"{key}x": value for key, value in weights.items()}, tmp_path / "lv" / "adapter_model.safetensors")
    with pytest.raises(ValueError, match="expected lora_A and lora_B"):
        mmtrain.load(base, adapter=tmp_path / "lv")
    (tmp_path / "lv" / "adapter_model.safetensors").write_bytes(b"none")
    with pytest.raises(ValueError, match="cannot be read"):
        mmtrain.load(base, adapter=tmp_path / "lv")


@pytest.mark.parametrize(
    ("adapters", "options", "says"),
    [
        ("{a: {rank: 0}}", [], "got rank 0"),
        ("{a: {rank: 2, targets: [audio]}}", [], "model.adapters.a: targets: audio: no linear layer"),
        ("{language: {rank: 2}}", [], "model.adapters: got 'language'"),
        ("{a: {rank: 2, start: b}}", [], "model.adapters.a.start: adapter 'b', but"),
        ("{a: {rank: 2}, b: {rank: 2}}", [], "no part and no source names its adapter"),
        ("{a: {rank: 2}}", [("adapter", "c")], "adapter: got 'c', model.adapters has a"),
        ("{a: {rank: 2}}", [("adapter_of", "language")], "adapter_of: language: none of model.adapters"),
        ("{a: {rank: 2}}", [("adapter", "a"), ("adapter_of", "language")], "expected one"),
        ("{a: {rank: 2}}", ["--model.lora={text: 2}"], "model.lora: got"),
        ("{a: {rank: 2}}", ["--model.checkpoint_activations=true"], "not with model.adapters"),
    ],
)
def test_adapters_that_cannot_be(
    adapters: str, options: list, says: str, base: Path, shards: Path, tmp_path, capsys
) -> None:
    source = dict(each for each in options if isinstance(each, tuple))
    own = [each for each in options if isinstance(each, str)]
    own += [f"--data.train={json.dumps([{'shards': str(shards)} | source])}"] if source else []
    assert main(with_adapters(shards, base, tmp_path, adapters, *own)) != 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert says in line


def test_checkpoints_describe_their_adapters(bank: Path) -> None:
    description = json.loads(read_checkpoint(bank / "checkpoints" / "last.ckpt")["mmtrain"]["description"])
    adapters = description["model"]["init_args"]["adapters"]
    assert adapters == {"lv": {"rank": 4, "alpha": None, "dropout": 0.0, "targets": ["text"], "start": None}}
