"""Towers: shapes, padding, pooling, where weights come from, freezing."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, XLMRobertaConfig

from datamodules import ByteTokenizer
from mmtrain.models.image_text import ImageTextModel
from mmtrain.models.loading import fill
from mmtrain.models.spec import build, spec_of
from mmtrain.models.weights import mean_of
from mmtrain.towers import ByteGRU, FeatureTower, ImageTower, Pooling, TextTower, TimmTower, TransformersTower, WordGRU
from mmtrain.towers.pooling import Pool
from mmtrain.training.checks import check_fits

TINY_VIT = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
TINY_XLMR = {
    "model_type": "xlm-roberta",
    "vocab_size": 300,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}


def captions() -> tuple[torch.Tensor, torch.Tensor]:
    """Three rows of lengths 4, 9 and 1."""
    tokens = torch.randint(3, 250, (3, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(9) < torch.tensor([[4], [9], [1]])
    return tokens, mask


@pytest.mark.parametrize("pooling", ["timm", "cls", "mean", "max", "attention"])
def test_any_timm_model_with_any_pooling(pooling: str) -> None:
    tower = TimmTower("vit_tiny_patch16_224", image_size=32, options=TINY_VIT, pooling=pooling)
    pooled, tokens = tower(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
    assert pooled.shape == (2, 32) and tokens.shape == (2, 17, 32)


def test_a_convolutional_model_gives_tokens_too() -> None:
    pooled, tokens = TimmTower("test_convnext")(torch.zeros(2, 3, 64, 64, dtype=torch.uint8))
    assert pooled.shape == (2, 64) and tokens.shape == (2, 4, 64)


def test_timm_weights_load_from_a_local_folder(tmp_path: Path) -> None:
    network = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=0, **TINY_VIT)
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    config = {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": 0,
        "pretrained_cfg": {"input_size": [3, 32, 32], "num_classes": 0},
        "model_args": TINY_VIT | {"img_size": 32},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    tower = TimmTower(pretrained=str(tmp_path))
    assert torch.equal(tower.network.patch_embed.proj.weight, network.patch_embed.proj.weight)
    # what a checkpoint keeps builds the same architecture without the folder
    spec = spec_of(tower)
    (tmp_path / "config.json").unlink()
    again = build(spec, ImageTower)
    assert {name: value.shape for name, value in again.state_dict().items()} == {
        name: value.shape for name, value in tower.state_dict().items()
    }


def test_transformers_weights_load_from_a_local_folder(tmp_path: Path) -> None:
    options = {key: value for key, value in TINY_XLMR.items() if key != "model_type"}
    network = AutoModel.from_config(XLMRobertaConfig(**options)).eval()
    network.save_pretrained(tmp_path)
    tower = TransformersTower(pretrained=str(tmp_path), pooling="cls").eval()
    tokens, mask = captions()
    expected = network(input_ids=tokens, attention_mask=mask.long()).last_hidden_state[:, 0]
    torch.testing.assert_close(tower(tokens, mask)[0], expected)
    assert build(spec_of(tower), TextTower).width == 32


@pytest.mark.parametrize(
    "tower",
    [
        ByteGRU(width=16, layers=2),
        ByteGRU(width=16, pooling="mean"),
        WordGRU(languages=2, vocabulary_size=300, width=16, embedding=8),
        TransformersTower(config=TINY_XLMR, pooling="mean"),
        TransformersTower(config=TINY_XLMR, pooling="max"),
        TransformersTower(config=TINY_XLMR, pooling="last"),
        TransformersTower(config=TINY_XLMR, pooling="attention"),
    ],
    ids=lambda tower: f"{type(tower).__name__}-{tower.pool.kind if tower.pool else 'last'}",
)
def test_a_caption_does_not_depend_on_its_padding(tower: TextTower) -> None:
    tower.eval()
    tokens, mask = captions()
    languages = torch.tensor([0, 1, 0])
    together, _ = tower(tokens, mask, languages)
    for row, length in enumerate([4, 9, 1]):
        alone, _ = tower(tokens[row : row + 1, :length], mask[row : row + 1, :length], languages[row : row + 1])
        torch.testing.assert_close(together[row], alone[0], atol=1e-5, rtol=1e-5)


def test_the_byte_gru_reads_both_directions_like_torchs_own() -> None:
    tower = ByteGRU(width=16)
    reference = torch.nn.GRU(64, 8, batch_first=True, bidirectional=True)
    for name, parameter in reference.named_parameters():
        own = tower.backwards[0] if name.endswith("_reverse") else tower.forwards[0]
        parameter.data.copy_(dict(own.named_parameters())[name.removesuffix("_reverse")])
    tokens, mask = captions()
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        tower.embed(tokens), mask.sum(1), batch_first=True, enforce_sorted=False
    )
    final = reference(packed)[1]
    torch.testing.assert_close(tower(tokens, mask)[0], torch.cat([final[0], final[1]], dim=1))


def test_a_word_gru_reads_each_language_with_its_own_network() -> None:
    tower = WordGRU(languages=2, vocabulary_size=300, width=16, embedding=8)
    tokens, mask = captions()
    english, german = (tower(tokens, mask, torch.full((3,), language))[0] for language in (0, 1))
    assert not torch.allclose(english, german)
    # every parameter has a gradient, even of the language nobody wrote in: DDP would wait for it
    tower(tokens, mask, torch.zeros(3, dtype=torch.long))[0].sum().backward()
    assert all(parameter.grad is not None for parameter in tower.parameters())
    with pytest.raises(ValueError, match="2 languages"):
        tower(tokens, mask, torch.full((3,), 2))


def test_features_pass_through_and_their_width_is_checked() -> None:
    tower = FeatureTower(width=8, normalise=True)
    pooled, tokens = tower(torch.full((2, 8), 3.0))
    assert tokens.shape == (2, 1, 8)
    torch.testing.assert_close(pooled.norm(dim=1), torch.ones(2))
    with pytest.raises(ValueError, match="image.width: 8"):
        tower(torch.zeros(2, 9))


@pytest.mark.parametrize("pooling", ["mean", "cls", "max", "last", "attention"])
def test_features_of_several_tokens_are_pooled(pooling: Pool) -> None:
    features = torch.randn(3, 5, 8)
    tower = FeatureTower(8, pooling=pooling).eval()
    pooled, tokens = tower(features)
    assert torch.equal(tokens, features)
    assert torch.equal(pooled, tower.pool(features))
    torch.testing.assert_close(tower(features.mean(1))[0], tower(features.mean(1, keepdim=True))[0])
    with pytest.raises(ValueError, match=r"image.width: 8, but the shards hold features of shape \(5, 9\)"):
        tower(torch.zeros(2, 5, 9))


def test_a_modality_of_another_width_is_named() -> None:
    model = ImageTextModel(FeatureTower(8), ByteGRU(16), 4, modalities={"audio": FeatureTower(6)})
    with pytest.raises(
        ValueError, match=r"model.modalities.audio.width: 6, but the shards hold features of shape \(9,"
    ):
        model.encode_modality("audio", torch.zeros(2, 9))
    with pytest.raises(ValueError, match=r"model.image.width: 8, but"):
        model.encode_image(torch.zeros(2, 9))


def test_freezing_is_one_line_and_survives_train() -> None:
    tower = TimmTower("test_resnet", frozen=True).train()
    assert not any(parameter.requires_grad for parameter in tower.parameters())
    assert not any(module.training for module in tower.modules())


def test_pooling_by_hand() -> None:
    features = torch.tensor([[[1.0, 5.0], [3.0, 1.0], [9.0, 9.0]]])
    mask = torch.tensor([[True, True, False]])
    assert Pooling("cls", 2)(features, mask).tolist() == [[1, 5]]
    assert Pooling("mean", 2)(features, mask).tolist() == [[2, 3]]
    assert Pooling("max", 2)(features, mask).tolist() == [[3, 5]]
    assert Pooling("last", 2)(features, mask).tolist() == [[3, 1]]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TimmTower("no_such_model"), "no_such_model"),
        (lambda: TimmTower(), "image.name"),
        (lambda: TransformersTower(), "pretrained"),
        (lambda: TransformersTower(pretrained="/no/such/folder"), "/no/such/folder"),
        (lambda: TransformersTower(config={"model_type": "nonsense"}), "nonsense"),
        (lambda: Pooling("sum", 8), "sum"),
        (lambda: Pooling("attention", 9), "9"),
        (lambda: ByteGRU(width=7), "7"),
    ],
)
def test_bad_settings_are_named(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("pooling", ["timm", "mean", "attention"])
@pytest.mark.parametrize("name", ["vit_base_patch16_siglip_224", "eva02_tiny_patch14_224", "convnext_atto"])
def test_no_parameter_is_left_without_a_gradient(name: str, pooling: str) -> None:
    """DDP waits for all of them, those of the model's own head too where another pooling takes its place."""
    small = {} if name == "convnext_atto" else {"embed_dim": 32, "depth": 1, "num_heads": 2}
    tower = TimmTower(name, pooling=pooling, image_size=28 if "14" in name else 32 if small else None, options=small)
    side = tower.image_size or 64
    pixels = torch.randint(0, 255, (2, 3, side, side), dtype=torch.uint8)
    pooled, _ = tower.train()(pixels)
    pooled.sum().backward()
    assert [name for name, each in tower.named_parameters() if each.grad is None] == []
    torch.testing.assert_close(tower.eval()(pixels)[0], pooled)


def test_half_precision_weights_are_trained_in_float32(tmp_path: Path) -> None:
    config = XLMRobertaConfig(**TINY_XLMR)
    AutoModel.from_config(config).half().save_pretrained(tmp_path)
    tower = TransformersTower(pretrained=str(tmp_path))
    assert {parameter.dtype for parameter in tower.parameters()} == {torch.float32}
    again = build(spec_of(tower), TextTower)
    assert {parameter.dtype for parameter in again.parameters()} == {torch.float32}


def test_weights_that_are_missing_are_named(tmp_path: Path) -> None:
    AutoModel.from_config(XLMRobertaConfig(**TINY_XLMR)).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    save_file({name: value for name, value in weights.items() if ".layer.1." not in name}, file, {"format": "pt"})
    with pytest.raises(ValueError, match=r"its file lacks 16 weights of XLMRobertaModel: encoder.layer.1.attention"):
        TransformersTower(pretrained=str(tmp_path))


def test_buffers_of_positions_are_the_versions_own_matter(tmp_path: Path) -> None:
    model = ImageTextModel(TimmTower("test_vit"), TransformersTower(config=TINY_XLMR), dimension=8)
    stored = model.state_dict() | {"text.network.embeddings.position_ids": torch.arange(40)[None]}
    model.load_state_dict(stored)  # as a resumed run does
    fill(model, stored, "a file")
    fresh = TransformersTower(config=TINY_XLMR)
    fresh.network.embeddings.register_buffer("position_ids", torch.arange(40)[None])
    older = ImageTextModel(TimmTower("test_vit"), fresh, dimension=8)
    fill(older, model.state_dict(), "a file")
    assert torch.equal(fresh.network.embeddings.position_ids, torch.arange(40)[None])
    assert mean_of([stored, model.state_dict()], [1, 1]).keys() == stored.keys()
    with pytest.raises(ValueError, match="image.mean is not there in the file"):
        fill(model, {name: value for name, value in stored.items() if name != "image.mean"}, "a file")


BERT = TINY_XLMR | {"model_type": "bert", "max_position_embeddings": 64}


@pytest.mark.parametrize(
    ("config", "longest"),
    [
        (BERT, 64),
        (TINY_XLMR | {"max_position_embeddings": 40, "pad_token_id": 1}, 38),
        ({"model_type": "t5", "vocab_size": 300, "d_model": 32, "d_ff": 64, "num_heads": 2, "num_layers": 1}, None),
    ],
)
def test_the_longest_text_of_a_tower(config: dict, longest: int | None) -> None:
    tower = TransformersTower(config=config)
    assert tower.positions == longest
    length = longest or 200
    tower(torch.full((1, length), 5), torch.ones(1, length, dtype=torch.bool))
    if longest is not None:
        with pytest.raises((RuntimeError, IndexError)):
            tower(torch.full((1, length + 1), 5), torch.ones(1, length + 1, dtype=torch.bool))


@pytest.mark.parametrize(
    ("image", "text", "lengths", "says"),
    [
        ({"image_size": 48}, None, (128,), "data.images.size: .* 32 pixels.*model.image.image_size"),
        ({"image_size": 32, "options": {"in_chans": 1}}, None, (128,), "data.images.size"),
        ({"image_size": 32, "options": {"global_pool": ""}}, None, (128,), r"are \[1, 5, 192\].*model.image.pooling"),
        ({"image_size": 32}, BERT, (128,), "text 0: .* 128 tokens, the text tower model.text has 64"),
        ({"image_size": 32}, BERT, (64, 65), "text 1: .* 65 tokens, the text tower model.text has 64"),
    ],
)
def test_towers_that_cannot_read_the_data_are_one_line(
    image: dict, text: dict | None, lengths: tuple[int, ...], says: str
) -> None:
    tower = TransformersTower(config=text) if text else ByteGRU(width=32)
    model = ImageTextModel(TimmTower("vit_tiny_patch16_224", **image), tower, dimension=8)
    data = SimpleNamespace(
        tokenizer=ByteTokenizer(), languages=["en", "lv"], picture_shapes={(3, 32, 32)}, kinds={"image", "text"}
    )
    data.tokenizers = {f"text {number}": ByteTokenizer(size) for number, size in enumerate(lengths)}
    data.brings = {"": frozenset({"image", "texts"})}
    with pytest.raises(ValueError, match=says) as error:
        check_fits(model, data)
    assert "\n" not in str(error.value)
    assert model.image.training and model.image.network.blocks[0].training
