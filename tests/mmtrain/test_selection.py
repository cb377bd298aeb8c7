"""Active selection: what is drawn of a batch, and runs that train a part of each."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, multiprocessing
from torch.nn import functional

from datamodules.batch import Batch, Field
from losses.engine.captions import shared_ids
from mmtrain.training.selection import drawn, pair_losses
from tests.mmtrain.runs import column, weights, with_callback
from tests.mmtrain.small import ENVIRONMENT, ROOT, arguments, fit


def unit(*shape: int) -> Tensor:
    return functional.normalize(torch.randn(*shape), dim=-1)


def same(images: list[int], captions: list[list[int]]) -> Tensor:
    return shared_ids(torch.tensor(images), torch.tensor(captions), None)


def test_the_losses_of_pairs_are_those_of_every_pair_by_itself() -> None:
    """Samples 0 and 2 show one picture, 1 and 3 share a caption."""
    torch.manual_seed(0)
    image, texts = unit(5, 7), unit(5, 7)
    own, pairs = pair_losses(image, texts, 4.0, -2.0, same([0, 1, 0, 3, 4], [[5, -1], [6, 7], [8, -1], [9, 6], [2, 1]]))
    for i in range(5):
        assert own[i] == pytest.approx(-functional.logsigmoid(4 * image[i] @ texts[i] - 2).item(), rel=1e-5)
        for j in range(5):
            lost = -sum(functional.logsigmoid(2 - 4 * image[a] @ texts[b]) for a, b in ((i, j), (j, i)))
            alike = i == j or {i, j} in ({0, 2}, {1, 3})
            assert pairs[i, j] == pytest.approx(0 if alike else float(lost), rel=1e-5)


def test_without_a_bias_the_sigmoid_of_equal_pairs_is_their_softmax() -> None:
    """All cosines alike: softmax among S gives a wrong pair 1 / S, the sigmoid about as much."""
    rows = functional.normalize(torch.ones(9, 4), dim=1)
    own, pairs = pair_losses(rows, rows, 50.0, None, torch.eye(9, dtype=torch.bool))
    assert pairs[0, 1].item() == pytest.approx(2 * -torch.log(torch.tensor(8 / 9)).item(), rel=1e-4)
    assert own[0].item() == pytest.approx(-torch.log(torch.tensor(1 / 9)).item(), rel=1e-4)


def test_samples_are_drawn_once_each_and_in_proportion() -> None:
    torch.manual_seed(0)
    zeros, own = torch.zeros(3, 3), torch.tensor([0.5, 0.3, 0.2]).log()
    counts = torch.zeros(3)
    for _ in range(4000):
        counts[drawn(own, zeros, 1, 1)] += 1
    assert (counts / 4000).tolist() == pytest.approx([0.5, 0.3, 0.2], abs=0.03)
    for chunks in (1, 3, 16):
        kept = drawn(torch.randn(20), torch.randn(20, 20), 10, chunks)
        assert len(set(kept.tolist())) == 10 and kept.tolist() == sorted(kept.tolist())


def test_later_chunks_look_at_what_is_drawn_already() -> None:
    """Samples 0 and 3 score high together; by themselves all are alike, but for the first."""
    own, pairs = torch.tensor([100.0, 0, 0, 0]), torch.zeros(4, 4)
    pairs[0, 3] = pairs[3, 0] = 100
    assert drawn(own, pairs, 2, 2).tolist() == [0, 3]


def test_taken_samples_keep_their_views_and_fields() -> None:
    rows = torch.arange(6)
    field = Field("text", rows[:, None, None], rows[:, None] > -1, texts=[[f"t{n}"] for n in range(6)])
    slots = rows[:, None]
    lists = [f"s{n // 2}" for n in range(6)], [[f"c{n}"] for n in range(6)]
    tensors = slots.float(), slots[:, :, None], slots[:, :, None] >= 0, slots >= 0, slots, rows, slots, rows, rows
    batch = Batch(*tensors, *lists, labels={"task": rows}, fields={"further": field}, views=2, end=6)
    taken = batch.take(torch.tensor([0, 2]))
    kept = [0, 1, 4, 5]
    assert (
        taken.rows.tolist()
        == taken.labels["task"].tolist()
        == taken.fields["further"].values.flatten().tolist()
        == kept
    )
    assert taken.ids == ["s0", "s0", "s2", "s2"] and taken.captions == [[f"c{n}"] for n in kept]
    assert taken.fields["further"].texts == [[f"t{n}"] for n in kept] and taken.samples == 2 and taken.end == 6


@pytest.fixture(scope="module")
def reference(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("reference")
    assert fit(shards, run, "--trainer.max_steps=4") == 0
    return run


def selection(of: Path, **options: Any) -> str:
    given = {"reference": str(of), "chunks": 2} | options
    return f"--model.selection={json.dumps({'class_path': 'mmtrain.training.ActiveSelection', 'init_args': given})}"


@pytest.mark.parametrize("score", ["learnability", "easy-reference"])
def test_a_resumed_run_keeps_what_the_undisturbed_one_keeps(
    shards: Path, reference: Path, tmp_path: Path, score: str
) -> None:
    options = [selection(reference, score=score), "--trainer.max_steps=6", "--data.views_per_image=2"]
    assert fit(shards, tmp_path / "whole", *options) == 0
    assert fit(shards, tmp_path / "halves", *options, with_callback("StopAfter", steps=3)) == 0
    assert fit(shards, tmp_path / "halves", *options, "--ckpt_path=last") == 0
    whole, halves = weights(tmp_path / "whole"), weights(tmp_path / "halves")
    assert all(torch.equal(tensor, halves[name]) for name, tensor in whole.items())
    assert column(tmp_path / "whole", "selection/forward_passes")[-1] == (4 if score == "learnability" else 2)
    assert all(0 < share < 1 for share in column(tmp_path / "whole", "selection/time_share"))
    assert column(tmp_path / "whole", "selection/gain")[0] > 0
    checkpoint = torch.load(tmp_path / "whole" / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["samples_seen"] == 48
    assert fit(shards, tmp_path / "all", *options[1:]) == 0
    assert any(not torch.equal(tensor, whole[name]) for name, tensor in weights(tmp_path / "all").items())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"filter_share": 1.0}, "model.selection.filter_share: got 1.0, expected at least 0 and below 1"),
        ({"score": "hard"}, "model.selection.score: got 'hard'"),
        ({"chunks": 0}, "model.selection.chunks: got 0, expected at least 1"),
        ({"reference": "nowhere"}, "model.selection.reference: "),
    ],
)
def test_what_cannot_be_used_is_one_line(
    shards: Path, reference: Path, tmp_path: Path, options: dict, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit(shards, tmp_path, selection(reference, **options)) != 0
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--model.objectives={pivot: {class_path: losses.PivotRankingLoss}}"], "no objective has a temperature"),
        (["--model.missing=[text]"], "expected samples with both, and no model.missing"),
    ],
)
def test_what_it_cannot_judge_by_is_one_line(
    shards: Path, reference: Path, tmp_path: Path, options: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit(shards, tmp_path, selection(reference), *options) != 0
    assert says in (said := capsys.readouterr().err) and "model.selection: " in said


def pairs_of(rank: int = 0, size: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """l_ii, l_ij + l_ji without a bias, and what is drawn where the first of each half goes with the last of all."""
    torch.manual_seed(0)
    group = dist.group.WORLD if size > 1 else None
    image, texts = (unit(6, 7).chunk(size)[rank] for _ in range(2))
    own_ids = torch.tensor([0, 1, 2, 0, 4, 5]).chunk(size)[rank], torch.arange(6)[:, None].chunk(size)[rank]
    own, pairs = pair_losses(image, texts, 5.0, None, shared_ids(*own_ids, group), group)
    scores, together = torch.tensor([100.0, 0, 0, 100, 0, 0]), torch.zeros(6, 6)
    together[1, 3] = together[5, 0] = 100.0  # what the other half drew first
    return own, pairs, drawn(scores.chunk(size)[rank], together.chunk(size)[rank], 4 // size, 2, group)


def work(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.save(pairs_of(rank, 2), Path(folder, f"{rank}.pt"))
    dist.destroy_process_group()


@pytest.mark.system
def test_two_processes_score_and_draw_together(tmp_path: Path) -> None:
    multiprocessing.start_processes(work, (str(tmp_path),), nprocs=2, start_method="spawn")
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    own, pairs, kept = pairs_of()
    torch.testing.assert_close(torch.cat([first[0], second[0]]), own)
    torch.testing.assert_close(torch.cat([first[1], second[1]]), pairs)
    assert first[2].tolist() == [0, 1] and second[2].tolist() == [0, 2] and kept.tolist() == [0, 1, 3, 5]


@pytest.mark.system
def test_two_processes_resume_as_one_does(shards: Path, reference: Path, tmp_path: Path) -> None:
    options = [selection(reference), "--data.batch_size=4", "--trainer.devices=2", "--trainer.strategy=ddp"]
    options += ["--trainer.max_steps=4"]
    for run, further in (
        ("whole", []),
        ("halves", [with_callback("StopAfter", steps=2)]),
        ("halves", ["--ckpt_path=last"]),
    ):
        command = [sys.executable, "-m", "mmtrain.cli", *arguments(shards, tmp_path / run, *options, *further)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=ENVIRONMENT, cwd=ROOT)
        assert done.returncode == 0, done.stderr[-2000:]
    whole, halves = weights(tmp_path / "whole"), weights(tmp_path / "halves")
    assert all(torch.equal(tensor, halves[name]) for name, tensor in whole.items())
