"""The learning rate of runs that were stopped and go on, whatever their length was given by and whatever changed."""

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from datamodules import ByteTokenizer, ImagePipeline, ShardDataModule
from losses import OneToKLoss
from mmtrain.towers import ByteGRU, TimmTower
from mmtrain.training.clock import Length
from mmtrain.training.contrastive import ContrastiveModule

OPTIONS = {"image_size": 32, "options": {"patch_size": 16, "embed_dim": 8, "depth": 1, "num_heads": 1}}


class Watch(pl.Callback):
    """Notes the rates; writes a checkpoint and ends the run after `stop` steps, where it is not None."""

    def __init__(self, path: Path, stop: int | None = None) -> None:
        self.path, self.stop = path, stop
        self.rates: list[float] = []

    def on_before_optimizer_step(self, trainer: pl.Trainer, module: pl.LightningModule, optimizer: Any) -> None:
        self.rates.append(optimizer.param_groups[0]["lr"])

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.stop:
            trainer.save_checkpoint(self.path)
            trainer.should_stop = True


class Run:
    """A training in parts; the 32 samples of `shards` are 6 steps of 5, or 7."""

    def __init__(self, shards: Path, folder: Path, **options: Any) -> None:
        self.shards, self.path, self.resumed = shards, folder / "middle.ckpt", False
        self.options: dict[str, Any] = {"max_steps": -1, "batch_size": 5} | options
        self.rates: list[float] = []

    def go(self, stop: int | None = None, **changed: Any) -> "Run":
        """Trains, up to `stop` or the end."""
        self.options |= changed
        names = {"batch_size", "epoch_samples"} & set(self.options)
        data = ShardDataModule(
            str(self.shards),
            workers=0,
            tokenizer=ByteTokenizer(16),
            images=ImagePipeline(size=32),
            **{name: self.options[name] for name in names},
        )
        torch.manual_seed(0)
        of_module = {name: value for name, value in self.options.items() if name in ("schedule", "cooldown_steps")}
        towers = TimmTower("vit_tiny_patch16_224", **OPTIONS), ByteGRU(width=8)
        self.module = ContrastiveModule(*towers, {"a": OneToKLoss()}, dimension=8, warmup_steps=2, **of_module)
        watch = Watch(self.path, stop)
        quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
        trainer = pl.Trainer(
            accelerator="cpu",
            callbacks=[watch],
            use_distributed_sampler=False,
            reload_dataloaders_every_n_epochs=1,
            **quiet,
            **{name: value for name, value in self.options.items() if name not in names | set(of_module)},
        )
        trainer.fit(self.module, data, ckpt_path=self.path if self.resumed else None, weights_only=True)
        self.resumed = True
        self.rates += watch.rates
        return self


@pytest.mark.parametrize(
    ("length", "steps", "stops"),
    [
        ({"max_epochs": 3}, 19, (6, 9)),  # an epoch's end, then the middle of one
        ({"max_epochs": 3}, 19, (3, 12)),
        ({"max_epochs": 5, "limit_train_batches": 4}, 20, (4, 10)),
        ({"max_epochs": 5, "limit_train_batches": 0.7}, 20, (3, 12)),
        ({"max_epochs": 3, "epoch_samples": 23}, 13, (4, 6)),
        ({"max_epochs": 9, "max_steps": 19}, 19, (6, 13)),
    ],
)
def test_a_run_stopped_twice_is_the_one_that_was_not(
    length: dict[str, float], steps: int, stops: tuple[int, int], shards: Path, tmp_path: Path
) -> None:
    whole = Run(shards, tmp_path, **length).go()
    assert len(whole.rates) == steps and all(a > b for a, b in pairwise(whole.rates[2:]))
    assert whole.rates[-1] < 0.05 * max(whole.rates)
    parts = Run(shards, tmp_path, **length)
    for stop in (*stops, None):
        parts.go(stop)
    assert parts.rates == whole.rates
    weights = parts.module.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in whole.module.state_dict().items())


@pytest.mark.parametrize("batch", [4, 16])
@pytest.mark.parametrize("options", [{}, {"schedule": "rsqrt", "cooldown_steps": 4}], ids=["cosine", "rsqrt"])
def test_another_batch_keeps_the_way_to_the_last_step(batch: int, options: dict, shards: Path, tmp_path: Path) -> None:
    steps = {"max_steps": 12, "batch_size": 8}
    whole = Run(shards, tmp_path, **steps, **options).go()
    run = Run(shards, tmp_path, **steps, **options).go(5).go(8, batch_size=batch).go()
    assert run.rates == pytest.approx(whole.rates)
    limited = Run(shards, tmp_path, max_epochs=6, limit_train_batches=2, batch_size=8, **options)
    assert limited.go(5).go(batch_size=batch).rates == pytest.approx(whole.rates)


@pytest.mark.parametrize(
    ("first", "then"), [({"max_steps": 4}, {"max_steps": 10}), ({"max_epochs": 1}, {"max_epochs": 3})]
)
def test_a_run_made_longer_has_the_rates_of_the_longer_one(
    first: dict[str, int], then: dict[str, int], shards: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    long = Run(shards, tmp_path, **then).go()
    run = Run(shards, tmp_path, **first).go(*first.values() if "max_steps" in first else [6])
    before = len(run.rates)
    with caplog.at_level("INFO"):
        run.go(**then)
    assert run.rates[before:] == long.rates[before:]
    (line,) = [message for message in caplog.messages if "the learning rate goes from" in message]
    assert f"to {long.rates[before]:.3g}" in line


def test_a_length_in_minutes_is_no_end_of_a_schedule(
    shards: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        rates = Run(shards, tmp_path, max_time={"hours": 1}).go(4).rates
    assert rates[2:] == [max(rates)] * 2
    assert sum("do not say where the cosine schedule ends" in message for message in caplog.messages) == 1


def test_progress_by_hand() -> None:
    begun = Length(step=8, schedule=160, total=160, max_steps=20, max_epochs=-1)
    assert begun.at(84) == 84
    # half of it done, and the ten steps to come are of 16 samples
    more = begun.resumed(Length(16, 240, 240, 20, -1), 80)
    assert (more.step, more.at(80), more.at(160), more.at(240)) == (8, 80, 120, 160)
    assert more.resumed(Length(16, 240, 240, 20, -1), 160) == more
    # thirty steps instead: seen / total, from where it is
    longer = more.resumed(Length(16, 400, 400, 30, -1), 160)
    assert (longer.step, longer.at(160), longer.schedule) == (8, 160, 400)
    endless = Length(8, math.inf, math.inf, -1, -1)
    assert endless.resumed(Length(4, math.inf, math.inf, -1, -1), 80).at(88) == 88
