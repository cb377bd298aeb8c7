"""Parameter groups and the schedule."""

import math

import pytest
import torch

from mmtrain.towers import ByteGRU, ImageTower, TimmTower, TransformersTower, WordGRU
from mmtrain.training.optimisation import Schedule, depths_of, parameter_groups, rate_factor


def test_the_learning_rate_rises_then_falls() -> None:
    at = [rate_factor(n, "cosine", warmup_samples=100, total_samples=1100) for n in (0, 50, 100, 600, 1100, 2000)]
    assert at == pytest.approx([0.0, 0.5, 1.0, 0.5, 0.0, 0.0])
    assert rate_factor(10**9, "cosine", warmup_samples=100, total_samples=math.inf) == 1.0


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("linear", [0.5, 1.0, 0.5, 0.0, 0.0]),
        ("constant", [0.5, 1.0, 1.0, 0.0, 0.0]),
        ("rsqrt", [0.5, 1.0, math.sqrt(100 / 600), 0.0, 0.0]),
    ],
)
def test_other_schedules(schedule: Schedule, expected: list[float]) -> None:
    def factor(n: int, cooldown: int = 0) -> float:
        return rate_factor(n, schedule, warmup_samples=100, total_samples=1100, cooldown_samples=cooldown)

    assert [factor(n, 200) for n in (50, 100, 600, 1100, 2000)] == pytest.approx(expected)
    if schedule != "linear":
        assert factor(1000, 200) == pytest.approx(factor(1000) / 2)  # half of the way down
        assert rate_factor(10**9, schedule, warmup_samples=10**9, total_samples=math.inf) == 1.0


def test_gains_and_biases_are_not_decayed() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.LayerNorm(4))
    module[0].bias.requires_grad_(False)
    groups = parameter_groups({"head": module}, learning_rate=0.1, weight_decay=0.2)
    decayed = {group["weight_decay"]: len(group["params"]) for group in groups}
    assert decayed == {0.2: 1, 0.0: 2}  # the frozen bias is in neither


def test_layer_decay_lowers_the_rate_towards_the_input() -> None:
    tower = TimmTower("test_vit")
    depth = len(tower.network.blocks)
    groups = parameter_groups({"image": tower}, learning_rate=1.0, weight_decay=0.1, layer_decay=0.5)
    rate = {id(parameter): group["base_lr"] for group in groups for parameter in group["params"]}
    blocks = [rate[id(block.attn.qkv.weight)] for block in tower.network.blocks]
    assert blocks == [0.5 ** (depth - index) for index in range(depth)]
    assert rate[id(tower.network.patch_embed.proj.weight)] == 0.5 ** (depth + 1)
    assert rate[id(tower.network.norm.weight)] == 1.0


SMALL_VIT = {"embed_dim": 24, "depth": 2, "num_heads": 2}
BERT = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 99}
MT5 = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 6, "num_heads": 2, "vocab_size": 99}
GPT2 = {"n_embd": 32, "n_layer": 3, "n_head": 2, "vocab_size": 99}


@pytest.mark.parametrize(
    ("tower", "count", "first", "behind"),
    [
        (lambda: TimmTower("vit_base_patch16_clip_224", options=SMALL_VIT), 2, "norm_pre.weight", "norm.weight"),
        (lambda: TimmTower("vit_base_patch16_siglip_224", options=SMALL_VIT), 2, "pos_embed", "attn_pool.latent"),
        (lambda: TimmTower("convnext_atto"), 12, "stem.0.weight", "head.norm.weight"),
        (lambda: TimmTower("resnet18"), 8, "conv1.weight", None),
        (lambda: TimmTower("swin_tiny_patch4_window7_224"), 12, "patch_embed.proj.weight", "norm.weight"),
        (
            lambda: TransformersTower(config={"model_type": "mt5"} | MT5),
            6,
            "shared.weight",
            "encoder.final_layer_norm.weight",
        ),
        (
            lambda: TransformersTower(config={"model_type": "xlm-roberta"} | BERT),
            3,
            "embeddings.LayerNorm.weight",
            None,
        ),
        (lambda: TransformersTower(config={"model_type": "gpt2"} | GPT2), 3, "wte.weight", "ln_f.weight"),
    ],
    ids=["clip", "siglip", "convnext", "resnet", "swin", "mt5", "xlm-roberta", "gpt2"],
)
def test_every_block_of_a_network_has_its_depth(tower, count: int, first: str, behind: str | None) -> None:
    depths, blocks = depths_of(tower())
    assert blocks == count
    assert set(depths.values()) - {0, count + 1} == set(range(1, count + 1))
    assert depths[f"network.{first}"] == 0
    assert behind is None or depths[f"network.{behind}"] == count + 1


def test_towers_of_ones_own_have_the_depths_of_their_lists() -> None:
    assert depths_of(ByteGRU(width=8, layers=3))[1] == 3

    class Own(ImageTower):
        def __init__(self) -> None:
            super().__init__()
            self.stem = torch.nn.Linear(4, 4)
            self.body = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
            self.end = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.GELU(), torch.nn.Linear(4, 4))

    depths, count = depths_of(Own())
    assert count == 2 and (depths["stem.weight"], depths["body.1.weight"], depths["end.0.weight"]) == (0, 2, 3)


def test_no_depth_is_said() -> None:
    tower = WordGRU(languages=2, vocabulary_size=9, width=4, embedding=4)
    with pytest.raises(
        ValueError, match=r"model.layer_decay: got 0.5, but no depth found in the text tower \(WordGRU\)"
    ):
        parameter_groups({"text": tower}, learning_rate=1.0, weight_decay=0.1, layer_decay=0.5)
    tower.requires_grad_(False)
    assert parameter_groups({"text": tower}, learning_rate=1.0, weight_decay=0.1, layer_decay=0.5) == []
