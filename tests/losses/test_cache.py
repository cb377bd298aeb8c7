"""Micro-batches have the gradients of the whole batch and the memory of one part."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import losses


class Tower(nn.Module):
    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 32), nn.GELU(), nn.Dropout(dropout), nn.Linear(32, 4))

    def forward(self, rows: Tensor, gains: Tensor) -> Tensor:
        return functional.normalize(self.layers(rows) * gains[:, None], dim=-1)


def step(tower: Tower, encode, rows: Tensor, gains: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Loss and gradients of tower and temperature, images and texts through one tower."""
    objective = losses.OneToKLoss()
    texts = encode(rows.flip(1), gains)
    loss = objective(losses.Embeddings(encode(rows, gains), texts[:, None]))
    return loss, list(torch.autograd.grad(loss, [*tower.parameters(), *objective.parameters()]))


def micro(tower: Tower, size: int):
    return lambda *inputs: losses.micro_batched(tower, *inputs, micro_batch=size)


@pytest.mark.parametrize("size", [1, 3, 10, 50])
def test_gradients_are_those_of_the_whole_batch(size):
    tower, rows, gains = Tower().double(), torch.randn(10, 6, dtype=torch.float64), torch.rand(10).double() + 1
    torch.testing.assert_close(step(tower, micro(tower, size), rows, gains), step(tower, tower, rows, gains))


@pytest.mark.parametrize("autocast", [False, True])
def test_dropout_repeats_when_a_part_is_recomputed(autocast):
    """The same parts kept instead of recomputed draw the same numbers in the same order: equal to the last bit."""
    tower, rows, gains = Tower(dropout=0.5), torch.randn(10, 6), torch.rand(10) + 1

    def kept(*inputs: Tensor) -> Tensor:
        return torch.cat([tower(*part) for part in zip(*(tensor.split(3) for tensor in inputs), strict=True)])

    results = []
    for encode in (micro(tower, 3), kept):
        torch.manual_seed(7)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            results.append(step(tower, encode, rows, gains))
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)


def saved_numbers(encode, rows: Tensor, gains: Tensor) -> int:
    """How many numbers the graph keeps for the backward pass, each storage once."""
    kept = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes() // tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = encode(rows, gains)
    assert output.requires_grad
    return sum(kept.values())


def test_saved_memory_does_not_grow_with_the_number_of_parts():
    tower, rows, gains = Tower(dropout=0.1), torch.randn(64, 6), torch.ones(64)
    whole = saved_numbers(tower, rows, gains)
    few, many = saved_numbers(micro(tower, 32), rows, gains), saved_numbers(micro(tower, 2), rows, gains)
    assert many <= few < whole / 4


def test_without_gradients_it_just_cuts():
    tower, rows, gains = Tower(), torch.randn(10, 6), torch.ones(10)
    seen = []
    tower.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    with torch.no_grad():
        output = losses.micro_batched(tower, rows, gains, micro_batch=4)
    torch.testing.assert_close(output, tower(rows, gains).detach())
    assert seen == [4, 4, 2, 10] and not output.requires_grad


def test_frozen_towers_are_computed_once():
    tower, projection, seen = Tower().requires_grad_(False), nn.Linear(4, 3), []
    tower.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    features = losses.micro_batched(tower, torch.randn(5, 6), torch.ones(5), micro_batch=2)
    assert not features.requires_grad
    projection(features).sum().backward()
    assert seen == [2, 2, 1]


def test_inputs_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match=r"inputs: got lengths \[4, 5\]"):
        losses.micro_batched(Tower(), torch.randn(5, 6), torch.ones(4), micro_batch=2)
