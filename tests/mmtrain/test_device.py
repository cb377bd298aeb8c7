"""What is done for a GPU's sake changes no value: lengths known beforehand, features kept, one pass over the pixels."""

from dataclasses import replace

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from losses import OneToKLoss
from mmtrain.models.batches import embed_batch
from mmtrain.models.image_text import ImageTextModel
from mmtrain.towers import ByteGRU, TimmTower
from tests.mmtrain.batches import made_batch

OPTIONS = {"patch_size": 16, "embed_dim": 32, "depth": 1, "num_heads": 2}
WAITS = ("_local_scalar_dense", "nonzero", "unique", "equal")  # operators whose result the host looks at


class Waits(TorchDispatchMode):
    """Counts where a host would wait for its device."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += any(name in str(function) for name in WAITS)
        return function(*args, **(kwargs or {}))


def model(frozen: bool = False) -> ImageTextModel:
    torch.manual_seed(0)
    image = TimmTower("vit_tiny_patch16_224", image_size=32, options=OPTIONS, frozen=frozen)
    return ImageTextModel(image, ByteGRU(width=32), 16).train()


def ragged(B: int = 6):
    """A batch whose captions have 1 to 6 tokens; some are absent."""
    batch = made_batch(torch.randint(0, 256, (B, 3, 32, 32), dtype=torch.uint8), K=3)
    lengths = torch.arange(B * 3).view(B, 3) % 6 + 1
    batch.token_mask = torch.arange(6) < lengths[..., None]
    batch.present = torch.arange(B * 3).view(B, 3) % 4 > 0
    return batch, lengths


def test_lengths_stay_behind_when_a_batch_moves() -> None:
    batch, lengths = ragged()
    moved = batch.to("meta")
    assert moved.images.is_meta and moved.token_mask.is_meta
    assert moved.lengths.tolist() == lengths.where(batch.present, -1).tolist()
    assert moved.to("meta").lengths is moved.lengths and batch.to("cpu").lengths is None


def test_known_lengths_give_the_same_without_a_wait() -> None:
    batch, _ = ragged()
    network, known = model(), replace(batch, lengths=batch.to("meta").lengths)
    with Waits() as waits:
        found = embed_batch(network, known)
    assert waits.count == 0
    plain = embed_batch(network, batch)
    assert torch.equal(found.texts, plain.texts) and torch.equal(found.image, plain.image)
    assert not plain.texts[~batch.present].any() and plain.texts[batch.present].norm(dim=-1).min() > 0.99


def gradients(network: ImageTextModel, batch) -> dict[str, torch.Tensor]:
    objective = OneToKLoss().double()
    objective(embed_batch(network, batch)).backward()
    return {name: each.grad.clone() for name, each in network.named_parameters() if each.grad is not None}


def test_a_frozen_tower_is_computed_once_in_micro_batches() -> None:
    batch, _ = ragged()
    network = model(frozen=True).double()
    whole, seen = gradients(network, batch), []
    network.zero_grad()
    network.image.register_forward_hook(lambda *call: seen.append(len(call[1][0])))
    network.micro_batch = 4
    torch.testing.assert_close(gradients(network, batch), whole)
    assert seen == [4, 2] and "image_projection.weight" in whole
