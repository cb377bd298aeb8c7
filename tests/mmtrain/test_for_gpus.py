"""What is done for a GPU's sake changes no value: lengths known beforehand, features kept, one pass over the pixels."""

from dataclasses import replace

import pytest
import torch
from pytorch_lightning.plugins import MixedPrecision
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from datamodules import Batch
from losses import OneToKLoss
from mmtrain.models.batches import embed_batch
from mmtrain.models.image_text import ImageTextModel
from mmtrain.towers import ByteGRU, TimmTower, TransformersTower
from mmtrain.training.optimisation import make_optimizer, parameter_groups
from tests.mmtrain.batches import made_batch

OPTIONS = {"patch_size": 16, "embed_dim": 32, "depth": 1, "num_heads": 2}
TEXT = {"model_type": "xlm-roberta", "vocab_size": 300, "hidden_size": 32, "intermediate_size": 64, "pad_token_id": 1}
TEXT |= {"num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 64}
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


def ragged(B: int = 6, least: int = 1) -> tuple[Batch, Tensor]:
    """A batch whose captions have so many to 5 tokens more, some absent; and these lengths [B, K]."""
    batch = made_batch(torch.randint(0, 256, (B, 3, 32, 32), dtype=torch.uint8), K=3, L=least + 5)
    lengths = torch.arange(B * 3).view(B, 3) % 6 + least
    batch.token_mask = torch.arange(least + 5) < lengths[..., None]
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


def gradients(network: ImageTextModel, batch: Batch) -> dict[str, Tensor]:
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


def test_pixels_in_the_precision_of_the_run() -> None:
    tower, seen = TimmTower("resnet10t").eval(), []
    tower.network.conv1.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    plain, _ = tower(pixels)
    with torch.autocast("cpu", torch.bfloat16):
        tower(pixels)
        tower(pixels / 255)
    assert torch.equal(seen[1], seen[0].bfloat16()) and torch.equal(seen[2], seen[1])  # rounded once
    lined_up, _ = tower(pixels.contiguous(memory_format=torch.channels_last))
    assert seen[3].is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(lined_up, plain)


def test_a_fused_optimiser_takes_the_same_steps_and_is_clipped() -> None:
    results = []
    for fused in (False, True):
        layer = torch.nn.Linear(8, 8).double()
        torch.nn.init.ones_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
        groups = parameter_groups({"image": layer}, learning_rate=0.1, weight_decay=0.1)
        optimizer = make_optimizer(None, groups, (0.9, 0.98), fused)
        for step in range(3):
            optimizer.zero_grad()
            layer(torch.arange(8, dtype=torch.float64) + step).square().sum().backward()
            MixedPrecision("bf16-mixed", "cpu").clip_gradients(optimizer, 1.0)
            optimizer.step()
        results.append([*layer.parameters()])
    torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=1e-12)


@pytest.mark.system
def test_compiled_towers_take_every_batch_after_the_warm_up() -> None:
    image = TimmTower("vit_tiny_patch16_224", image_size=32, options=OPTIONS)
    network, objective = ImageTextModel(image, TransformersTower(config=TEXT), 16).train(), OneToKLoss()
    torch._dynamo.reset()
    torch.compiler.set_default_backend("aot_eager")  # guards are those of every backend
    try:
        network.compile_towers()
        for B in (8, 6):  # a whole batch, and another one
            objective(embed_batch(network, ragged(B, 3)[0])).backward()
        graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        with torch._dynamo.config.patch(error_on_recompile=True):
            for network.micro_batch, B, least in ((None, 8, 4), (None, 5, 5), (None, 12, 3), (4, 10, 3), (3, 8, 7)):
                objective(embed_batch(network, ragged(B, least)[0])).backward()
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs
    finally:
        torch.compiler.set_default_backend(None)
        torch._dynamo.reset()
