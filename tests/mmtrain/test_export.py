"""What is exported is loaded by the libraries it is for, in a process that never imports mmtrain."""

from pathlib import Path

import numpy as np
import pytest

import mmtrain
from benchmarks.readers import PYTHON, rows_of
from datamodules import ByteTokenizer, TransformersTokenizer
from mmtrain.cli import main
from mmtrain.export.parity import captions, images
from mmtrain.export.writing import FORMATS, write
from mmtrain.models.encoder import Encoder
from mmtrain.models.image_text import ImageTextModel
from mmtrain.towers import ByteGRU, FeatureTower, TransformersTower, WordGRU
from tests.mmtrain.encoders import XLMR, saved, write_words


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_words(tmp_path_factory.mktemp("words"))


def xlmr(folder: Path, words: str, pooling: str) -> str:
    tokenizer = TransformersTokenizer(words, max_length=32)
    return saved(
        folder, TransformersTower(config=XLMR | {"vocab_size": tokenizer.vocabulary_size}, pooling=pooling), tokenizer
    )


CAPTIONS = ["forty-two", "četrdesmit divi", "أربعون", "", "word " * 100]


@pytest.mark.system
@pytest.mark.parametrize("format", PYTHON)
def test_another_program_gives_the_models_rows(format: str, words: str, tmp_path: Path) -> None:
    if format in ("onnx", "transformers_js"):
        model = saved(tmp_path / "model", ByteGRU(width=32), ByteTokenizer(max_length=40))
    else:
        model = xlmr(tmp_path / "model", words, "cls" if format == "transformers" else "mean")
    out = tmp_path / "out"
    assert main(["export", model, "--out", str(out), "--format", format]) == 0
    ours = mmtrain.load(model)
    pictures = images(ours)[:12]
    theirs = rows_of(PYTHON[format], out, pictures, CAPTIONS, tmp_path)
    np.testing.assert_allclose(theirs["image"], ours.encode_image(pictures), atol=1e-5)
    np.testing.assert_allclose(theirs["text"], ours.encode_text(CAPTIONS, "en"), atol=1e-5)


@pytest.mark.parametrize("format", ["safetensors", "onnx", "open_clip", "transformers"])
def test_an_exported_folder_is_a_model(
    format: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = xlmr(tmp_path / "model", words, "cls")
    assert main(["export", model, "--out", str(tmp_path / "out"), "--format", format]) == 0
    assert "largest difference" in capsys.readouterr().out
    (tmp_path / "out").rename(tmp_path / "moved")
    before, after = mmtrain.load(model), mmtrain.load(tmp_path / "moved")
    np.testing.assert_allclose(
        after.encode_image(images(before)[:4]), before.encode_image(images(before)[:4]), atol=1e-4
    )
    np.testing.assert_allclose(after.encode_text(CAPTIONS, "lv"), before.encode_text(CAPTIONS, "lv"), atol=1e-4)
    assert after.scale == pytest.approx(20, rel=1e-5)
    assert (tmp_path / "moved" / "README.md").read_text().startswith("---\nlibrary_name:")


def test_the_probes_are_a_hundred_pictures_and_captions_in_twelve_languages(words: str, tmp_path: Path) -> None:
    model = mmtrain.load(xlmr(tmp_path / "model", words, "cls"))
    assert len(images(model)) == 100
    assert len(captions(model)) == 12 and sum(map(len, captions(model).values())) >= 100


@pytest.mark.system
def test_eight_bits_say_what_they_cost(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = saved(tmp_path / "model", ByteGRU(width=32), ByteTokenizer())
    options = ["--out", str(tmp_path / "out"), "--format", "onnx", "--int8", str(shards)]
    assert main(["export", model, *options]) == 0
    printed = capsys.readouterr().out
    assert "8-bit weights" in printed and "text_to_image lv:" in printed and "image_to_text mean:" in printed
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "out").glob("*.onnx")}
    assert sizes["image.int8.onnx"] < sizes["image.onnx"]


def test_features_and_onnx(tmp_path: Path) -> None:
    model = saved(tmp_path / "model", ByteGRU(width=32), ByteTokenizer(), image=FeatureTower(40))
    assert main(["export", model, "--out", str(tmp_path / "out"), "--format", "onnx"]) == 0
    vectors = np.random.default_rng(0).standard_normal((3, 40)).astype(np.float32)
    rows = mmtrain.load(tmp_path / "out").encode_image(vectors)
    np.testing.assert_allclose(rows, mmtrain.load(model).encode_image(vectors), atol=1e-5)


def test_a_model_of_texts_alone_is_written_where_texts_alone_fit(tmp_path: Path) -> None:
    network = ImageTextModel(None, ByteGRU(width=16), 8)
    encoder = Encoder(network, ByteTokenizer(), None, ["en"], "cosine", "texts")
    written = mmtrain.load(write(encoder, "texts", tmp_path / "out"))
    np.testing.assert_array_equal(written.encode_text(["seven"]), encoder.encode_text(["seven"]))
    for format in set(FORMATS) - {"safetensors"}:
        with pytest.raises(ValueError, match="this is a model of texts alone; safetensors"):
            write(encoder, "texts", tmp_path / format, format)
        assert not (tmp_path / format).exists()


@pytest.mark.parametrize(
    ("format", "message"),
    [
        ("open_clip", "not TimmTower and ByteGRU; use safetensors or onnx"),
        ("transformers", "not TimmTower and ByteGRU; use safetensors or onnx"),
        ("onnx", "WordGRU has a network for each language"),
        ("sentence_transformers", "not TimmTower and ByteGRU; use safetensors or onnx"),
    ],
)
def test_towers_that_a_format_lacks_are_named(
    format: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = WordGRU(languages=2, vocabulary_size=259, width=16) if format == "onnx" else ByteGRU(width=32)
    model = saved(tmp_path / "model", text, ByteTokenizer())
    assert main(["export", model, "--out", str(tmp_path / "out"), "--format", format]) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("out*"))


def test_mean_pooling_is_not_transformers(words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = xlmr(tmp_path / "model", words, "mean")
    assert main(["export", model, "--out", str(tmp_path / "out"), "--format", "transformers"]) == 1
    assert "reads the first token, this text tower pools by mean; use open_clip" in capsys.readouterr().err


def test_what_is_no_export_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = saved(tmp_path / "model", ByteGRU(width=32), ByteTokenizer())
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "README.md").write_text("# My thesis")
    assert main(["export", model, "--out", str(tmp_path / "out")]) == 1
    assert "holds other files" in capsys.readouterr().err
    assert (tmp_path / "out" / "README.md").read_text() == "# My thesis"
    assert main(["export", model, "--out", str(tmp_path / "new")]) == 0
    assert main(["export", model, "--out", str(tmp_path / "new")]) == 0
