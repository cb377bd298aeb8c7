"""The average of the weights, on a module made by hand."""

from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning import LightningModule
from torch import nn

from mmtrain.training.averaging import WeightAverage


class Normed(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(2, 1), nn.BatchNorm1d(1)
        self.register_buffer("positions", torch.arange(600))
        self.norm.requires_grad_(False)


@pytest.fixture
def module() -> Normed:
    torch.manual_seed(0)
    return Normed()


def trainer(module: Normed) -> SimpleNamespace:
    return SimpleNamespace(global_step=0, optimizers=[torch.optim.SGD(module.layer.parameters(), lr=0.1)])


def test_the_average_of_what_is_trained_is_validated_and_saved(module: Normed) -> None:
    average, run = WeightAverage(0.75), trainer(module)
    pointer = module.layer.weight.data_ptr()
    for value in (4.0, 8.0):
        module.layer.weight.data.fill_(value)
        module.norm(torch.rand(4, 1))
        run.global_step += 1
        average.on_train_batch_end(run, module, None, None, 0)
    average.on_validation_epoch_start(run, module)
    assert (module.layer.weight == 5).all()
    average.on_validation_epoch_end(run, module)
    assert (module.layer.weight == 8).all() and module.layer.weight.data_ptr() == pointer
    checkpoint = {"state_dict": dict(module.state_dict())}
    average.on_save_checkpoint(run, module, checkpoint)
    assert (checkpoint["state_dict"]["layer.weight"] == 5).all()
    assert (checkpoint["current_model_state"]["layer.weight"] == 8).all()
    for name in ("norm.running_mean", "norm.num_batches_tracked", "norm.weight", "positions"):
        assert torch.equal(checkpoint["state_dict"][name], module.state_dict()[name]), name


def test_a_checkpoint_with_an_average_of_everything_goes_on(module: Normed) -> None:
    """Lightning's averages buffers too, and counts its updates."""
    averaged = {name: value + 1 for name, value in module.state_dict().items()}
    weights = {name: value.clone() for name, value in module.state_dict().items()}
    average, run = WeightAverage(0.5), trainer(module)
    module.load_state_dict(averaged)  # as Lightning does, before it asks the callbacks
    state = {"state_dict": averaged, "current_model_state": weights, "averaging_state": {"n_averaged": torch.tensor(7)}}
    average.on_load_checkpoint(run, module, state)
    average.on_train_start(run, module)
    assert all(torch.equal(value, weights[name]) for name, value in module.state_dict().items())
    run.global_step = 1
    average.on_train_batch_end(run, module, None, None, 0)
    average.on_validation_epoch_start(run, module)
    torch.testing.assert_close(module.layer.weight.data, weights["layer.weight"] + 0.5)
    assert torch.equal(module.positions, weights["positions"])


@pytest.mark.parametrize("options", [{"decay": 1.0}, {"decay": -0.1}, {"update_every_n_steps": 0}])
def test_numbers_out_of_range(options: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        WeightAverage(**options)
