"""Pictures of free size through towers, runs, exports, and other libraries' models."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform
from timm.data.naflex_dataset import NaFlexCollator
from transformers import AutoModel, Siglip2Config, Siglip2ImageProcessor, Siglip2Model

import mmtrain
from datamodules import NaFlexPipeline
from mmtrain.cli import main
from mmtrain.fusion import CaptionDecoder
from mmtrain.models.image_text import ImageTextModel
from mmtrain.towers import ByteGRU, TimmTower
from tests.mmtrain.runs import weights
from tests.mmtrain.small import ENVIRONMENT, SMALL, TINY, arguments, fit
from tests.mmtrain.test_foreign import PICTURES, unit, words

NAME = "naflexvit_base_patch16_siglip"
OPTIONS = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 8, "pos_embed_grid_size": [4, 4]}
PIPELINE = {"class_path": "datamodules.NaFlexPipeline", "init_args": {"patches": [12, 20], "patch_size": 8}}
TOWER = json.dumps({"class_path": "mmtrain.towers.TimmTower", "init_args": {"name": NAME, "options": OPTIONS}})
FREE = [f"--model.image={TOWER}", f"--data.images={json.dumps(PIPELINE)}"]
CAPTIONER = (
    "{contrast: {class_path: losses.SiglipLoss}, writer: {class_path: mmtrain.objectives.Captioner, init_args:"
    " {decoder: {class_path: mmtrain.fusion.CaptionDecoder, init_args: {width: 32, layers: 1}}}}}"
)


def tower(**options: str) -> TimmTower:
    torch.manual_seed(0)
    return TimmTower(NAME, options=OPTIONS, **options).eval()


def packed(patches: int = 20) -> torch.Tensor:
    return torch.stack([NaFlexPipeline(patches, 8).evaluate(each) for each in PICTURES])


@pytest.mark.parametrize("pooling", ["timm", "mean", "max", "attention"])
@torch.no_grad()
def test_rows_depend_neither_on_the_batch_nor_on_padding(pooling: str) -> None:
    network, pictures = tower(pooling=pooling), packed()
    rows, tokens = network(pictures)
    alone = torch.cat([network(pictures[i : i + 1])[0] for i in range(len(pictures))])
    torch.testing.assert_close(alone, rows, atol=1e-6, rtol=0)
    longer = torch.nn.functional.pad(pictures, (0, 0, 0, 9))
    torch.testing.assert_close(network(longer)[0], rows, atol=1e-6, rtol=0)
    there = network.places(pictures)
    assert there.sum(1).tolist() == [20, 16, 20] and not tokens[~there].any()
    assert network(torch.zeros_like(pictures))[0].isfinite().all()  # a picture that is absent


@torch.no_grad()
def test_the_patches_of_a_square_are_the_square() -> None:
    network, square = tower(), PICTURES[1]
    pixels = torch.from_numpy(np.array(square)).permute(2, 0, 1)[None]
    for ours, theirs in zip(network(NaFlexPipeline(16, 8).evaluate(square)[None]), network(pixels), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


def test_towers_that_cannot_read_patches_are_one_line() -> None:
    with pytest.raises(ValueError, match="patch_size: .*vit_tiny_patch16_224 reads no pictures of free size"):
        TimmTower("vit_tiny_patch16_224").check_shape((16, 770))
    with pytest.raises(ValueError, match="patch_size: .*its patches are 8 pixels wide, those of data.images have 768"):
        tower().check_shape((16, 770))
    dropping = TimmTower(NAME, options=OPTIONS | {"patch_drop_rate": 0.5})
    with pytest.raises(ValueError, match="patch_drop_rate does not go with pictures of free size"):
        dropping(packed())


@torch.no_grad()
def test_a_decoder_does_not_see_what_is_not_there() -> None:
    torch.manual_seed(0)
    decoder = CaptionDecoder(32, 1, 2, image_width=32, vocabulary_size=9, languages=["en"]).eval()
    torch.nn.init.normal_(decoder.output.weight)
    absent = ~tower().places(packed())
    tokens = tower()(packed())[1]
    noisy = tokens + absent[..., None] * torch.randn_like(tokens)
    zero, text = torch.zeros(3, dtype=torch.int64), torch.tensor([[1, 2, 3]] * 3)
    mask = torch.ones_like(text, dtype=torch.bool)
    clean, other = (decoder.log_likelihood(each, zero, text, mask, absent) for each in (tokens, noisy))
    torch.testing.assert_close(clean, other)
    assert not torch.allclose(decoder.log_likelihood(noisy, zero, text, mask), clean)
    for beams in (1, 2):
        clean, other = (decoder.write(each, zero, beams=beams, absent=absent) for each in (tokens, noisy))
        assert clean == other


@torch.no_grad()
def test_token_rows_have_a_mask() -> None:
    model = ImageTextModel(tower(), ByteGRU(width=32), dimension=8, multi={"dimension": 4}).eval()
    _, rows, there = model.encode_image_multi(packed())
    assert rows.shape == (3, 20, 4) and there.sum(1).tolist() == [20, 16, 20]


# ---- in a run


@pytest.fixture(scope="module")
def run(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("naflex") / "run"
    options = [*FREE, f"--model.objectives={CAPTIONER}", "--trainer.max_steps=4", "--model.micro_batch=3"]
    assert fit(shards, folder, *options) == 0
    return folder


def test_a_run_is_measured_and_exported(
    run: Path, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = mmtrain.load(run)
    rows = model.encode_image(PICTURES)
    np.testing.assert_allclose(model.encode_image(PICTURES, batch_size=1), rows, atol=1e-6)
    assert len(model.caption(PICTURES, language="lv", longest=3)) == 3
    report = str(tmp_path / "report")
    assert main(["evaluate", str(run), "--data", str(shards), "--out", report, "--workers", "0", "--generate"]) == 0
    assert main(["export", str(run), "--out", str(tmp_path / "export"), "--with", "captioner"]) == 0
    np.testing.assert_array_equal(mmtrain.load(tmp_path / "export").encode_image(PICTURES), rows)
    for other in ("onnx", "open_clip", "transformers_js"):
        capsys.readouterr()
        assert main(["export", str(run), "--out", str(tmp_path / other), "--format", other]) == 1
        assert f"--format {other}: it takes pictures of one size" in capsys.readouterr().err


def test_patches_are_probed_in_the_pictures_own_grid(run: Path, tmp_path: Path) -> None:
    """A dark spot in a bright picture, or the reverse, at one of its places."""
    rows, random = [], np.random.default_rng(0)
    for number in range(24):
        dark, column, wide = number % 2, int(random.integers(0, 4)), bool(number % 3)
        pixels = np.full((16, 64, 3), 230 if dark else 20, np.uint8)
        pixels[:, 16 * column : 16 * column + 16] = 20 if dark else 230
        x, y = (column + 0.5) / 4, 0.5
        image, place = (pixels, [dark, x, y]) if wide else (pixels.swapaxes(0, 1), [dark, y, x])
        Image.fromarray(np.ascontiguousarray(image)).save(tmp_path / f"{number}.png")
        row = {"id": str(number), "image": f"{number}.png", "captions": {"en": "a spot"}, "places": {"dark": [place]}}
        rows.append(json.dumps(row))
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    shards = str(tmp_path / "shards")
    assert main(["pack", "jsonl", str(tmp_path / "rows.jsonl"), "--out", shards, "--workers", "1"]) == 0
    probed = ["--probe", "dark", "--patches", "--train", shards, "--workers", "0", "--out", str(tmp_path / "report")]
    assert main(["evaluate", str(run), "--data", shards, *probed]) == 0
    found = json.loads((tmp_path / "report" / "metrics.json").read_text())["probe"]["dark"]
    assert found["n"] == 24 and found["accuracy"] == 100


def test_crops_are_of_one_size(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    masked = "{patches: {class_path: mmtrain.objectives.MaskedPatches, init_args: {prototypes: 8, hidden: 16}}}"
    options = [f"--model.objectives={masked}", "--data.fields={global: {class_path: datamodules.Crops}}"]
    assert fit(shards, tmp_path / "run", *FREE, *options, "--trainer.max_steps=1") == 1
    assert "data.fields.global: pictures of free size have no crops" in capsys.readouterr().err


def test_parts_of_a_batch_are_the_batch(shards: Path, tmp_path: Path) -> None:
    for name, more in (("whole", []), ("parts", ["--model.micro_batch=3"])):
        assert fit(shards, tmp_path / name, *FREE, "--trainer.max_steps=3", *more) == 0
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, atol=1e-4, rtol=1e-3, msg=name)


def test_the_tower_masks_patches_of_squares(shards: Path, tmp_path: Path) -> None:
    masked = "{class_path: mmtrain.objectives.MaskedPatches, init_args: {prototypes: 8, hidden: 16}}"
    options = [f"--model.objectives={{contrast: {{class_path: losses.SiglipLoss}}, patches: {masked}}}"]
    options += ["--data.fields={global: {class_path: datamodules.Crops}}", FREE[0], "--trainer.max_steps=2"]
    assert fit(shards, tmp_path / "squares", *options) == 0


def test_the_last_stage_takes_pictures_of_free_size(shards: Path, tmp_path: Path) -> None:
    page = yaml.safe_load(Path(TINY).read_text(encoding="utf-8"))
    page["data"]["init_args"] |= {"train": str(shards), "val": str(shards)}
    page["data"]["init_args"]["images"] = {"class_path": "datamodules.ImagePipeline", "init_args": {"size": 32}}
    page["model"]["init_args"]["image"] = json.loads(TOWER)
    page["stages"] = [{}, {"data": {"init_args": {"images": PIPELINE}}}]
    (tmp_path / "page.yaml").write_text(yaml.safe_dump(page))
    options = ["--trainer.max_steps=2", f"--trainer.default_root_dir={tmp_path / 'run'}", *SMALL[2:4], *SMALL[6:]]
    assert main(["fit", "--config", str(tmp_path / "page.yaml"), *options]) == 0
    stages = [mmtrain.load(tmp_path / "run" / stage).images for stage in ("1", "2")]
    assert [isinstance(images, NaFlexPipeline) for images in stages] == [False, True]


def test_fusion_encoders_read_pictures_of_one_size(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fusion = {"class_path": "mmtrain.fusion.CrossAttentionFusion", "init_args": {"width": 16, "layers": 1, "heads": 2}}
    head = {"class_path": "mmtrain.fusion.MatchingHead", "init_args": {"fusion": fusion}}
    matching = json.dumps({"itm": {"class_path": "losses.ItmLoss", "init_args": {"fusion": head}}})
    assert fit(shards, tmp_path / "run", *FREE, f"--model.objectives={matching}", "--trainer.max_steps=1") == 1
    said = capsys.readouterr().err
    assert "pictures of free size are read by the captioner, not by fusion encoders" in said


@pytest.mark.system
def test_a_run_of_two_processes_is_that_of_one(shards: Path, tmp_path: Path) -> None:
    steps = [*FREE, "--trainer.max_steps=4", "--model.learning_rate=0.001"]
    assert fit(shards, tmp_path / "one", *steps) == 0
    two = ["--data.batch_size=4", "--trainer.devices=2", "--trainer.strategy=ddp"]
    command = [sys.executable, "-m", "mmtrain.cli", *arguments(shards, tmp_path / "two", *steps, *two)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr[-2000:]
    for name, tensor in weights(tmp_path / "one").items():
        torch.testing.assert_close(weights(tmp_path / "two")[name], tensor, atol=1e-4, rtol=1e-3, msg=name)


# ---- other libraries' models


@pytest.fixture(scope="module")
def siglip2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("siglip2")
    layers = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = layers | {"vocab_size": 120, "max_position_embeddings": 16, "projection_size": 32}
    vision = layers | {"patch_size": 8, "num_patches": 16}
    torch.manual_seed(0)
    Siglip2Model(Siglip2Config(vision_config=vision, text_config=text)).save_pretrained(folder)
    Siglip2ImageProcessor(patch_size=8, max_num_patches=24).save_pretrained(folder)
    words(folder)
    return folder


def test_siglip_2_of_transformers(siglip2: Path) -> None:
    network, processor = AutoModel.from_pretrained(siglip2).eval(), Siglip2ImageProcessor.from_pretrained(siglip2)
    with torch.no_grad():
        images = unit(network.get_image_features(**processor(images=PICTURES, return_tensors="pt")).pooler_output)
    model = mmtrain.load(f"hf:{siglip2}")
    np.testing.assert_allclose(model.encode_image(PICTURES), images, atol=1e-6)
    np.testing.assert_allclose(model.encode_image(PICTURES, batch_size=1), images, atol=1e-6)


def test_a_run_starts_from_siglip_2_of_transformers(siglip2: Path, shards: Path, tmp_path: Path) -> None:
    init = {"name": NAME, "options": OPTIONS | {"mlp_ratio": 1.5}}
    image = json.dumps({"class_path": "mmtrain.towers.TimmTower", "init_args": init})
    options = [*FREE, f"--model.image={image}", f"--model.pretrained=hf:{siglip2}", "--model.learning_rate=0"]
    options += ["--model.dimension=32", "--model.projection=none", "--trainer.max_steps=1"]
    assert fit(shards, tmp_path / "run", *options) == 0
    ours, pictures = mmtrain.load(tmp_path / "run"), [picture.resize((40, 32)) for picture in PICTURES]
    theirs = mmtrain.load(f"hf:{siglip2}").encode_image(pictures)
    np.testing.assert_allclose(ours.encode_image(pictures), theirs, atol=1e-5)


@timm.models.register_model
def naflexvit_test(pretrained: bool = False, **options: object) -> torch.nn.Module:
    """An architecture that open_clip's config can name."""
    return timm.create_model(NAME, **OPTIONS, **options)


@pytest.fixture(scope="module")
def open_clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    open_clip, folder = pytest.importorskip("open_clip"), tmp_path_factory.mktemp("open_clip")
    vision = {"image_size": 40, "timm_model_name": "naflexvit_test", "timm_pool": "map", "timm_proj": "linear"}
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    settings = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}
    preprocess = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "interpolation": "bilinear"}
    config = {"model_cfg": settings | {"custom_text": True}, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    save_file(open_clip.CustomTextCLIP(**settings).state_dict(), folder / "open_clip_model.safetensors")
    return folder


def test_naflex_of_open_clip(open_clip_folder: Path) -> None:
    import open_clip

    network = open_clip.create_model_and_transforms(f"local-dir:{open_clip_folder}")[0].eval()
    channels = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}
    free = {"naflex": True, "patchify": True, "patch_size": 8, "max_seq_len": 25}
    steps = create_transform((3, 40, 40), interpolation="bilinear", **channels, **free)
    batch = NaFlexCollator(25)([(steps(picture), 0) for picture in PICTURES])[0]
    with torch.no_grad():
        images = unit(network.encode_image(batch))
    model = mmtrain.load(f"open_clip:{open_clip_folder}")
    np.testing.assert_allclose(model.encode_image(PICTURES), images, atol=1e-5)


def test_a_run_starts_from_a_naflex_of_open_clip(open_clip_folder: Path, shards: Path, tmp_path: Path) -> None:
    theirs = f"open_clip:{open_clip_folder}"
    options = [*FREE, f"--model.pretrained={theirs}", "--model.dimension=24", "--model.learning_rate=0"]
    assert fit(shards, tmp_path / "run", *options, "--trainer.max_steps=1") == 0
    ours, pictures = mmtrain.load(tmp_path / "run"), [picture.resize((40, 32)) for picture in PICTURES]
    np.testing.assert_allclose(ours.encode_image(pictures), mmtrain.load(theirs).encode_image(pictures), atol=1e-5)
