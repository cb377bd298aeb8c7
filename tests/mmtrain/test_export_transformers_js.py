"""What transformers.js reads: names, types, ids and rows, by onnxruntime alone and by the package itself in node."""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer

import mmtrain
from benchmarks.readers import NODE, install, rows_of
from datamodules import ByteTokenizer, TransformersTokenizer, WordTokenizer
from mmtrain.cli import main
from mmtrain.export import graphs
from mmtrain.export.parity import captions, images
from mmtrain.export.writing import write
from mmtrain.models.encoder import Encoder
from mmtrain.towers import ByteGRU, FeatureTower, TransformersTower, WordGRU
from tests.mmtrain.encoders import XLMR, saved, write_words

LIMIT = 40
SHIP = "🙂🏽\u200d🚀"
# blanks of all kinds, the tokenizer's own words, combining marks, four bytes a character, lengths about the limit
TEXTS = [
    "",
    " \u3000\x1c a\u00a0",
    "<s>x</s><pad>",
    "e\u0301",
    SHIP * 9,
    *("é" * length for length in range(17, 22)),
]
SIGLIP = {"padding": "max_length", "attend_padding": True, "lowercase": True}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Encoder, Path]:
    """A model of bytes and its folder."""
    place = tmp_path_factory.mktemp("bytes")
    model = saved(place / "model", ByteGRU(width=32), ByteTokenizer(max_length=LIMIT))
    assert main(["export", model, "--out", str(place / "out"), "--format", "transformers_js"]) == 0
    return mmtrain.load(model), place / "out"


def test_graphs_have_its_names_and_types(exported: tuple[Encoder, Path]) -> None:
    encoder, folder = exported
    for suffix in ("", "_fp16", "_quantized"):
        session = onnxruntime.InferenceSession(folder / "onnx" / f"text_model{suffix}.onnx")
        assert {each.name: each.type for each in session.get_inputs()} == {
            "input_ids": "tensor(int64)",
            "attention_mask": "tensor(int64)",
        }
        session = onnxruntime.InferenceSession(folder / "onnx" / f"vision_model{suffix}.onnx")
        assert [(each.name, each.type) for each in session.get_inputs()] == [("pixel_values", "tensor(float)")]
        (rows,) = session.run(["image_embeds"], {"pixel_values": np.zeros((1, 3, 160, 160), np.float32)})
        black = encoder.encode_image(np.zeros((1, 160, 160, 3), np.uint8))
        assert (rows * black).sum() > 0.99 * np.linalg.norm(rows)
    assert json.loads((folder / "config.json").read_text())["model_type"] == "clip"
    with pytest.raises(ValueError, match="is a folder for sentence-transformers or transformers.js"):
        mmtrain.load(folder)


def test_a_stranger_reads_byte_ids(exported: tuple[Encoder, Path]) -> None:
    encoder, folder = exported
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    whole = [text for text in TEXTS if len(text.encode()) <= LIMIT - 2]
    ids, mask = encoder.tokenizer(whole, [""] * len(whole))
    for row, present, encoded in zip(ids, mask, tokenizer.encode_batch(whole), strict=True):
        assert row[present].tolist() == np.array(encoded.ids)[np.array(encoded.attention_mask) > 0].tolist()


def test_rows_that_were_cut_anywhere_are_the_models(exported: tuple[Encoder, Path]) -> None:
    """transformers.js cuts behind the end token, between bytes."""
    encoder, folder = exported
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    encoded = tokenizer.encode_batch(TEXTS)
    session = onnxruntime.InferenceSession(folder / "onnx" / "text_model.onnx")
    inputs = {
        "input_ids": np.array([each.ids[:LIMIT] for each in encoded]),
        "attention_mask": np.array([each.attention_mask[:LIMIT] for each in encoded]),
    }
    (rows,) = session.run(None, inputs)
    np.testing.assert_allclose(rows, encoder.encode_text(TEXTS), atol=1e-5)


@pytest.mark.parametrize("options", [{}, SIGLIP], ids=["mask", "padding read"])
def test_the_end_comes_back_to_a_transformers_tokenizer(options: dict, tmp_path: Path) -> None:
    tokenizer = TransformersTokenizer(write_words(tmp_path / "words"), max_length=16, **options)
    tower = TransformersTower(config=XLMR | {"vocab_size": tokenizer.vocabulary_size}, pooling="last")
    encoder = mmtrain.load(saved(tmp_path / "model", tower, tokenizer, projection="mlp"))
    write(encoder, "a model", tmp_path / "out", "transformers_js")
    theirs = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    theirs.no_truncation()
    texts = ["Word " * 100, "A", ""]
    encoded = theirs.encode_batch(texts)
    session = onnxruntime.InferenceSession(tmp_path / "out" / "onnx" / "text_model.onnx")
    inputs = {
        "input_ids": np.array([(each.ids + [1] * 16)[:16] for each in encoded]),
        "attention_mask": np.array([(each.attention_mask + [0] * 16)[:16] for each in encoded]),
    }
    (rows,) = session.run(None, {each.name: inputs[each.name] for each in session.get_inputs()})
    np.testing.assert_allclose(rows, encoder.encode_text(texts), atol=1e-5)


def test_weights_of_their_own_file_have_its_name(
    exported: tuple[Encoder, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, _ = exported
    monkeypatch.setattr(graphs, "LARGEST_GRAPH", 200_000)
    write(encoder, "a model", tmp_path / "out", "transformers_js")  # which reads it
    names = ["text_model.onnx", "vision_model.onnx"]
    assert sorted(path.name for path in (tmp_path / "out" / "onnx").glob("*data")) == [f"{name}_data" for name in names]
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["transformers.js_config"] == {"use_external_data_format": dict.fromkeys(names, True)}


def test_what_it_does_not_hold_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "words.json").write_text(json.dumps({"words": {"en": ["two"]}}))
    words = WordTokenizer(str(tmp_path / "words.json"))
    for number, (text, tokenizer, image, message) in enumerate(
        [
            (WordGRU(2, 259, 16), ByteTokenizer(), None, "WordGRU has a network for each language"),
            (ByteGRU(width=32), words, None, "it has bytes and tokenizers of transformers, not WordTokenizer"),
            (
                ByteGRU(width=32),
                ByteTokenizer(),
                FeatureTower(12),
                "it takes pictures by a timm tower, not Feature",
            ),
        ]
    ):
        encoder = mmtrain.load(saved(tmp_path / f"model{number}", text, tokenizer, image))
        with pytest.raises(ValueError, match=message) as raised:
            write(encoder, "a model", tmp_path / "out", "transformers_js")
        assert "\n" not in str(raised.value) and not (tmp_path / "out").exists()


@pytest.mark.system
def test_the_package_gives_the_rows_in_node(exported: tuple[Encoder, Path], tmp_path: Path) -> None:
    """Offline; pictures cut by Pillow before, for its own resizing is another."""
    encoder, folder = exported
    if missing := install(tmp_path):
        pytest.skip(missing)
    pictures = images(encoder)
    assert encoder.images is not None and isinstance(pictures, list)
    cut = [Image.fromarray(encoder.images.evaluate(picture).permute(1, 2, 0).numpy()) for picture in pictures]
    texts = [*TEXTS, *(text for part in captions(encoder).values() for text in part)]
    ours = torch.from_numpy(encoder.encode_image(pictures)), torch.from_numpy(encoder.encode_text(texts))
    for kind, least in (("fp32", 1 - 1e-6), ("fp16", 0.999), ("q8", 0.99)):
        theirs = rows_of(NODE, folder, cut, texts, tmp_path, kind)
        for rows, side in zip(ours, ("image", "text"), strict=True):
            other = torch.from_numpy(theirs[side])
            assert torch.cosine_similarity(rows, other).min() >= least, (kind, side)
            if kind == "fp32":
                torch.testing.assert_close(other, rows, atol=1e-5, rtol=0)
