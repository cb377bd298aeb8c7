"""How often a loss makes the host wait for the device, and how many operations it starts there."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

import losses
from losses.engine import tiles
from losses.engine.pairs import Labels, Pairs, shared_labels

READS = ("item", "tolist", "__bool__", "__int__", "__float__", "cpu", "numpy")
WAITING = {"nonzero", "_unique2", "unique_dim", "unique_consecutive", "masked_select", "equal"}  # results of any size


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """Counts operations, and those after which the host knows something that only the device knew."""
    count = SimpleNamespace(operations=0, waits=0)

    class Operations(TorchDispatchMode):
        def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
            name = operation.overloadpacket.__name__
            count.operations += 1
            masks = args[1] if name.startswith("index") and isinstance(args[1], list | tuple) else ()
            count.waits += name in WAITING or any(
                isinstance(each, Tensor) and each.dtype == torch.bool for each in masks
            )
            return operation(*args, **(kwargs or {}))

    def reading(name: str):
        plain = getattr(Tensor, name)

        def read(self, *args, **kwargs):
            count.waits += 1
            return plain(self, *args, **kwargs)

        return read

    with monkeypatch.context() as patch, Operations():
        for name in READS:
            patch.setattr(Tensor, name, reading(name))
        yield count


def unit(*shape: int) -> Tensor:
    return functional.normalize(torch.randn(*shape), dim=-1).requires_grad_()


def test_a_call_waits_for_the_device_a_few_times(monkeypatch):
    B, K = 256, 8
    monkeypatch.setattr(tiles, "CPU_TILE", (64, 64))  # many tiles: 133 waits, once three a tile and pass
    with counted(monkeypatch) as count:
        losses.one_to_k_loss(
            *(unit(B, 8), unit(B, K, 8), torch.tensor(14.0, requires_grad=True), torch.rand(B, K) < 0.8),
            image_ids=torch.randint(0, B, (B,)),
            text_ids=torch.randint(0, B * K, (B, K)),
        ).backward()
    assert 1 < count.waits <= 10


def test_a_process_of_64_starts_a_third_of_the_operations(monkeypatch):
    """3,588 were started at commit 1182cec, where texts were the columns, in 32 tiles."""
    b, K, B = 512, 8, 32768
    monkeypatch.setattr(tiles, "CPU_TILE", tiles.CUDA_TILE)
    ids = torch.arange(B).where(torch.rand(B) > 0.05, torch.randint(B, B + 1000, (B,)))
    labels = shared_labels(ids[:, None])
    pairs = Pairs(torch.arange(b * K), torch.arange(b * K) // K)
    pairs.label([Labels(labels[:b].repeat_interleave(K, 0), labels.where(labels >= 0, -2)[None])])
    rows, columns, scale = unit(b * K, 8), unit(B, 8), torch.tensor(14.0, requires_grad=True)
    with counted(monkeypatch) as count:
        sum(part.sum() for part in tiles.tiled_logsumexp(rows, columns, scale, pairs)).backward()
    assert 100 < count.operations < 3588 / 3
    assert count.waits <= 3


def test_labels_are_those_of_a_loop():
    torch.manual_seed(0)
    for _ in range(50):
        B, n = (int(torch.randint(1, 9, ())) for _ in range(2))
        ids, valid = torch.randint(-3, 6, (B, n)), torch.rand(B, n) < 0.7
        labels = shared_labels(ids, valid)
        for i in range(B):
            for k in range(n):
                holders = {j for j in range(B) if ((ids[j] == ids[i, k]) & valid[j]).any()}
                if valid[i, k] and len(holders) > 1:
                    same = (labels == labels[i, k]).nonzero().tolist()
                    assert {j for j, _ in same} == holders and labels[i, k] >= 0
                    assert all(ids[j, m] == ids[i, k] for j, m in same)
                else:
                    assert labels[i, k] == -1
