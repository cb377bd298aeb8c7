"""The data module under a real Trainer: epochs, validation, and resuming in the middle of one."""

import warnings

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback


class Watcher(pl.LightningModule):
    """Trains one number on the pictures' brightness and writes down what it sees."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen, self.epochs, self.validated = [], [], []

    def training_step(self, batch, _):
        self.batch = batch
        self.seen.append((self.current_epoch, batch.ids))
        return ((batch.images.float().mean() / 255 - self.weight) ** 2).mean()

    def optimizer_step(self, *args, **kwargs):
        super().optimizer_step(*args, **kwargs)
        self.trainer.datamodule.trained(self.batch)

    def on_validation_epoch_start(self):
        self.validated.append([])

    def validation_step(self, batch, _):
        self.validated[-1] += batch.rows.tolist()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class SaveAt(Callback):
    """Saves behind a step, or at the end of the epoch that the step ends."""

    def __init__(self, step, path, epoch_end=False):
        self.step, self.path, self.epoch_end = step, path, epoch_end

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step and not self.epoch_end:
            trainer.save_checkpoint(self.path)

    def on_train_epoch_end(self, trainer, *_):
        if trainer.global_step == self.step and self.epoch_end:
            trainer.save_checkpoint(self.path)


def fit(module, path=None, callbacks=(), **options):
    watcher = Watcher()
    options = {"max_epochs": 3, "reload_dataloaders_every_n_epochs": 1, **options}
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        callbacks=list(callbacks),
        **options,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*not resumable.*")
        trainer.fit(watcher, datamodule=module, ckpt_path=path, weights_only=True)
    return watcher


@pytest.fixture
def folder(listed_shards):
    return listed_shards(30, 7)


def test_three_epochs_read_each_pass_once_and_validate_after_each(folder, data):
    watcher = fit(data(train=folder, val=folder))
    lengths = [sum(epoch == number for epoch, _ in watcher.seen) for number in range(3)]
    assert lengths == [7, 8, 7]  # 30 samples are 7 batches and 2 samples over
    ids = [name for _, batch in watcher.seen for name in batch]
    assert len(set(ids[:30])) == len(set(ids[30:60])) == 30
    assert watcher.validated == [list(range(30))] * 3


# epochs end at steps 7, 15 and 22
@pytest.mark.parametrize(("step", "at_end"), [(3, False), (7, False), (7, True), (10, False), (15, False), (15, True)])
@pytest.mark.parametrize(("limit", "workers"), [({"max_epochs": 3}, 0), ({"max_steps": 22}, 0), ({"max_epochs": 3}, 2)])
def test_resuming_goes_on_with_the_next_sample(folder, data, tmp_path, step, at_end, limit, workers):
    path = tmp_path / "middle.ckpt"
    options = {"train": folder, "val": folder, "workers": workers}
    limit = {"max_epochs": -1, **limit}
    whole = fit(data(**options), callbacks=[SaveAt(step, path, at_end)], **limit)
    rest = fit(data(**options), path=path, **limit)
    assert [ids for _, ids in whole.seen[step:]][: len(rest.seen)] == [ids for _, ids in rest.seen]
    assert len(whole.seen) == len(rest.seen) + step == 22
    assert rest.weight == whole.weight
    assert rest.validated and all(rows == list(range(30)) for rows in rest.validated)
    if limit["max_epochs"] > 0:
        assert rest.seen == whole.seen[step:]  # in the same epochs, too


# 30 samples are 7 batches of 4, or 8
@pytest.mark.parametrize(("limit", "steps"), [(3, 3), (5, 5), (8, 8), (0.5, 3), (0.99, 6)])
def test_epochs_cut_short_by_the_trainer_have_so_many_steps_and_lose_nothing(folder, data, limit, steps):
    watcher = fit(data(train=folder), limit_train_batches=limit, max_epochs=5)
    assert [epoch for epoch, _ in watcher.seen] == [number for number in range(5) for _ in range(steps)]
    ids = [name for _, batch in watcher.seen for name in batch]
    assert len(set(ids[:30])) == min(30, len(ids))


@pytest.mark.parametrize("stops", [(5,), (7,), (5, 12), (7, 12)])  # an epoch's end is 5 or 10, and then within one
@pytest.mark.parametrize("workers", [0, 1])
def test_resuming_in_epochs_cut_short(folder, data, tmp_path, stops, workers):
    limit = {"limit_train_batches": 5, "max_epochs": 4}
    whole, path = fit(data(train=folder, workers=workers), **limit), None
    for stop in stops:
        fit(
            data(train=folder, workers=workers), path=path, callbacks=[SaveAt(stop, tmp_path / f"{stop}.ckpt")], **limit
        )
        path = tmp_path / f"{stop}.ckpt"
    rest = fit(data(train=folder, workers=workers), path=path, **limit)
    assert rest.seen == whole.seen[stops[-1] :] and len(whole.seen) == 20
    assert rest.weight == whole.weight


@pytest.mark.parametrize(("overfit", "steps"), [(2, 2), (0.5, 3), (100, 7)])
def test_the_trainer_overfits_the_same_batches(folder, data, overfit, steps):
    watcher = fit(data(train=folder, captions_per_image=1), overfit_batches=overfit, max_epochs=3)
    batches = [ids for _, ids in watcher.seen]
    assert batches == 3 * batches[:steps] and len({name for ids in batches[:steps] for name in ids}) == 4 * steps


def test_a_resumed_run_on_other_data_says_so(folder, data, listed_shards, tmp_path):
    path = tmp_path / "middle.ckpt"
    fit(data(train=folder), callbacks=[SaveAt(3, path)], max_epochs=1)
    with pytest.raises(ValueError, match="belongs to other data .samples was 30, is 8."):
        fit(data(train=listed_shards(8, name="other")), path=path)
