"""Models of open_clip and transformers, made tiny and saved here, give their own library's rows."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    AutoModel,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    FlavaConfig,
    FlavaImageProcessor,
    FlavaModel,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
)

import mmtrain
from datamodules.images import BrokenImage
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


def photo(picture: Image.Image) -> bytes:
    """A JPEG that lies on its side and says so."""
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = 8
    picture.rotate(-90, expand=True).save(file, "JPEG", exif=exif, quality=98, subsampling=0)
    return file.getvalue()


def test_photos_are_turned_and_cut_ones_are_broken(hf_folder: Path) -> None:
    model, content = mmtrain.load(f"hf:{hf_folder}"), photo(PICTURES[2])
    rows = model.encode_image([PICTURES[2], Image.open(io.BytesIO(content))])
    assert rows[0] @ rows[1] > 0.995
    with pytest.raises(BrokenImage):
        model.encode_image([Image.open(io.BytesIO(content[:-200]))])


@pytest.fixture
def clip_folder(tmp_path: Path) -> Path:
    layers = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    special = {"eos_token_id": 2, "pad_token_id": 0, "bos_token_id": 1}
    text = layers | special | {"vocab_size": 120, "max_position_embeddings": 16}
    torch.manual_seed(0)
    config = CLIPConfig(vision_config=layers | {"image_size": 32, "patch_size": 16}, text_config=text)
    CLIPModel(config).save_pretrained(tmp_path)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    words(tmp_path)
    return tmp_path


def processing(folder: Path, **options: Any) -> None:
    place = folder / "preprocessor_config.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | options))


@pytest.mark.parametrize(
    "options",
    [
        {"do_normalize": False},
        {"do_normalize": False, "image_mean": None, "image_std": None},
        {"do_rescale": False},
        {"rescale_factor": 1 / 127.5},
        {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 1.0, 2.0]},
        {"do_resize": False},
        {"size": {"shortest_edge": 41}, "resample": 0},
        {
            "image_processor_type": "EfficientNetImageProcessor",
            "size": {"height": 32, "width": 32},
            "rescale_offset": True,
        },
    ],
    ids=str,
)
def test_a_processors_options_are_its_librarys(clip_folder: Path, options: dict[str, Any]) -> None:
    from transformers import AutoImageProcessor

    processing(clip_folder, **options)
    processor, network = AutoImageProcessor.from_pretrained(clip_folder), AutoModel.from_pretrained(clip_folder).eval()
    pixels = torch.cat([processor(images=each, return_tensors="pt")["pixel_values"] for each in PICTURES])
    with torch.no_grad():
        images = unit(network.get_image_features(pixel_values=pixels).pooler_output)
    np.testing.assert_allclose(mmtrain.load(f"hf:{clip_folder}").encode_image(PICTURES), images, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"do_center_crop": False}, "pictures of free size"),
        ({"do_pad": True, "pad_size": {"height": 60, "width": 60}}, "more than resizing, cropping"),
    ],
    ids=str,
)
def test_other_processing_is_refused(clip_folder: Path, options: dict[str, Any], message: str) -> None:
    processing(clip_folder, **options)
    with pytest.raises(ValueError, match=message):
        mmtrain.load(f"hf:{clip_folder}")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda name, value: None if "text_model.encoder.layers.0" in name else value, "lacks 16 weights of CLIPModel"),
        (lambda name, value: value[:8] if name == "visual_projection.weight" else value, "visual_projection.weight is"),
    ],
)
def test_weights_that_are_missing_are_refused(
    clip_folder: Path, damage: Any, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    file = clip_folder / "model.safetensors"
    weights = {name: damage(name, value) for name, value in load_file(file).items()}
    weights = {name: value.contiguous() for name, value in weights.items() if value is not None}
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=message) as error:
        mmtrain.load(f"hf:{clip_folder}")
    assert "\n" not in str(error.value) and "LOAD REPORT" not in capfd.readouterr().err


@pytest.mark.parametrize("lost", [1, 1000])
def test_an_open_clip_folder_without_all_weights_is_refused(open_clip_folder: Path, tmp_path: Path, lost: int) -> None:
    folder = shutil.copytree(open_clip_folder, tmp_path / "model")
    file = folder / "open_clip_model.safetensors"
    weights = load_file(file)
    file.unlink()
    if kept := dict(list(weights.items())[lost:]):
        save_file(kept, file)
    with pytest.raises(ValueError, match=r"cannot be loaded \((Error.*Missing key|Required pretrained weights)"):
        mmtrain.load(f"open_clip:{folder}")


def test_half_precision_files_are_computed_in_float32(clip_folder: Path) -> None:
    AutoModel.from_pretrained(clip_folder, dtype=torch.float16).save_pretrained(clip_folder)
    exact = AutoModel.from_pretrained(clip_folder, dtype=torch.float32).eval()
    pixels = CLIPImageProcessor.from_pretrained(clip_folder)(images=PICTURES, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        images = unit(exact.get_image_features(pixel_values=pixels).pooler_output)
    np.testing.assert_allclose(mmtrain.load(f"hf:{clip_folder}").encode_image(PICTURES), images, atol=1e-6)


def test_a_model_without_one_row_an_image_is_refused(tmp_path: Path) -> None:
    layers = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = FlavaConfig(
        image_config=layers | {"image_size": 32, "patch_size": 16},
        text_config=layers | {"vocab_size": 120, "max_position_embeddings": 16},
        multimodal_config=layers,
        image_codebook_config={"hidden_size": 8, "num_groups": 1},
        projection_dim=32,
        hidden_size=32,
    )
    FlavaModel(config).save_pretrained(tmp_path)
    side = {"height": 32, "width": 32}
    FlavaImageProcessor(size=side, crop_size=side).save_pretrained(tmp_path)
    words(tmp_path)
    with pytest.raises(ValueError, match=r"one image gives \[1, 5, 32\], one text \[1, 1, 32\]; both must be \[1, D\]"):
        mmtrain.load(f"hf:{tmp_path}")


@pytest.mark.parametrize(
    "options", [{"resize_mode": "longest"}, {"interpolation": "random"}, {"size": [32, 48]}], ids=str
)
def test_open_clips_preprocessing_is_its_own(open_clip_folder: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    import open_clip

    folder = shutil.copytree(open_clip_folder, tmp_path / "model")
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["preprocess_cfg"] |= options
    if "size" in options:
        config["model_cfg"]["vision_cfg"]["image_size"] = options["size"]
        save_file(open_clip.CLIP(**config["model_cfg"]).state_dict(), folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    network, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    with torch.no_grad():
        images = unit(network.eval().encode_image(torch.stack([preprocess(picture) for picture in PICTURES])))
    np.testing.assert_allclose(mmtrain.load(f"open_clip:{folder}").encode_image(PICTURES), images, atol=1e-5)


def test_openais_weights_need_their_gelu() -> None:
    pytest.importorskip("open_clip")
    with pytest.raises(ValueError, match="another GELU; ViT-B-32-quickgelu/openai"):
        mmtrain.load("open_clip:ViT-B-32/openai")
