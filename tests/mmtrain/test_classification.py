"""The class of a picture: a head on its row, over all processes' labelled pictures."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from torch import Tensor
from torch.nn import functional

import losses
from mmtrain.cli import main
from mmtrain.models.image_text import ImageTextModel
from mmtrain.objectives import Classification
from mmtrain.towers import ByteGRU, FeatureTower
from tests.mmtrain.runs import column
from tests.mmtrain.small import arguments

D, CLASSES = 6, 3
LABELS = torch.tensor([0, 2, -1, 1, -1, -1, -1, -1])


def made() -> Classification:
    torch.manual_seed(0)
    objective = Classification("kind", CLASSES, smoothing=0.1)
    objective.connect(ImageTextModel(FeatureTower(4), ByteGRU(width=8), D))
    return objective


def whole() -> Tensor:
    return functional.normalize(torch.randn(len(LABELS), D, generator=torch.Generator().manual_seed(1)), dim=1)


def learned(rows: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Value and gradients of the rows and of the head."""
    objective, rows = made(), rows.clone().requires_grad_()
    loss = objective.loss(None, losses.Embeddings(rows, None, labels={"kind": labels}), None)
    return loss.detach(), *torch.autograd.grad(loss, [rows, objective.head.weight])


def test_the_mean_over_labelled_pictures() -> None:
    rows, head = whole(), made().head
    terms = [
        -sum((0.9 * (k == label) + 0.1 / CLASSES) * logs[k] for k in range(CLASSES))
        for row, label in zip(rows, LABELS, strict=True)
        if label >= 0
        for logs in [head(D**0.5 * row).log_softmax(0)]
    ]
    torch.testing.assert_close(learned(rows, LABELS)[0], (sum(terms) / 3).detach())
    nobody = learned(rows, torch.full_like(LABELS, -1))
    assert nobody[0] == 0 and not nobody[1].any()


def test_in_float64() -> None:
    objective, rows = made().double(), whole().double()
    loss = objective.loss(None, losses.Embeddings(rows, None, labels={"kind": LABELS}), None)
    assert loss.dtype == torch.float64
    torch.testing.assert_close(loss.float(), learned(whole(), LABELS)[0])


def work(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.save(learned(whole().chunk(2)[rank], LABELS.chunk(2)[rank]), Path(folder, f"{rank}.pt"))
    dist.destroy_process_group()


def test_two_processes_one_without_labels_equal_one(tmp_path: Path) -> None:
    multiprocessing.start_processes(work, (str(tmp_path),), nprocs=2, start_method="spawn")
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    value, rows, head = learned(whole(), LABELS)
    torch.testing.assert_close(torch.stack([first[0], second[0]]), value.expand(2))
    torch.testing.assert_close(torch.cat([first[1], second[1]]) / 2, rows)
    torch.testing.assert_close((first[2] + second[2]) / 2, head)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Classification("kind", 1), "classes: got 1, expected at least 2"),
        (lambda: Classification("kind", 2, smoothing=1.0), "smoothing: got 1.0, expected 0 to below 1"),
        (
            lambda: made().prepare(SimpleNamespace(classes={"other": 3})),
            "Classification.task: got kind, the samples are labelled with other",
        ),
        (
            lambda: made().prepare(SimpleNamespace(classes={"kind": 4})),
            "Classification.classes: got 3, kind has a label of class 3",
        ),
    ],
)
def test_what_is_wrong_is_said(make, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()


@pytest.fixture(scope="module")
def posts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("posts")
    assert (
        main(["pack", "numbers", "--posts", "--split", "val", "--out", str(folder / "shards"), "--workers", "1"]) == 0
    )
    return folder / "shards"


def test_a_tower_trains_on_classes_alone(posts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def objectives(task: str, classes: int = 4) -> str:
        own = {"class_path": "mmtrain.objectives.Classification", "init_args": {"task": task, "classes": classes}}
        return f"--model.objectives={json.dumps({'classes': own})}"

    options = [each for each in arguments(posts, tmp_path) if not each.startswith("--data.val")]
    options += ["--trainer.max_steps=4", "--trainer.limit_val_batches=0"]
    assert main([*options, objectives("relation")]) == 0
    assert min(column(tmp_path, "train/classes")) > 0
    assert main([*options, objectives("colour")]) != 0
    assert (
        "Classification.task: got colour, the samples are labelled with adds, relation, represented"
        in capsys.readouterr().err
    )
    assert main([*options, objectives("relation", 2)]) != 0
    said = capsys.readouterr()
    assert "Classification.classes: got 2, relation has a label of class 3" in said.err and "train: " not in said.out
