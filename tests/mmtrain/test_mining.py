"""Hard negatives mined from a whole split, and samples that join a batch because they are near."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmtrain import RelationModule
from mmtrain.cli import main
from mmtrain.embedding.collected import Embedded
from mmtrain.evaluation.ranking.tiles import Similarity
from mmtrain.fusion import CrossAttentionFusion
from mmtrain.search.mining import nearest_wrong
from mmtrain.training.mining import near_samples
from tests.mmtrain.runs import column, weights, with_callback
from tests.mmtrain.small import ENVIRONMENT, arguments, fit


def rows(count: int, seed: int) -> np.ndarray:
    drawn = np.random.default_rng(seed).normal(size=(count, 8)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def by_brute_force(queries: np.ndarray, items: np.ndarray, m: int, right: np.ndarray, similarity: str) -> list[Any]:
    if similarity == "cosine":
        scores = queries @ items.T
    else:  # a caption looks for pictures
        scores = -np.square(np.maximum(0, np.abs(queries)[:, None] - np.abs(items)[None])).sum(2)
    best = [
        [j for j in np.argsort(-row, kind="stable") if not own[j]][:m] for row, own in zip(scores, right, strict=True)
    ]
    return [each + [-1] * (m - len(each)) for each in best]


@pytest.mark.parametrize("similarity", ["cosine", "asymmetric"])
@pytest.mark.parametrize("groups", [2, 5, 60])
def test_the_nearest_wrong_ones_are_those_of_brute_force(groups: int, similarity: Similarity) -> None:
    """Right items of a query: one in two, in five, in sixty; two columns of ids on one side, one on the other."""
    queries, items, random = rows(40, 0), rows(60, 1), np.random.default_rng(2)
    own, theirs = random.integers(0, groups, (40, 2)), random.integers(0, groups, (60, 1))
    own[:10, 1] = theirs[:5] = -1  # no id at all is nobody's
    right = ((own[:, None, :] == theirs[None]) & (theirs[None] >= 0)).any(2)
    scores, numbers = nearest_wrong(queries, items, 7, own, theirs, similarity, turned=True)
    assert numbers.tolist() == by_brute_force(queries, items, 7, right, similarity)
    assert (scores[:, 1:] <= scores[:, :-1]).all()


def test_where_fewer_are_wrong_there_are_fewer() -> None:
    queries, items = rows(3, 0), rows(5, 1)
    ids = np.array([[0], [0], [1], [1], [1]])
    scores, numbers = nearest_wrong(queries, items, 4, np.array([[0], [1], [2]]), ids)
    assert (numbers >= 0).sum(1).tolist() == [3, 2, 4]
    assert np.isneginf(scores[numbers < 0]).all() and np.isfinite(scores[numbers >= 0]).all()
    assert set(numbers[0, :3]) == {2, 3, 4} and set(numbers[1, :2]) == {0, 1}
    assert nearest_wrong(queries, items[:0], 2, ids[:3], ids[:0])[1].tolist() == [[-1, -1]] * 3


def split_of(images: np.ndarray, texts: np.ndarray, image_of_text: list[int], captions: list[str]) -> Embedded:
    """Samples 0, 10, 20, ... of one picture each."""
    rows, owner = 10 * np.arange(len(images)), np.array(image_of_text)
    zeros = np.zeros(len(texts), np.int64)
    return Embedded(images, texts, owner, zeros, captions, [""] * len(images), rows, rows[owner], {})


def test_near_samples_share_neither_picture_nor_caption() -> None:
    """Against every pair: pictures 0 and 1 say the same in one of two captions."""
    images, texts = rows(6, 0), rows(8, 1)
    captions = ["a", "A", "a", "B", "c", "d", "e", "f"]
    texts[2] = texts[0]
    owner = [0, 0, 1, 1, 2, 3, 4, 5]
    numbers = near_samples(split_of(images, texts, owner, captions), 60, 3, "cosine")
    alike = {(0, 1), (1, 0)} | {(i, i) for i in range(6)}
    scores = np.full((6, 6), -np.inf)
    for t, j in enumerate(owner):
        for i in range(6):
            scores[i, j] = max(scores[i, j], images[i] @ texts[t])
    scores = np.maximum(scores, scores.T)  # i's picture with j's captions, or i's captions with j's picture
    for i in range(6):
        wrong = [j for j in np.argsort(-scores[i]) if (i, j) not in alike][:3]
        assert (numbers[10 * i] // 10).tolist() == wrong
    assert numbers[5].tolist() == [5, 5, 5]  # a sample that could not be read has no neighbour but itself


MINING = ["--model.mining.every_n_steps=3", "--model.mining.neighbours=4", "--model.mining.beside=2"]
OBJECTIVES = (
    "{one_to_k: {class_path: losses.OneToKLoss}, itm: {class_path: losses.ItmLoss, init_args: {candidates: 3, fusion:"
    " {class_path: mmtrain.fusion.MatchingHead, init_args: {scale: 20, fusion:"
    " {class_path: mmtrain.fusion.RowFusion, init_args: {width: 16}}}}}}}"
)


def test_neighbours_join_the_batch_and_survive_a_stop(shards: Path, tmp_path: Path) -> None:
    """A stop between two minings changes nothing; the clock counts what was drawn alone."""
    options = [*MINING, f"--model.objectives={OBJECTIVES}", "--data.batch_size=5", "--trainer.max_steps=9"]
    assert fit(shards, tmp_path / "whole", *options) == 0
    assert fit(shards, tmp_path / "halves", *options, with_callback("StopAfter", steps=5)) == 0
    assert fit(shards, tmp_path / "halves", *options, "--ckpt_path=last") == 0
    whole, halves = weights(tmp_path / "whole"), weights(tmp_path / "halves")
    assert all(torch.equal(tensor, halves[name]) for name, tensor in whole.items())
    checkpoint = torch.load(tmp_path / "whole" / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["samples_seen"] == 45
    numbers = checkpoint["mining"]["numbers"]
    assert checkpoint["mining"]["step"] == 6 and numbers.shape == (32, 4)
    assert (numbers % 4 != torch.arange(32)[:, None] % 4).all()  # pictures of one colour share their captions
    assert fit(shards, tmp_path / "without", *options[3:]) == 0
    assert any(not torch.equal(tensor, whole[name]) for name, tensor in weights(tmp_path / "without").items())
    module = RelationModule(pretrained=str(tmp_path / "whole"), itm=0.1)  # whose fusion reads tokens
    assert isinstance(module.head.fusion, CrossAttentionFusion)
    report = tmp_path / "report"
    assert (
        main(["evaluate", str(tmp_path / "whole"), "--data", str(shards), "--rerank", "3", "--out", str(report)]) == 0
    )
    assert json.loads((report / "metrics.json").read_text())["rerank"]["k"] == 3


def test_a_sample_of_two_views_has_neighbours_once(shards: Path, tmp_path: Path) -> None:
    assert (
        fit(shards, tmp_path, *MINING, "--data.views_per_image=2", "--data.batch_size=5", "--trainer.max_steps=2") == 0
    )
    checkpoint = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["samples_seen"] == 10


def test_what_mining_could_not_read_is_counted(shards: Path, tmp_path: Path) -> None:
    """Each broken sample once, however often the split is mined."""
    broken = shutil.copytree(shards, tmp_path / "broken")
    path = broken / "shard-000001.tar"
    path.write_bytes(path.read_bytes().replace(b"\x89PNG", b"\x89GNP", 3))
    options = ["--trainer.max_steps=2", "--trainer.limit_val_batches=0", "--data.max_skip_rate=0.5"]
    assert fit(broken, tmp_path / "run", *MINING, *options, "--model.mining.every_n_steps=1") == 0
    account = json.loads((tmp_path / "run" / "skipped.json").read_text(encoding="utf-8"))
    drawn = account["tried"] - account["drawn"]["broken"]["samples"]  # what training itself drew of them
    assert account["causes"] == {"broken image": drawn + 3}


@pytest.mark.system
def test_two_processes_mine_what_one_does(shards: Path, tmp_path: Path) -> None:
    steps = [*MINING, "--trainer.max_steps=4", "--model.learning_rate=0.0001"]
    assert fit(shards, tmp_path / "one", *steps, "--data.batch_size=8") == 0
    two = ["--data.batch_size=4", "--trainer.devices=2", "--trainer.strategy=ddp"]
    command = [sys.executable, "-m", "mmtrain.cli", *arguments(shards, tmp_path / "two", *steps, *two)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr[-2000:]
    assert column(tmp_path / "two", "train/loss") == pytest.approx(column(tmp_path / "one", "train/loss"), rel=1e-4)
    for name, tensor in weights(tmp_path / "one").items():
        torch.testing.assert_close(weights(tmp_path / "two")[name], tensor, atol=1e-4, rtol=1e-3, msg=name)


def test_what_cannot_be_mined_is_said(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit(shards, tmp_path, "--model.mining.neighbours=2", "--model.mining.beside=3") != 0
    assert "model.mining.beside: got 3, expected 1 to the 2 neighbours" in capsys.readouterr().err
