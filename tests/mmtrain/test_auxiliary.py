"""ITC and ITM beside the task: what counts as a pair, and posts without labels as their material."""

import csv
from pathlib import Path

import pytest
import torch

import losses
from tests.mmtrain.posts import finetune
from tests.mmtrain.test_relation import configured, refusal, small_batch


def test_a_label_says_which_posts_are_pairs() -> None:
    """Of labels 1, 0, none, 1 the second is no pair for ITC; a post without a label is one."""
    module, batch = configured([2, 2], itc_on={"relation": ["1"]}), small_batch()
    batch.labels["relation"] = torch.tensor([1, 0, -1, 1])
    embeddings = module.embed(batch)
    paired = torch.tensor([True, False, True, True])
    assert torch.equal(embeddings.paired, paired)
    rows = embeddings.image, embeddings.texts, 1 / 0.07, embeddings.present
    found = module.losses(batch, embeddings)["itc"]
    torch.testing.assert_close(found, losses.one_to_k_loss(*rows, paired=paired))
    assert not torch.isclose(found, losses.one_to_k_loss(*rows))
    assert configured([2, 2]).embed(batch).paired is None


def sources(posts: Path, shards: Path) -> str:
    labelled = f"{{shards: {posts}, name: labelled, languages: [en], objectives: [task/match, task/mood]}}"
    return f"--data.train=[{labelled}, {{shards: {shards}, name: bare, weight: 3, objectives: [itc, itm]}}]"


@pytest.mark.parametrize("sampling", ["as_written", "balanced"])
def test_posts_without_labels_feed_itc_and_itm_alone(posts: Path, shards: Path, tmp_path: Path, sampling: str) -> None:
    options = [
        sources(posts, shards),
        f"--data.sampling={sampling}",
        "--data.task=match",
        "--model.itc_on={match: [1]}",
    ]
    options += ["--trainer.max_steps=4", "--trainer.log_every_n_steps=1"]
    assert finetune(posts, tmp_path, *options) == 0
    with (tmp_path / "metrics.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["train/loss"]]
    assert float(rows[-1]["drawn/samples/bare"]) == 0.75
    assert all(float(row[f"train/{name}"]) > 0 for row in rows for name in ("itc", "itm", "task/match", "task/mood"))


def test_classes_that_nobody_labelled_are_refused(posts: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    step = "--trainer.max_steps=1"
    assert "model.itc_on: nobody labelled 'adds'; the training split labels match, mood" in refusal(
        capsys, posts, tmp_path, step, "--model.itc_on={adds: [1]}"
    )
    assert "model.itc_on: mood has no class glad, 2; it has angry, calm, sad" in refusal(
        capsys, posts, tmp_path, step, "--model.itc_on={mood: [sad, glad, 2]}"
    )
