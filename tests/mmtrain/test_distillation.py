"""A frozen MODEL beside the one that is trained: as a teacher of either tower, and as a guide of InfoNCE."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from torch import Tensor
from torch.nn import functional

import losses
import mmtrain
from datamodules import ByteTokenizer
from datamodules.batch import Batch, Field
from mmtrain.cli import main
from mmtrain.models.image_text import ImageTextModel
from mmtrain.objectives import Distillation, Teacher
from mmtrain.towers import ByteGRU, FeatureTower
from tests.mmtrain.batches import made_batch
from tests.mmtrain.encoders import saved
from tests.mmtrain.runs import log, weights
from tests.mmtrain.small import arguments, fit

B, K, D = 5, 3, 24
WORDS = [[f"caption {row} {slot}" for slot in range(K)] for row in range(B)]


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model of features [7] and bytes in rows of 24."""
    return saved(tmp_path_factory.mktemp("teacher") / "model", ByteGRU(width=8), ByteTokenizer(), FeatureTower(7))


@pytest.fixture(scope="module")
def pixels(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model that sees pictures of 160 pixels."""
    return saved(tmp_path_factory.mktemp("teacher") / "model", ByteGRU(width=8), ByteTokenizer())


def batch_of(images: Tensor) -> Batch:
    batch = made_batch(images, K)
    batch.present[1, 0] = batch.present[2] = False
    return replace(batch, captions=WORDS, languages=batch.languages.where(batch.present, -1))


def students(batch: Batch, images: bool = True) -> losses.Embeddings:
    torch.manual_seed(1)
    image = functional.normalize(torch.randn(B, D), dim=1).requires_grad_()
    texts = functional.normalize(torch.randn(B, K, D), dim=2).requires_grad_()
    return losses.Embeddings(image, texts, batch.present)


def test_each_caption_learns_its_own_row(features: str) -> None:
    batch = batch_of(torch.randn(B, 7))
    embeddings, rows = students(batch), mmtrain.load(features).encode_text(sum(WORDS, []))
    there = batch.present
    right = losses.distillation_loss(embeddings.texts[there], torch.from_numpy(rows).view(B, K, D)[there])
    loss = Distillation(features).loss(batch, embeddings, None)
    torch.testing.assert_close(loss, right)
    loss.backward()
    assert embeddings.texts.grad.any(2).equal(there) and embeddings.image.grad is None


def test_captions_learn_the_row_of_the_one_in_the_teachers_language(features: str) -> None:
    batch = batch_of(torch.randn(B, 7))
    objective = Distillation(features, language="en", kind="mse")
    objective.prepare(SimpleNamespace(languages=["en", "lv", "de"]))
    embeddings, rows = students(batch), mmtrain.load(features).encode_text([row[0] for row in WORDS])
    alone = [
        ((embeddings.texts[i, k] - torch.from_numpy(rows[i])) ** 2).sum()
        for i in range(B)
        for k in range(K)
        if batch.present[i, k] and batch.present[i, 0]
    ]
    assert len(alone) == 9
    torch.testing.assert_close(objective.loss(batch, embeddings, None), torch.stack(alone).mean())
    with pytest.raises(ValueError, match="teacher: language: got en; the data have lv, de"):
        objective.prepare(SimpleNamespace(languages=["lv", "de"]))


def test_pictures_learn_what_another_size_shows(pixels: str) -> None:
    images = torch.full((B, 3, 32, 32), 9, dtype=torch.uint8)
    images[1:3] = 200
    batch, right = batch_of(images), mmtrain.load(pixels).encode_image(np.full((1, 160, 160, 3), 9, np.uint8))
    rows = Teacher(pixels)(batch, "image").rows
    assert rows.shape == (B, 1, D)
    np.testing.assert_allclose(rows[0], right, atol=1e-5)
    assert not torch.allclose(rows[0], rows[1], atol=1e-3)
    loss = Distillation(pixels, student="image", kind="similarities").loss(batch, embeddings := students(batch), None)
    torch.testing.assert_close(loss, losses.distillation_loss(embeddings.image, rows[:, 0], "similarities"))


def test_cached_rows_teach_without_a_model() -> None:
    batch = batch_of(torch.randn(B, 7))
    values, present = torch.randn(B, 1, D), torch.tensor([[True], [False], [True], [True], [True]])
    batch.fields["taught"] = Field("features", values, present)
    objective = Distillation(rows="taught", student="image")
    assert objective.needs == {"image", "taught"} and objective.unencoded == {"taught"}
    assert losses.MatryoshkaLoss(objective, [8]).unencoded == {"taught"}
    embeddings = students(batch)
    right = losses.distillation_loss(embeddings.image[present[:, 0]], values[present])
    torch.testing.assert_close(objective.loss(batch, embeddings, None), right)


def test_texts_of_fields_are_read_as_they_are_written(features: str) -> None:
    batch = batch_of(torch.randn(B, 7))
    present = torch.ones(B, 2, dtype=torch.bool)
    present[3, 1] = False
    written = [row[:2] for row in WORDS]
    batch.fields["negatives"] = Field(
        "text", torch.zeros(B, 2, 4), present, languages=0 * present.long(), texts=written
    )
    found = Teacher(features)(batch, "negatives")
    rows = torch.from_numpy(mmtrain.load(features).encode_text(sum(written, []))).view(B, 2, D)
    torch.testing.assert_close(found.rows, rows * present[:, :, None], atol=1e-5, rtol=0)


def test_a_guide_is_a_teacher(features: str) -> None:
    batch, teacher = batch_of(torch.randn(B, 7)), Teacher(features)
    batch = replace(batch, present=torch.ones(B, K, dtype=torch.bool), languages=batch.languages.clamp(min=0))
    objective = losses.InfoNceLoss("image", "texts", guide=teacher, guide_margin=0.1)
    embeddings = students(batch)
    guide = losses.GuideRows(teacher(batch, "image").rows[:, 0], teacher(batch, "texts").rows[:, 0], margin=0.1)
    right = losses.info_nce_loss(embeddings.image, embeddings.texts[:, 0], 1 / 0.07, guide=guide)
    torch.testing.assert_close(objective.loss(batch, embeddings, None), right)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda _: Distillation("nowhere"), "teacher: MODEL: nowhere is no run folder"),
        (lambda _: Distillation(), "teacher, rows: got None and None, expected one of them"),
        (lambda _: Distillation(rows="taught", language="en"), "language: got en of taught"),
        (lambda model: Distillation(model, kind="kl"), "kind: got 'kl'"),
        (
            lambda model: Distillation(model).connect(ImageTextModel(FeatureTower(4), ByteGRU(width=8), 16)),
            "are 24 wide, the space is 16; set model.dimension to 24, or kind to similarities",
        ),
        (lambda model: Teacher(model)(batch_of(torch.zeros(B, 3, 8, 8).byte()), "image"), "reads features, and image"),
        (
            lambda model: Teacher(model)(batch_of(torch.zeros(B, 7)), "audio"),
            "is to read audio, of which the batch has",
        ),
    ],
)
def test_what_is_wrong_is_said(make, message: str, features: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(features)


def options(teacher: str, **more: object) -> list[str]:
    learned = {
        "class_path": "mmtrain.objectives.Distillation",
        "init_args": {"teacher": teacher, "language": "en"} | more,
    }
    guided = {
        "class_path": "losses.InfoNceLoss",
        "init_args": {"queries": "image", "targets": "texts", "guide": {"class_path": "mmtrain.objectives.Teacher"}},
    }
    guided["init_args"]["guide"]["init_args"] = {"model": teacher}
    return [
        f"--model.objectives={json.dumps({'learned': learned, 'guided': guided})}",
        "--model.dimension=24",
        "--data.languages=[en,lv]",
        "--trainer.max_steps=4",
        "--checkpoint.every_n_steps=2",
    ]


def test_a_run_keeps_nothing_of_its_teacher_and_goes_on(pixels: str, shards: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert fit(shards, whole, *options(pixels)) == 0
    assert float(log(whole)[0]["train/learned"]) > 0
    state = weights(whole)
    assert [name for name in state if name.startswith("objectives.")] == ["objectives.guided.log_scale"]
    assert fit(shards, parts, *options(pixels), "--trainer.max_steps=2") == 0
    assert fit(shards, parts, *options(pixels), "--ckpt_path=last") == 0
    assert all(torch.equal(each, weights(parts)[name]) for name, each in state.items())


def test_a_bad_teacher_is_one_line(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit(shards, tmp_path, *options("nowhere")) != 0
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and "teacher: MODEL: nowhere is no run folder" in lines[0]


def whole_batch() -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(3)
    rows = torch.randn(8, 2, D, generator=random, dtype=torch.float64)
    values = torch.randn(8, 2, D, generator=random)
    present = torch.tensor([[1, 1], [0, 1], [1, 0], [1, 1], [0, 0], [0, 0], [0, 0], [0, 0]]).bool()
    return functional.normalize(rows, dim=-1), values, present


def distilled(rows: Tensor, values: Tensor, present: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """By kind the value and the gradient of the rows."""
    batch = made_batch(torch.zeros(len(rows), 3), 2)
    batch.fields["taught"] = Field("features", values, torch.ones_like(present))
    found = {}
    for kind in ("cosine", "mse", "similarities"):
        leaf = rows.clone().requires_grad_()
        loss = Distillation(rows="taught", kind=kind).loss(batch, losses.Embeddings(None, leaf, present), None)
        found[kind] = loss.detach(), torch.autograd.grad(loss, leaf)[0]
    return found


def work(rank: int, folder: str, size: int) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size)
    torch.save(distilled(*(each.chunk(size)[rank] for each in whole_batch())), Path(folder, f"{rank}.pt"))
    dist.destroy_process_group()


def test_two_processes_with_different_numbers_of_captions_equal_one(tmp_path: Path) -> None:
    multiprocessing.start_processes(work, (str(tmp_path), 2), nprocs=2, start_method="spawn")
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for kind, (value, gradient) in distilled(*whole_batch()).items():
        torch.testing.assert_close(first[kind][0], value)
        torch.testing.assert_close(second[kind][0], value)
        torch.testing.assert_close(torch.cat([first[kind][1], second[kind][1]]) / 2, gradient)


def test_pairs_of_texts_with_scores_a_guide_and_a_teacher(features: str, shards: Path, tmp_path: Path) -> None:
    lines = [
        {
            "query": {"en": f"word {n}"},
            "positive": {"lv": f"vārds {n}"},
            "negatives": {"lv": [f"cits {n}", "cits"]},
            "score": n / 8,
            "scores": [2.0, 1.0, n / 8],
        }
        for n in range(16)
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    assert main(["pack", "pairs", str(tmp_path / "pairs.jsonl"), "--out", str(tmp_path / "pairs")]) == 0
    guide = {"class_path": "mmtrain.objectives.Teacher", "init_args": {"model": features}}
    own = {"teacher": features, "student": "positive", "reads": "query"}
    objectives = {
        "pairs": {"class_path": "losses.InfoNceLoss", "init_args": {"negatives": "negatives", "guide": guide}},
        "graded": {"class_path": "losses.CosentLoss"},
        "listed": {"class_path": "losses.ListDistillationLoss"},
        "learned": {"class_path": "mmtrain.objectives.Distillation", "init_args": own},
    }
    parts = {
        "pictures": {"train": str(shards), "batch_size": 4},
        "pairs": {"train": str(tmp_path / "pairs"), "batch_size": 8, "negatives": 2},
    }
    objectives["clip"] = {"class_path": "losses.ClipLoss"}
    given = ("--data.train=", "--data.batch_size")
    options = [each for each in arguments(shards, tmp_path / "run") if not each.startswith(given)]
    options += [f"--data.parts={json.dumps(parts)}", f"--model.objectives={json.dumps(objectives)}"]
    options += ["--model.dimension=24", "--trainer.max_steps=2", "--trainer.log_every_n_steps=1"]
    assert main(options) == 0
    (first, *_) = log(tmp_path / "run")
    assert all(float(first[f"train/{name}"]) > 0 for name in objectives)
