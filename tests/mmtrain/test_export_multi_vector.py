"""Token rows in the formats that hold them; the others say that they do not."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import MultiVectorEncoder

import mmtrain
from datamodules import ByteTokenizer, ImagePipeline, TransformersTokenizer
from mmtrain.export.parity import images
from mmtrain.export.writing import write
from mmtrain.models.encoder import Encoder
from mmtrain.models.image_text import ImageTextModel
from mmtrain.towers import ByteGRU, TimmTower, TransformersTower
from tests.mmtrain.encoders import XLMR, write_words
from tests.mmtrain.small import ENVIRONMENT

TEXTS = ["forty-two", "", "Word " * 100, "العربية ١٢٣"]
ALONE = """
import sys
import numpy as np
from sentence_transformers import MultiVectorEncoder
model = MultiVectorEncoder(sys.argv[1], device="cpu", local_files_only=True)
assert not {"mmtrain", "losses", "datamodules"} & set(sys.modules)
for number, rows in enumerate(model.encode_query(["forty-two", "a"], convert_to_numpy=True)):
    np.save(f"{sys.argv[2]}/{number}.npy", rows)
"""


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_words(tmp_path_factory.mktemp("words"))


def model(words: str, *, image: TimmTower | None = None, multi: Any = None, **options: Any) -> Encoder:
    torch.manual_seed(0)
    tokenizer = TransformersTokenizer(words, max_length=32, **options)
    text = TransformersTower(config=XLMR | {"vocab_size": tokenizer.vocabulary_size, "hidden_size": 64})
    network = ImageTextModel(
        image or TimmTower("test_vit"), text, 24, multi=multi or {"dimension": 16}, prompts={"query": "find: "}
    )
    return Encoder(network, tokenizer, ImagePipeline(size=160), ["en"], "cosine", "a test", scale=20.0)


def test_its_own_class_reads_token_rows(words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours = model(words)
    write(ours, "a model", tmp_path / "out", "multi_vector")  # which compares
    assert "token rows: largest difference" in capsys.readouterr().out
    theirs = MultiVectorEncoder(str(tmp_path / "out"), device="cpu", local_files_only=True)
    pictures = images(ours)[:3]
    queries, items = ours.encode_text(TEXTS, multi=True, role="query"), ours.encode_image(pictures, multi=True)
    for one, other in zip(theirs.encode_query(TEXTS, convert_to_numpy=True), queries, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    slow = [[(query @ item.T).max(1).sum() for item in items] for query in queries]
    scores = theirs.similarity(theirs.encode_query(TEXTS), theirs.encode(pictures))
    np.testing.assert_allclose(scores, slow, atol=1e-4)


@pytest.mark.system
def test_a_process_without_mmtrain_reads_the_folder(words: str, tmp_path: Path) -> None:
    ours = model(words)
    write(ours, "a model", tmp_path / "out", "multi_vector")
    command = [sys.executable, "-c", ALONE, str(tmp_path / "out"), str(tmp_path)]
    subprocess.run(command, env=ENVIRONMENT, cwd=tmp_path, check=True, timeout=300)
    for number, rows in enumerate(ours.encode_text(["forty-two", "a"], multi=True, role="query")):
        np.testing.assert_allclose(np.load(tmp_path / f"{number}.npy"), rows, atol=1e-5)


def test_onnx_graphs_give_them_beside_the_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    network = ImageTextModel(TimmTower("test_vit"), ByteGRU(width=16), 24, multi={"dimension": 8})
    ours = Encoder(network, ByteTokenizer(), ImagePipeline(size=160), ["en"], "cosine", "a test")
    write(ours, "a model", tmp_path / "out", "onnx")
    assert "token rows: largest difference" in capsys.readouterr().out
    theirs = mmtrain.load(tmp_path / "out")
    for one, other in zip(
        theirs.encode_text(TEXTS, multi=True, budget=4), ours.encode_text(TEXTS, multi=True, budget=4), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("format", ["open_clip", "transformers", "sentence_transformers", "transformers_js"])
def test_formats_of_whole_rows_say_so(words: str, tmp_path: Path, format: str) -> None:
    with pytest.raises(ValueError, match=f"^--format {format}: it holds no token rows; safetensors, onnx and multi_"):
        write(model(words), "a model", tmp_path / "out", format)
    assert not (tmp_path / "out").exists()


def test_what_the_library_cannot_hold_is_one_line(words: str, tmp_path: Path) -> None:
    plain = model(words)
    plain.model = ImageTextModel(TimmTower("test_vit"), plain.model.get_submodule("text"), 24)
    siglip = {"padding": "max_length", "attend_padding": True}
    for encoder, message in (
        (plain, "^--format multi_vector: multi: the model gives no token rows"),
        (model(words, **siglip), "^--format multi_vector: it leaves out padding, which this tokenizer attends to"),
        (model(words, image=TimmTower("test_resnet")), "^--format multi_vector: it reads the tokens of vision trans"),
    ):
        with pytest.raises(ValueError, match=message) as raised:
            write(encoder, "a model", tmp_path / "out", "multi_vector")
        assert "\n" not in str(raised.value)
