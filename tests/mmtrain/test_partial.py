"""`--model.pretrained`: what fits is loaded, grids of positions are resized, and the log says what was not."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from datamodules import TransformersTokenizer
from mmtrain.cli import main
from mmtrain.models.image_text import ImageTextModel
from mmtrain.models.loading import load
from mmtrain.models.run_folder import read_checkpoint
from mmtrain.towers import ByteGRU, FeatureTower, TimmTower, TransformersTower
from mmtrain.training.starting_weights import load_partially
from tests.mmtrain.encoders import XLMR, saved, write_words
from tests.mmtrain.small import fit

VIT = {"patch_size": 16, "embed_dim": 32, "depth": 1, "num_heads": 2}


@pytest.fixture(scope="module")
def run(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    assert fit(shards, folder, "--trainer.max_steps=2") == 0
    return folder


def model(size: int = 32, width: int = 32) -> ImageTextModel:
    return ImageTextModel(TimmTower("vit_tiny_patch16_224", image_size=size, options=VIT), ByteGRU(width=width), 16)


def test_larger_pictures_have_more_positions(run: Path) -> None:
    larger = model(size=64)
    said = load_partially(larger, str(run / "checkpoints" / "last.ckpt"))
    assert "resized: image.network.pos_embed [1, 5, 32] to [1, 17, 32]" in said
    assert "as they were: none; left out of it: none" in said
    before = read_checkpoint(run / "checkpoints" / "last.ckpt")["state_dict"]["model.image.network.pos_embed"]
    # the class token's position is not on the grid
    torch.testing.assert_close(larger.image.network.pos_embed[:, 0], before[:, 0])
    assert torch.isfinite(larger.image.network.pos_embed).all()


def test_another_text_tower_is_left_as_it_was(run: Path) -> None:
    wider = model(width=48)
    fresh = wider.text.forwards[0].weight_ih_l0.clone()
    said = load_partially(wider, str(run))
    assert "22 of 31 tensors loaded" in said and "as they were: text.forwards.0.weight_ih_l0" in said
    assert torch.equal(wider.text.forwards[0].weight_ih_l0, fresh)
    before = read_checkpoint(run / "checkpoints" / "last.ckpt")["state_dict"]
    assert torch.equal(wider.image.network.pos_embed, before["model.image.network.pos_embed"])


def test_where_nothing_fits_it_is_refused(run: Path) -> None:
    strange = ImageTextModel(FeatureTower(8), ByteGRU(width=24, embedding=8), 6)
    with pytest.raises(ValueError, match="nothing of .* fits: it has image"):
        load_partially(strange, str(run))


def test_a_run_begins_with_another(
    run: Path, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    options = ["--trainer.max_steps=1", "--model.learning_rate=0", f"--model.pretrained={run}"]
    with caplog.at_level("INFO"):
        assert fit(shards, tmp_path, *options) == 0
    assert "tensors loaded; resized: none; as they were: none" in caplog.text + capsys.readouterr().err
    old, new = (read_checkpoint(folder / "checkpoints" / "last.ckpt") for folder in (run, tmp_path))
    same = [name for name in old["state_dict"] if name.startswith("model.text.")]
    assert same and all(torch.equal(old["state_dict"][name], new["state_dict"][name]) for name in same)


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """A model of timm and transformers towers in the formats of other libraries."""
    tokenizer = TransformersTokenizer(write_words(tmp_path / "words"), max_length=32)
    ours = saved(tmp_path / "ours", text_tower(tokenizer.vocabulary_size), tokenizer)
    for format in ("open_clip", "transformers"):
        assert main(["export", ours, "--out", str(tmp_path / format), "--format", format]) == 0
    return tmp_path


def text_tower(vocabulary: int) -> TransformersTower:
    return TransformersTower(config=XLMR | {"vocab_size": vocabulary}, pooling="cls")


def test_an_open_clip_folder_brings_its_normalisation(exported: Path) -> None:
    place = exported / "open_clip" / "open_clip_config.json"
    config = json.loads(place.read_text())
    config["preprocess_cfg"] |= {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}
    place.write_text(json.dumps(config))
    theirs = load(exported / "open_clip")
    torch.manual_seed(1)
    fresh = ImageTextModel(TimmTower("test_vit"), text_tower(theirs.tokenizer.vocabulary_size), dimension=24).eval()
    said = load_partially(fresh, str(exported / "open_clip"))
    assert "as they were: none; left out of it: logit_scale" in said
    picture = Image.effect_noise((160, 160), 90)
    with torch.no_grad():
        rows = fresh.encode_image(theirs.pixels([picture])).numpy()
    np.testing.assert_allclose(rows, theirs.encode_image([picture]), atol=1e-5)


def test_open_clips_own_vision_transformer_becomes_timms(tmp_path: Path) -> None:
    open_clip = pytest.importorskip("open_clip")
    vision = {"image_size": 32, "patch_size": 8, "width": 64, "layers": 2, "head_width": 32}
    text = {"context_length": 8, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    settings = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}
    preprocessing = {"size": [32, 32], "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}
    config = {"model_cfg": settings, "preprocess_cfg": preprocessing}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    save_file(open_clip.CLIP(**settings).state_dict(), tmp_path / "open_clip_model.safetensors")
    options = {"patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 2}
    tower = TimmTower("vit_base_patch32_clip_224", image_size=32, options=options)
    fresh, theirs = ImageTextModel(tower, ByteGRU(width=8), 24).eval(), load(f"open_clip:{tmp_path}")
    load_partially(fresh, f"open_clip:{tmp_path}")
    picture = Image.effect_noise((32, 32), 90)
    with torch.no_grad():
        rows = fresh.encode_image(theirs.pixels([picture])).numpy()
    np.testing.assert_allclose(rows, theirs.encode_image([picture]), atol=1e-5)


def test_another_tower_keeps_its_own_normalisation(run: Path) -> None:
    other = ImageTextModel(TimmTower("test_vit"), ByteGRU(width=32), 16)
    other.image.mean.fill_(0.25)
    load_partially(other, str(run))
    assert (other.image.mean == 0.25).all()


def test_a_name_in_common_is_no_start(exported: Path) -> None:
    fresh = ImageTextModel(TimmTower("test_vit"), text_tower(260), dimension=24)
    with pytest.raises(ValueError, match="model.pretrained: nothing of hf:.* fits"):
        load_partially(fresh, f"hf:{exported / 'transformers'}")
