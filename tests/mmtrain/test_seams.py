"""The seams that other systems fit through: further modalities, tokens of any shape, optimisers, objectives."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

import losses
from datamodules import Batch, Field, ShardDataModule
from losses.objective import ALL_FIELDS
from mmtrain import ContrastiveModule, ImageTextModel
from mmtrain.cli import main
from mmtrain.models.batches import embed_batch
from mmtrain.models.description import FORMAT, upgraded
from mmtrain.models.loading import assemble
from mmtrain.models.run_folder import describe, read_checkpoint
from mmtrain.models.spec import build, spec_of
from mmtrain.towers import ByteGRU, FeatureTower, TimmTower
from mmtrain.training.checks import check_needs
from tests.mmtrain.batches import made_batch
from tests.mmtrain.runs import column
from tests.mmtrain.small import fit


def batch(K: int = 2, **fields: Field) -> Batch:
    return made_batch(torch.randn(4, 6, generator=torch.Generator().manual_seed(0)), K, fields=fields)


def model() -> ImageTextModel:
    torch.manual_seed(0)
    return ImageTextModel(FeatureTower(6), ByteGRU(width=8), 16, modalities={"audio": FeatureTower(3)})


def audio(B: int = 4) -> Field:
    return Field("features", torch.randn(B, 1, 3), torch.ones(B, 1, dtype=torch.bool), ids=torch.arange(B)[:, None])


def test_a_field_is_encoded_by_the_modality_of_its_name() -> None:
    network, heard = model(), audio()
    embeddings = embed_batch(network, batch(audio=heard))
    rows = embeddings.fields["audio"].rows
    assert rows.shape == (4, 1, 16) and torch.allclose(rows.norm(dim=-1), torch.ones(4, 1))
    assert torch.equal(embeddings.modalities["audio"], network.encode_modality("audio", heard.values[:, 0]))
    loss = losses.SymileLoss()(embed_batch(network, batch(K=1, audio=heard)))
    loss.backward()
    assert all(parameter.grad is not None for parameter in network.modalities["audio"].parameters())
    assert network.modality_projections["audio"].weight.grad.abs().sum() > 0


def test_a_field_of_texts_or_pictures_is_encoded_by_its_kinds_tower() -> None:
    network, plain = model(), batch()
    texts = Field("text", plain.tokens, plain.present, plain.token_mask)
    pictures = Field("image", plain.images[:, None], plain.present[:, :1])
    embeddings = embed_batch(network, batch(queries=texts, views=pictures))
    torch.testing.assert_close(embeddings.fields["queries"].rows, embeddings.texts)
    assert torch.equal(embeddings.fields["views"].rows[:, 0], embeddings.image)


def test_features_without_a_tower_are_refused() -> None:
    with pytest.raises(ValueError, match="data.fields: video holds features; model.modalities needs a tower"):
        embed_batch(model(), batch(video=audio()))


def test_a_model_describes_its_modalities_and_is_built_again() -> None:
    network = model()
    again = build(json.loads(json.dumps(spec_of(network))), ImageTextModel)
    again.load_state_dict(network.state_dict())
    values = torch.randn(2, 3)
    assert torch.equal(again.encode_modality("audio", values), network.encode_modality("audio", values))


def test_a_shared_tower_reads_rendered_texts() -> None:
    """One tower for both sides: the tokenizer gives rows of grey pixels, which are read as one page."""
    torch.manual_seed(0)
    tower = {"patch_size": 16, "embed_dim": 32, "depth": 1, "num_heads": 2}
    network = ImageTextModel(TimmTower("vit_tiny_patch16_224", image_size=32, options=tower), "shared", 16).eval()
    assert spec_of(network)["init_args"]["text"] == "shared"
    again = build(json.loads(json.dumps(spec_of(network))), ImageTextModel).eval()
    again.load_state_dict(network.state_dict())
    pages, mask = torch.randint(0, 255, (3, 20, 32), dtype=torch.uint8), torch.ones(3, 20, dtype=torch.bool)
    rows = network.encode_text(pages, mask)
    assert rows.shape == (3, 16) and torch.equal(again.encode_text(pages, mask), rows)
    changed = pages.clone()
    changed[0, 12:] = 0
    assert not torch.allclose(network.encode_text(changed, mask)[0], rows[0])
    mask[0, 12:] = False  # what is not there is not read, whatever pads it
    alone = network.encode_text(pages[:1, :12], mask[:1, :12])
    for page in (pages, changed):
        torch.testing.assert_close(network.encode_text(page, mask)[:1], alone)
    assert not any(name.startswith("text.") for name in network.state_dict())


def test_a_text_tower_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"model\.text: got 'both', expected a text tower, or shared"):
        ImageTextModel(FeatureTower(6), "both", 16)


TRAINER = pl.Trainer(max_steps=5, logger=False, enable_checkpointing=False, accelerator="cpu")


class Brings:
    """What `check_needs` asks of a data module."""

    def __init__(self, *names: str) -> None:
        self.brings = {"": frozenset({"image", "texts", *names})}


class Heard(losses.Objective):
    needs = frozenset({"image", "audio"})


@pytest.mark.parametrize(
    ("objective", "brought", "says"),
    [
        (Heard(), (), "model.objectives.it: needs audio, the data bring image, texts"),
        (losses.ClipLoss(), ("audio",), "data.fields: no objective reads audio; the objectives read image, texts"),
        (Heard(), ("audio", "video"), "data.fields: no objective reads video; the objectives read audio, image"),
    ],
)
def test_needs_that_do_not_meet_are_one_line(objective: losses.Objective, brought: tuple[str, ...], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        check_needs({"": {"it": objective}}, Brings(*brought), TRAINER)


def test_needs_that_meet() -> None:
    check_needs({"": {"it": Heard()}}, Brings("audio"), TRAINER)
    every = {"all": losses.SymileLoss(), "itm": losses.ItmLoss(nn.Identity())}
    check_needs({"": every}, Brings("audio", "video"), TRAINER)
    assert ALL_FIELDS in losses.SymileLoss.needs


def test_labels_that_nobody_wrote_are_refused(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    objective = "{labels: {class_path: tests.mmtrain.test_seams.Labelled}}"
    assert fit(shards, tmp_path, "--trainer.max_steps=1", f"--model.objectives={objective}") == 1
    assert "model.objectives.labels: needs labels, the data bring image" in capsys.readouterr().err


class Labelled(losses.Objective):
    needs = frozenset({"image", "labels"})


# ---- optimiser and schedule


def test_an_optimiser_is_named_by_its_class(shards: Path, tmp_path: Path) -> None:
    optimizer = "{class_path: torch.optim.SGD, init_args: {momentum: 0.9}}"
    options = ["--trainer.max_steps=2", f"--model.optimizer={optimizer}", "--model.schedule=constant"]
    assert fit(shards, tmp_path, *options, "--model.warmup_steps=1", "--model.learning_rate=0.25") == 0
    state = read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["optimizer_states"][0]
    assert {group["momentum"] for group in state["param_groups"]} == {0.9}
    assert {group["base_lr"] for group in state["param_groups"]} == {0.25}
    assert column(tmp_path, "learning_rate") == [0.25]
    assert main(["fit", "--config", str(tmp_path / "config.yaml"), "--ckpt_path", "last"]) == 0  # it is complete


@pytest.mark.parametrize(
    ("optimizer", "code", "says"),
    [
        ("torch.optim.Sgd", 2, "--model.optimizer: got 'torch.optim.Sgd', expected"),
        ("{class_path: torch.optim.SGD, init_args: {nesterov: true}}", 1, "model.optimizer: cannot be made of"),
    ],
)
def test_an_optimiser_that_cannot_be_made_is_one_line(
    optimizer: str, code: int, says: str, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    capsys.readouterr()
    assert fit(shards, tmp_path, "--trainer.max_steps=1", f"--model.optimizer={optimizer}") == code
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert says in line


def test_cooldown_belongs_to_schedules_that_stay_up() -> None:
    towers = FeatureTower(6), ByteGRU(width=8)
    with pytest.raises(ValueError, match="model.cooldown_steps: got 5; cosine falls to 0 without"):
        ContrastiveModule(*towers, {"clip": losses.ClipLoss()}, cooldown_steps=5)


# ---- steps


class Moving(losses.Objective):
    """Counts its steps, and sees the batch and the model."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 0
        self.steps = 0
        self.weight = nn.Parameter(torch.ones(()))

    def connect(self, model: ImageTextModel) -> None:
        self.width = model.dimension

    def loss(self, batch: Batch, embeddings: losses.Embeddings, model: ImageTextModel) -> Tensor:
        assert model.dimension == self.width and len(batch) == len(embeddings.texts)
        return embeddings.texts.sum() * self.weight

    def after_step(self) -> None:
        self.steps += 1
        with torch.no_grad():
            self.weight.fill_(self.steps)

    def logged(self) -> dict[str, Tensor]:
        return {"steps": torch.tensor(float(self.steps))}


def test_an_objective_sees_batch_and_model_and_every_step(shards: Path, tmp_path: Path) -> None:
    objective = "{moving: {class_path: tests.mmtrain.test_seams.Moving}}"
    options = ["--trainer.max_steps=3", "--trainer.log_every_n_steps=1", f"--model.objectives={objective}"]
    assert fit(shards, tmp_path, *options) == 0
    assert column(tmp_path, "moving/steps") == [0, 1, 2]
    state = read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["state_dict"]
    assert state["objectives.moving.weight"] == 3


def test_a_checkpoints_temperature_is_that_of_the_first_objective_named(shards: Path, tmp_path: Path) -> None:
    """torch would give those of the file, in which objectives without parameters leave no trace."""
    objectives = (
        "{late: {class_path: losses.ClipLoss, init_args: {scale: 5.0, learnable: false}},"
        " early: {class_path: losses.OneToKLoss, init_args: {scale: 50.0, learnable: false}}}"
    )
    assert fit(shards, tmp_path, "--trainer.max_steps=1", f"--model.objectives={objectives}") == 0
    checkpoint = read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    turned = dict(reversed(list(checkpoint["state_dict"].items())))
    assert describe(checkpoint | {"state_dict": turned})["scale"] == pytest.approx(5.0)


# ---- old and newer files


def test_a_newer_description_is_refused() -> None:
    with pytest.raises(ValueError, match=f"x: its description has format {FORMAT + 1}, this version .* up to {FORMAT}"):
        upgraded({"format": FORMAT + 1}, "x")


def test_a_class_that_is_gone_is_one_line() -> None:
    spec = spec_of(model())
    spec["init_args"]["image"]["class_path"] = "mmtrain.towers.GoneTower"
    description = {"format": FORMAT, "model": spec, "languages": [], "similarity": "cosine"}
    with pytest.raises(ValueError, match="class_path: 'mmtrain.towers.GoneTower' cannot be imported here"):
        assemble(description, {}, source="old.ckpt")


def test_data_modules_of_another_kind_are_refused() -> None:
    module = ContrastiveModule(FeatureTower(6), ByteGRU(width=8), {"clip": losses.ClipLoss()})
    module._trainer = SimpleNamespace(datamodule=None, accumulate_grad_batches=1)
    with pytest.raises(ValueError, match="data: got NoneType, expected datamodules.ShardDataModule or its methods"):
        module.on_fit_start()
    module._trainer.datamodule = ShardDataModule()
    assert module.data is module._trainer.datamodule


def test_pictures_that_the_tower_cannot_read_end_before_the_first_step(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert fit(shards, tmp_path, "--data.images.init_args.size=48") == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "data.images.size" in last and "model.image.image_size" in last
    assert not (tmp_path / "checkpoints").exists()
