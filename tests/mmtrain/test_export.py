"""What is exported is loaded by the libraries it is for, in a process that never imports mmtrain."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mmtrain
from datamodules import ByteTokenizer, TransformersTokenizer
from mmtrain.cli import main
from mmtrain.export.parity import captions, images
from mmtrain.towers import ByteGRU, FeatureTower, TransformersTower, WordGRU
from tests.mmtrain.encoders import XLMR, saved, write_words
from tests.mmtrain.small import ENVIRONMENT


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_words(tmp_path_factory.mktemp("words"))


def xlmr(folder: Path, words: str, pooling: str) -> str:
    tokenizer = TransformersTokenizer(words, max_length=32)
    return saved(
        folder, TransformersTower(config=XLMR | {"vocab_size": tokenizer.vocabulary_size}, pooling=pooling), tokenizer
    )


def run(program: str, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings that a program without mmtrain writes for the picture and captions beside it."""
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)], env=ENVIRONMENT, capture_output=True, text=True, cwd=folder
    )
    assert done.returncode == 0, done.stderr[-2000:]
    rows = np.load(folder / "rows.npz")
    return rows["image"], rows["text"]


CAPTIONS = ["forty-two", "četrdesmit divi", "أربعون", "", "word " * 100]
BEGIN = """
import json, sys
import numpy as np
from PIL import Image
folder = sys.argv[1]
captions = json.load(open(folder + "/captions.json"))
picture = Image.open(folder + "/picture.png")
unit = lambda rows: rows / np.linalg.norm(rows, axis=1, keepdims=True)
"""
END = """
assert not any(name.startswith(("mmtrain", "datamodules", "losses")) for name in sys.modules)
np.savez(folder + "/rows.npz", image=image, text=text)
"""
OPEN_CLIP = """
import open_clip, torch
model, _, preprocess = open_clip.create_model_and_transforms("local-dir:" + folder)
model.eval()
with torch.no_grad():
    image = unit(model.encode_image(preprocess(picture)[None]).numpy())
    text = unit(model.encode_text(open_clip.get_tokenizer("local-dir:" + folder)(captions)).numpy())
assert abs(model.logit_scale.exp().item() - 20) < 1e-3
"""
TRANSFORMERS = """
import torch
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer
model = AutoModel.from_pretrained(folder).eval()
tokens = AutoTokenizer.from_pretrained(folder)(captions, padding=True, truncation=True, return_tensors="pt")
pixels = AutoImageProcessor.from_pretrained(folder)(images=[picture], return_tensors="pt")
with torch.no_grad():
    image = unit(model.get_image_features(**pixels).pooler_output.numpy())
    text = unit(model.get_text_features(tokens["input_ids"], tokens["attention_mask"]).pooler_output.numpy())
assert type(model).__module__.startswith("transformers.")
"""
ONNX = """
import onnxruntime, unicodedata
settings = json.load(open(folder + "/preprocessing.json"))
size, limit = settings["images"]["init_args"]["size"], settings["tokenizer"]["init_args"]["max_length"]
pixels = np.asarray(picture.convert("RGB"), dtype=np.uint8).transpose(2, 0, 1)[None]
assert pixels.shape[2:] == (size, size)
rows = [unicodedata.normalize("NFC", text.strip()).encode()[:limit - 2].decode(errors="ignore") for text in captions]
rows = [[1, *(byte + 3 for byte in text.encode()), 2] for text in rows]
tokens = np.zeros((len(rows), max(map(len, rows))), np.int64)
for index, row in enumerate(rows):
    tokens[index, :len(row)] = row
graph = lambda name: onnxruntime.InferenceSession(folder + "/" + name)
image = graph("image.onnx").run(None, {"pixels": pixels})[0]
text = graph("text.onnx").run(None, {"tokens": tokens, "mask": tokens > 0})[0]
"""


@pytest.mark.system
@pytest.mark.parametrize("format", ["open_clip", "transformers", "onnx"])
def test_another_program_gives_the_models_rows(format: str, words: str, tmp_path: Path) -> None:
    if format == "onnx":
        model = saved(tmp_path / "model", ByteGRU(width=32), ByteTokenizer(max_length=40))
    else:
        model = xlmr(tmp_path / "model", words, "mean" if format == "open_clip" else "cls")
    out = tmp_path / "out"
    assert main(["export", model, "--out", str(out), "--format", format]) == 0
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (160, 160, 3), dtype=np.uint8))
    picture.save(out / "picture.png")
    (out / "captions.json").write_text(json.dumps(CAPTIONS))
    program = {"open_clip": OPEN_CLIP, "transformers": TRANSFORMERS, "onnx": ONNX}[format]
    image, text = run(BEGIN + program + END, out)
    ours = mmtrain.load(model)
    np.testing.assert_allclose(image, ours.encode_image([picture]), atol=1e-4)
    np.testing.assert_allclose(text, ours.encode_text(CAPTIONS, "en"), atol=1e-4)


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


@pytest.mark.parametrize(
    ("format", "message"),
    [
        ("open_clip", "not TimmTower and ByteGRU; use safetensors or onnx"),
        ("transformers", "not TimmTower and ByteGRU; use safetensors or onnx"),
        ("onnx", "WordGRU has a network for each language"),
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
