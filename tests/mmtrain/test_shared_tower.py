"""One tower for pictures and for texts drawn as pictures: trained, loaded, exported, asked with both at once."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import losses
import mmtrain
from datamodules import ByteTokenizer, ImagePipeline, RenderedText
from datamodules.tokenizers.fonts import unifont_file
from mmtrain.cli import main
from mmtrain.export.writing import write
from mmtrain.models.batches import embed_batch
from mmtrain.models.encoder import Encoder
from mmtrain.models.image_text import ImageTextModel
from mmtrain.towers import TimmTower
from tests.mmtrain.batches import made_batch

SIZE = 64
OPTIONS = {"patch_size": 16, "embed_dim": 32, "depth": 1, "num_heads": 2, "class_token": False, "global_pool": "avg"}
TOWER = {"name": "vit_tiny_patch16_224", "pooling": "attention", "image_size": SIZE, "options": OPTIONS}
CAPTIONS = ["one", "two words", "a caption that takes several lines"]


@pytest.fixture(autouse=True)
def unifont() -> None:
    try:
        unifont_file()
    except ValueError as error:
        pytest.skip(str(error))


def encoder() -> Encoder:
    torch.manual_seed(0)
    model = ImageTextModel(TimmTower(**TOWER), "shared", 12)
    return Encoder(model, RenderedText(SIZE), ImagePipeline(size=SIZE), ["en"], "cosine", "a test", scale=10.0)


def picture(level: int) -> Image.Image:
    return Image.new("RGB", (80, 40), (level, 2 * level, 90))


def fitted(tmp_path: Path, train: Path, *options: str) -> int:
    """The exit code of a training of two steps."""
    tower = {"class_path": "mmtrain.towers.TimmTower", "init_args": TOWER}
    objectives = {name: {"class_path": f"losses.{name}"} for name in ("ClipLoss", "InfoNceLoss")}
    config = {
        "trainer": {"default_root_dir": str(tmp_path / "run"), "max_steps": 2, "accelerator": "cpu"},
        "data": {
            "class_path": "datamodules.ShardDataModule",
            "init_args": {
                "parts": {
                    "pictures": {"train": str(train), "batch_size": 4},
                    "next": {"train": str(tmp_path / "next"), "batch_size": 12},
                },
                "workers": 0,
                "tokenizer": {"class_path": "datamodules.RenderedText", "init_args": {"size": SIZE}},
                "images": {"class_path": "datamodules.ImagePipeline", "init_args": {"size": SIZE}},
            },
        },
        "model": {
            "class_path": "mmtrain.ContrastiveModule",
            "init_args": {"image": tower, "text": "shared", "objectives": objectives, "dimension": 12},
        },
    }
    (tmp_path / "page.yaml").write_text(json.dumps(config))
    return main(["fit", "--config", str(tmp_path / "page.yaml"), *options])


@pytest.fixture
def sentences(tmp_path: Path) -> None:
    rows = [f"sentence number {i}\tsentence number {i + 1}" for i in range(30)]
    (tmp_path / "next.tsv").write_text("\n".join(["query\tpositive", *rows]) + "\n")
    assert main(["pack", "pairs", str(tmp_path / "next.tsv"), "--out", str(tmp_path / "next")]) == 0


@pytest.mark.usefixtures("sentences")
def test_it_is_trained_on_pictures_and_next_sentences_and_loaded(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fitted(tmp_path, shards) == 0
    loaded = mmtrain.load(tmp_path / "run")
    assert loaded.model.shared and isinstance(loaded.tokenizer, RenderedText)
    names = [name.split(".")[0] for name in loaded.model.state_dict()]
    assert set(names) == {"image", "image_projection", "text_projection"}
    rows = loaded.encode_text(CAPTIONS)
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    for i, caption in enumerate(CAPTIONS):  # whatever stands beside it
        np.testing.assert_allclose(loaded.encode_text([caption])[0], rows[i], atol=1e-6)
    skipped = json.loads((tmp_path / "run" / "skipped.json").read_text())
    assert skipped["tried"] == 32 and skipped["texts_cut"] == 0


@pytest.mark.usefixtures("sentences")
@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            ["--data.tokenizer", "datamodules.ByteTokenizer"],
            "model.text is shared with the image tower, but ByteTokenizer gives token ids; datamodules.RenderedText",
        ),
        (["--data.tokenizer.size", "96"], "data.tokenizer.size: the image tower cannot read pages of 96 pixels"),
        (["--data.tokenizer.font", "Noto Sans Nowhere"], "apt-get install fonts-noto-core"),
    ],
)
def test_texts_that_the_tower_cannot_read_are_one_line(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture, options: list[str], says: str
) -> None:
    assert fitted(tmp_path, shards, *options) == 1
    assert says in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("format", ["safetensors", "onnx"])
def test_an_export_holds_it(format: str, tmp_path: Path) -> None:
    ours = encoder()
    write(ours, "a test", tmp_path / "export", format=format)
    theirs = mmtrain.load(tmp_path / "export")
    assert theirs.model.shared and theirs.tokenizer.digest == ours.tokenizer.digest
    assert not list((tmp_path / "export").rglob("*.hex"))
    captions = [*CAPTIONS, "word " * 100]
    np.testing.assert_allclose(theirs.encode_text(captions), ours.encode_text(captions), atol=1e-5)
    np.testing.assert_allclose(theirs.encode_image([picture(9)]), ours.encode_image([picture(9)]), atol=1e-5)
    both = ("what?", [picture(9)])
    np.testing.assert_allclose(theirs.encode_query(*both), ours.encode_query(*both), atol=1e-5)


@pytest.mark.parametrize("format", ["open_clip", "transformers", "sentence_transformers", "transformers_js"])
def test_other_formats_refuse_it_in_words(format: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="use safetensors or onnx"):
        write(encoder(), "a test", tmp_path / "export", format=format)
    assert not (tmp_path / "export").exists()


def test_text_and_pictures_are_one_canvas() -> None:
    """The text's rows above, the pictures below it side by side, each as the model sees it and smaller."""
    ours = encoder()
    row = ours.encode_query("what?", [picture(60), picture(100)])
    text = ours.tokenizer(["what?"], [""])[0][0].numpy()
    canvas = np.full((SIZE, SIZE, 3), 127, np.uint8)
    canvas[:16] = text[..., None]
    for place, level in enumerate((60, 100)):
        canvas[16 : 16 + SIZE // 2, place * SIZE // 2 :][:, : SIZE // 2] = (level, 2 * level, 90)
    np.testing.assert_allclose(row, ours.encode_image(canvas[None])[0], atol=1e-6)
    np.testing.assert_allclose(ours.encode_query("what?"), ours.encode_text(["what?"])[0], atol=1e-6)
    rows = ours.encode_queries([{"images": [picture(60)]}, {"text": "what?", "images": [picture(60), picture(100)]}])
    np.testing.assert_allclose(rows[0], ours.encode_image([picture(60)])[0], atol=1e-6)
    np.testing.assert_allclose(rows[1], row, atol=1e-6)


@pytest.mark.parametrize(("text", "pictures"), [("words " * 40, 1), ("what?", 5)])
def test_a_canvas_without_room_is_one_line(text: str, pictures: int) -> None:
    with pytest.raises(ValueError, match=r"query 0: a text of \d+ of 64 rows and \d pictures have no room on one page"):
        encoder().encode_query(text, [picture(60)] * pictures)


def test_objectives_on_tokens_see_the_patches_of_a_page() -> None:
    ours = encoder()
    tokens, mask = ours.tokenizer(CAPTIONS, ["en"] * 3)
    plain = made_batch(torch.zeros(3, 3, SIZE, SIZE, dtype=torch.uint8), K=1)
    batch = replace(plain, tokens=tokens[:, None], token_mask=mask[:, None])
    embeddings = embed_batch(ours.model, batch, tokens=True)
    features = embeddings.text_tokens
    assert features.leading.shape[:3] == features.leading_mask.shape == (3, 1, 1 + (SIZE // 16) ** 2)
    assert features.leading_mask.all()
    torch.testing.assert_close(embeddings.texts[:, 0], ours.model.encode_text(tokens, mask))
    assert losses.ClipLoss()(embeddings).isfinite()


def test_a_model_of_two_towers_adds_rows() -> None:
    """What draws on a canvas is the shared tower, not the tokenizer."""
    assert not ImageTextModel(None, mmtrain.towers.ByteGRU(width=16), 12).shared
    assert ByteTokenizer().cut == 0
