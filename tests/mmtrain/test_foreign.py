"""Models of open_clip and transformers, made tiny and saved here, give their own library's rows."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    AutoModel,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
)

import mmtrain
from mmtrain.cli import main

CAPTIONS = ["a red square", "sarkans kvadrāts", "مربع أحمر", "赤い四角", "", "word " * 200, "🟥🙂"]
SIZES = ((40, 30), (32, 32), (64, 100))


def picture(size: tuple[int, int], seed: int) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 255, (*reversed(size), 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


PICTURES = [picture(size, seed) for seed, size in enumerate(SIZES)]


@pytest.fixture(scope="module")
def open_clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What open_clip's own push_to_hf_hub leaves: its config and its weights."""
    open_clip = pytest.importorskip("open_clip")
    folder = tmp_path_factory.mktemp("open_clip")
    settings = {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    }
    preprocess = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}
    config = {"model_cfg": settings, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    save_file(open_clip.CLIP(**settings).state_dict(), folder / "open_clip_model.safetensors")
    return folder


def words(folder: Path) -> None:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["<pad>", "<unk>", "</s>"]
    tokenizer.train_from_iterator(CAPTIONS, trainers.BpeTrainer(vocab_size=120, special_tokens=special))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", eos_token="</s>"
    ).save_pretrained(folder)


@pytest.fixture(scope="module", params=["siglip", "clip"])
def hf_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    layers = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = layers | {"image_size": 32, "patch_size": 16}
    text = layers | {"vocab_size": 120, "max_position_embeddings": 16}
    torch.manual_seed(0)
    if request.param == "siglip":
        SiglipModel(SiglipConfig(vision_config=vision, text_config=text)).save_pretrained(folder)
        SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    else:
        text |= {"eos_token_id": 2, "pad_token_id": 0, "bos_token_id": 1}
        CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=24)).save_pretrained(folder)
        CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    words(folder)
    return folder


def unit(rows: torch.Tensor) -> np.ndarray:
    return torch.nn.functional.normalize(rows, dim=-1).numpy()


def test_an_open_clip_folder(open_clip_folder: Path) -> None:
    import open_clip

    name = f"local-dir:{open_clip_folder}"
    network, _, preprocess = open_clip.create_model_and_transforms(name)
    network.eval()
    with torch.no_grad():
        images = unit(network.encode_image(torch.stack([preprocess(picture) for picture in PICTURES])))
        texts = unit(network.encode_text(open_clip.get_tokenizer(name)(CAPTIONS)))
    model = mmtrain.load(f"open_clip:{open_clip_folder}")
    np.testing.assert_allclose(model.encode_image(PICTURES), images, atol=1e-5)
    np.testing.assert_allclose(model.encode_text(CAPTIONS), texts, atol=1e-5)


def test_a_transformers_folder(hf_folder: Path) -> None:
    from transformers import AutoImageProcessor, AutoTokenizer

    network = AutoModel.from_pretrained(hf_folder).eval()
    tokenizer, processor = AutoTokenizer.from_pretrained(hf_folder), AutoImageProcessor.from_pretrained(hf_folder)
    siglip = network.config.model_type == "siglip"
    padding = "max_length" if siglip else "longest"
    rows = tokenizer(CAPTIONS, padding=padding, truncation=True, max_length=16, return_tensors="pt")
    rows = {"input_ids": rows["input_ids"]} if siglip else dict(rows)
    rows.pop("token_type_ids", None)
    with torch.no_grad():
        images = unit(network.get_image_features(**processor(images=PICTURES, return_tensors="pt")).pooler_output)
        texts = unit(network.get_text_features(**rows).pooler_output)
    model = mmtrain.load(f"hf:{hf_folder}")
    np.testing.assert_allclose(model.encode_image(PICTURES), images, atol=1e-5)
    np.testing.assert_allclose(model.encode_text(CAPTIONS), texts, atol=1e-5)


def test_evaluate_measures_a_foreign_model(open_clip_folder: Path, shards: Path, tmp_path: Path) -> None:
    model = f"open_clip:{open_clip_folder}"
    assert main(["evaluate", model, "--data", str(shards), "--out", str(tmp_path), "--workers", "0"]) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert set(metrics["text_to_image"]) == {"en", "lv", "ar", "mean"}
    assert metrics["protocol"]["model"] == model


def test_the_first_dimensions_are_normalised_again(open_clip_folder: Path) -> None:
    model = mmtrain.load(f"open_clip:{open_clip_folder}")
    whole, short = model.encode_text(CAPTIONS), model.encode_text(CAPTIONS, dim=8)
    expected = whole[:, :8] / np.linalg.norm(whole[:, :8], axis=1, keepdims=True)
    np.testing.assert_allclose(short, expected, atol=1e-6)
    with pytest.raises(ValueError, match="dim: got 25, the rows of .* have 24"):
        model.encode_text(CAPTIONS, dim=25)
    half = mmtrain.load(f"open_clip:{open_clip_folder}", dtype=torch.bfloat16).encode_image(PICTURES)
    assert half.dtype == np.float32
    np.testing.assert_allclose(half, model.encode_image(PICTURES), atol=0.02)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("open_clip:", "names no model"),
        ("open_clip:no-such-architecture/openai", "no architecture 'no-such-architecture'"),
        ("open_clip:ViT-B-32/nonsense", "weights of ViT-B-32 are .*openai"),
        ("open_clip:{folder}", "no open_clip_config.json"),
        ("hf:{folder}", "cannot be loaded"),
    ],
)
def test_what_cannot_be_loaded_is_named(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message) as error:
        mmtrain.load(name.format(folder=tmp_path))
    assert "\n" not in str(error.value)


def test_a_text_only_model_is_refused(tmp_path: Path) -> None:
    from transformers import XLMRobertaConfig

    layers = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    AutoModel.from_config(XLMRobertaConfig(vocab_size=50, **layers)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="XLMRobertaModel, which does not embed both"):
        mmtrain.load(f"hf:{tmp_path}")
