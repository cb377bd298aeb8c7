"""Objectives that learn from an average of the image tower: of crops, and of hidden patches."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import losses
import mmtrain
from datamodules.batch import Batch, Field
from mmtrain.cli import main
from mmtrain.models.image_text import ImageTextModel
from mmtrain.objectives import MaskedPatches, SelfDistillation
from mmtrain.objectives.average import CENTRE_MOMENTUM
from mmtrain.towers import ByteGRU, FeatureTower, ImageTower, TimmTower
from tests.mmtrain.batches import made_batch
from tests.mmtrain.runs import column, weights
from tests.mmtrain.small import ENVIRONMENT, arguments, fit

B, K = 4, 16
VIT = {"patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2, "dynamic_img_size": True}
SIZES = {"prototypes": K, "hidden": 8}


def model_of(tower: ImageTower | None = None) -> ImageTextModel:
    torch.manual_seed(0)
    tower = tower or TimmTower("vit_tiny_patch16_224", image_size=32, options=VIT)
    return ImageTextModel(tower, ByteGRU(width=8), 16)


def batch_of(views: int = 1, crops: int = 3, size: int = 16) -> Batch:
    random = torch.Generator().manual_seed(1)

    def pictures(count: int, side: int) -> Field:
        values = torch.randint(0, 256, (B, count, 3, side, side), generator=random, dtype=torch.uint8)
        return Field("image", values, torch.ones(B, count, dtype=torch.bool))

    batch = made_batch(pictures(1, 32).values[:, 0])
    batch.fields |= {"global": pictures(views, 32), "local": pictures(crops, size)}
    return batch


def connected(objective: SelfDistillation | MaskedPatches, model: ImageTextModel) -> SelfDistillation | MaskedPatches:
    objective.connect(model)
    torch.nn.init.normal_(objective.centre)
    return objective


@pytest.mark.parametrize("views", [1, 2])
def test_the_student_learns_of_other_views_what_the_teacher_says(views: int) -> None:
    model, batch = model_of(), batch_of(views)
    objective = connected(SelfDistillation(**SIZES), model)
    with torch.no_grad():  # teacher and student differ
        for parameter in objective.average.tower.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))

    def said(tower: ImageTower, field: str) -> torch.Tensor:
        return torch.stack([objective.head(tower(each)[0]) for each in batch.fields[field].values.unbind(1)])

    student = torch.cat([said(model.image, "global"), said(model.image, "local")])
    right = losses.self_distillation_loss(student, said(objective.average.tower, "global"), objective.centre)
    found = objective.loss(batch, None, model)
    torch.testing.assert_close(found, right)
    found.backward()
    assert (
        objective.head.prototypes.grad.abs().sum() > 0 and model.image.network.patch_embed.proj.weight.grad is not None
    )
    assert all(parameter.grad is None for parameter in objective.average.parameters())


def test_hidden_patches_learn_what_the_teacher_sees_of_them() -> None:
    model, batch = model_of(), batch_of(2)
    objective = connected(MaskedPatches(**SIZES), model)
    pixels = batch.fields["global"].values.transpose(0, 1).flatten(0, 1)
    mask = objective._mask(B, 2, 16)
    assert mask.sum(1).tolist() == [8] * (2 * B) and len(mask.unique(dim=0)) == 2 * B
    seen = model.image.masked(pixels, mask, objective.token)[1][:, 1:]
    whole = objective.average.tower(pixels)[1][:, 1:]
    wanted = ((objective.head(whole)[mask] - objective.centre) / 0.04).softmax(1)
    right = -(wanted * (objective.head(seen)[mask] / 0.1).log_softmax(1)).sum(1).mean()
    found = objective.loss(batch, None, model)
    torch.testing.assert_close(found, right)
    found.backward()
    assert objective.token.grad.abs().sum() > 0


@pytest.mark.parametrize("options", [VIT, VIT | {"dynamic_img_size": False}, VIT | {"reg_tokens": 2}])
def test_a_masked_patch_is_not_seen(options: dict) -> None:
    tower = TimmTower("vit_tiny_patch16_224", image_size=32, options=options).eval()
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    others, mask, token = images.clone(), torch.zeros(2, 16, dtype=torch.bool), torch.randn(32)
    others[0, :, :8, 8:16] = 255 - others[0, :, :8, 8:16]  # patch 1
    mask[0, 1] = True
    with torch.no_grad():
        assert torch.equal(tower.masked(images, mask, token)[1], tower.masked(others, mask, token)[1])
        assert not torch.equal(tower(images)[1], tower(others)[1])
        assert torch.equal(tower.masked(images, mask, token)[1][1], tower(images)[1][1])
    assert tower(images)[1].shape[1] == tower.prefix_tokens + 16


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vit_base_patch16_siglip_256", {"patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2}),
        ("eva02_tiny_patch14_224", {"patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2}),
        ("beit_base_patch16_224", {"patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2}),
        ("deit_tiny_distilled_patch16_224", {"patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2}),
    ],
)
def test_patches_of_any_vision_transformer_can_be_hidden(name: str, options: dict) -> None:
    objective = MaskedPatches(**SIZES)
    model = model_of(TimmTower(name, image_size=32, options=options))
    objective.connect(model)
    objective.loss(batch_of(), None, model).backward()
    assert objective.token.grad.abs().sum() > 0


def test_both_have_one_teacher_that_moves_once() -> None:
    model, batch = model_of(), batch_of()
    first, second = (connected(kind(**SIZES, momentum=0.75), model) for kind in (SelfDistillation, MaskedPatches))
    assert second.teacher is first.average and not any("average" in name for name in second.state_dict())
    before, centre = copy.deepcopy(first.state_dict()), first.centre.clone()
    first.loss(batch, None, model)
    said = first.teacher_head(first.average(batch, "global")[0]).mean((0, 1))
    with torch.no_grad():
        for parameter in (*model.parameters(), *first.head.parameters()):
            parameter.add_(1)
    for objective in (first, second):
        objective.after_step()
    for name, parameter in first.average.tower.named_parameters():
        torch.testing.assert_close(parameter, before[f"average.tower.{name}"] + 0.25)
    for name, parameter in first.teacher_head.named_parameters():
        torch.testing.assert_close(parameter, before[f"teacher_head.{name}"] + 0.25)
    torch.testing.assert_close(first.centre, CENTRE_MOMENTUM * centre + (1 - CENTRE_MOMENTUM) * said)


def test_at_its_start_the_teacher_is_the_student_and_the_head_is_new() -> None:
    model, batch = model_of(), batch_of()
    objective = SelfDistillation(**SIZES, start=2)
    objective.connect(model)
    made = copy.deepcopy(objective.head.state_dict())
    for step in range(4):
        loss = objective.loss(batch, None, model)
        assert (loss > 0) == (step >= 2)
        loss.backward()
        with torch.no_grad():
            for parameter in (*model.image.parameters(), *objective.head.parameters()):
                parameter.mul_(0.5)
        objective.after_step()
        if step == 1:
            assert all(torch.equal(each, made[name]) for name, each in objective.head.state_dict().items())
            teacher = objective.average.tower.state_dict()
            assert all(torch.equal(each, teacher[name]) for name, each in model.image.state_dict().items())


def test_parts_have_the_gradients_of_the_whole() -> None:
    found = []
    for size in (None, 3):
        model, batch = model_of(), batch_of(2)
        objectives = [connected(kind(**SIZES), model) for kind in (SelfDistillation, MaskedPatches)]
        model.micro_batch = size
        torch.stack([objective.loss(batch, None, model) for objective in objectives]).sum().backward()
        found.append([each.grad for each in (model.image.network.patch_embed.proj.weight, objectives[1].token)])
    for whole, parts in zip(*found, strict=True):
        torch.testing.assert_close(parts, whole, atol=1e-6, rtol=1e-4)


def objectives_of(**options: object) -> str:
    own = {"init_args": SIZES | options}
    return json.dumps(
        {
            "contrast": {"class_path": "losses.ClipLoss"},
            "crops": {"class_path": "mmtrain.objectives.SelfDistillation", **own},
            "patches": {"class_path": "mmtrain.objectives.MaskedPatches", **own},
        }
    )


def crops(size: int = 16) -> str:
    fields = {"global": (1, 32, [0.4, 1.0]), "local": (2, size, [0.1, 0.4])}
    pipeline = "datamodules.ImagePipeline"
    return json.dumps(
        {
            name: {
                "class_path": "datamodules.Crops",
                "init_args": {
                    "count": count,
                    "images": {"class_path": pipeline, "init_args": {"size": side, "scale": scale}},
                },
            }
            for name, (count, side, scale) in fields.items()
        }
    )


OPTIONS = [
    f"--model.image.options={json.dumps(VIT)}",
    f"--data.fields={crops()}",
    "--data.images.augment=false",
    "--trainer.max_steps=6",
    "--trainer.log_every_n_steps=1",
    "--checkpoint.every_n_steps=3",
]


def test_a_resumed_run_is_the_undisturbed_one_and_exports_have_no_teacher(shards: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    options = [*OPTIONS, f"--model.objectives={objectives_of(start=1, momentum=0.9)}"]
    assert fit(shards, whole, *options) == 0
    assert [loss > 0 for loss in column(whole, "train/crops")] == [False, *[True] * 5]
    assert fit(shards, parts, *options, "--trainer.max_steps=3") == 0
    assert fit(shards, parts, *options, "--ckpt_path=last") == 0
    state = weights(whole)
    assert all(torch.equal(each, weights(parts)[name]) for name, each in state.items())
    assert [name.split(".")[1] for name in state if "average.tower.mean" in name] == ["crops"]
    assert state["objectives.crops.step"] == 6
    assert main(["export", str(whole), "--out", str(tmp_path / "export"), "--format", "safetensors"]) == 0
    names = mmtrain.load(tmp_path / "export").model.state_dict()
    assert list(names) == [name.removeprefix("model.") for name in state if name.startswith("model.")]


@pytest.mark.system
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_processes_train_what_one_does(shards: Path, tmp_path: Path, strategy: str) -> None:
    options = [*OPTIONS, f"--model.objectives={objectives_of(start=1, momentum=0.5)}", "--trainer.max_steps=3"]
    two = [*options, "--data.batch_size=4", "--trainer.devices=2", f"--trainer.strategy={strategy}"]
    assert fit(shards, tmp_path / "one", *options) == 0
    command = [sys.executable, "-m", "mmtrain.cli", *arguments(shards, tmp_path / "two", *two)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr[-3000:]
    one, both = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name, tensor in one.items():
        torch.testing.assert_close(both[name], tensor, rtol=1e-4, atol=2e-5, msg=name)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: SelfDistillation(momentum=1.5), "momentum: got 1.5, expected 0 to 1"),
        (lambda: SelfDistillation(start=-1), "start: got -1, expected at least 0"),
        (lambda: MaskedPatches(prototypes=0), "prototypes: got 0, expected at least 1"),
        (lambda: MaskedPatches(temperatures=(0.1, 0.0)), "temperatures: got"),
        (
            lambda: MaskedPatches(**SIZES).connect(model_of(TimmTower("resnet10t"))),
            "resnet10t has no patches; expected a vision",
        ),
        (lambda: MaskedPatches(**SIZES).connect(model_of(FeatureTower(4))), "FeatureTower has no patches"),
        (lambda: SelfDistillation(**SIZES).connect(ImageTextModel(None, ByteGRU(width=8), 4)), "reads no pictures"),
        (
            lambda: [
                kind(**SIZES, momentum=m).connect(one)
                for one in [model_of()]
                for kind, m in ((SelfDistillation, 0.9), (MaskedPatches, 0.5))
            ],
            "momentum: got 0.5 beside 0.9; objectives share one teacher",
        ),
        (lambda: learnt(batch_of(size=48)), "data.fields.local: crops of 48 pixels, larger than the picture's 32"),
        (lambda: learnt(made_batch(torch.zeros(B, 3, 32, 32).byte())), "no pictures called global; datamodules.Crops"),
        (
            lambda: learnt(batch_of(), MaskedPatches(**SIZES), patch_drop_rate=0.5),
            "the student has 8 patches, the teacher 16; expected no patch_drop_rate",
        ),
    ],
)
def test_what_is_wrong_is_said(make, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()


def learnt(batch: Batch, objective: SelfDistillation | MaskedPatches | None = None, **options: object) -> None:
    objective = objective or SelfDistillation(**SIZES)
    model = model_of(TimmTower("vit_tiny_patch16_224", image_size=32, options=VIT | options))
    objective.connect(model)
    objective.loss(batch, None, model)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            [f"--data.fields={crops()}", f"--model.objectives={objectives_of(start=6)}"],
            "model.objectives.crops.start: got 6, expected less than the 6 of trainer.max_steps",
        ),
        (
            [f"--data.fields={crops(48)}", f"--model.objectives={objectives_of()}"],
            "data.fields.local: crops of 48 pixels, larger than the picture's 32",
        ),
        (
            [
                f"--data.fields={crops()}",
                f"--model.objectives={objectives_of()}",
                "--model.image.options.dynamic_img_size=false",
            ],
            "cannot read pictures of 16 pixels (Input height (16) doesn't match model (32)); set it",
        ),
    ],
)
def test_a_run_that_cannot_be_is_one_line(
    options: list[str], says: str, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit(shards, tmp_path, *OPTIONS, *options) != 0
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert says in line
