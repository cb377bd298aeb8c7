"""sentence-transformers holds our poolings, projections and prompts, and says in one line what it does not."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

import mmtrain
from datamodules import ByteTokenizer, ImagePipeline, TransformersTokenizer
from mmtrain.export.parity import images
from mmtrain.export.writing import write
from mmtrain.models.encoder import Encoder
from mmtrain.models.image_text import ImageTextModel
from mmtrain.towers import FeatureTower, TimmTower, TransformersTower
from tests.mmtrain.encoders import XLMR, write_words


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_words(tmp_path_factory.mktemp("words"))


def model(words: str, *, text="mean", image="timm", tokenizer: Any = None, metric="cosine", **options: Any) -> Encoder:
    torch.manual_seed(0)
    tokenizer = TransformersTokenizer(words, max_length=32, **(tokenizer or {}))
    config = XLMR | {"vocab_size": tokenizer.vocabulary_size, "hidden_size": 64}
    tower = TransformersTower(config=config, pooling=text)
    width = 64 if options.get("projection") == "none" else 24
    network = ImageTextModel(TimmTower("test_vit", pooling=image), tower, width, **options)
    for vector in network.observed.values():
        torch.nn.init.normal_(vector)
    return Encoder(network, tokenizer, ImagePipeline(size=160), ["en"], metric, "a test", scale=20.0)


SIGLIP = {"padding": "max_length", "attend_padding": True, "lowercase": True}


@pytest.mark.parametrize(
    "options",
    [
        {"text": "cls", "projection": "none"},
        {"text": "max", "image": "mean", "projection": "mlp"},
        {"text": "last", "image": "cls", "tokenizer": SIGLIP},
        {"layer_norm": True, "missing": ["image", "text"]},
    ],
)
def test_its_modules_hold_what_ours_do(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    ours = model(words, **options)
    write(ours, "a model", tmp_path / "out", "sentence_transformers")  # which compares
    theirs = SentenceTransformer(str(tmp_path / "out"), device="cpu", local_files_only=True)
    texts = ["forty-two", "", "Word " * 100, "العربية ١٢٣"]
    np.testing.assert_allclose(theirs.encode(texts), ours.encode_text(texts), atol=1e-5)
    pictures = images(ours)[:4]
    scores = ours.similarity(ours.encode_text(texts), ours.encode_image(pictures))
    np.testing.assert_allclose(theirs.similarity(theirs.encode(texts), theirs.encode(pictures)), scores, atol=1e-5)


def test_prompts_go_with_their_roles(words: str, tmp_path: Path) -> None:
    ours = model(words, prompts={"query": "find: ", "passage": "text: "})
    write(ours, "a model", tmp_path / "out", "sentence_transformers")
    theirs = SentenceTransformer(str(tmp_path / "out"), device="cpu", local_files_only=True, truncate_dim=8)
    for role, encode in (("query", theirs.encode_query), ("passage", theirs.encode_document)):
        rows = encode(["two words"], normalize_embeddings=True)
        np.testing.assert_allclose(rows, ours.encode_text(["two words"], role=role, dim=8), atol=1e-5)


def test_what_it_does_not_hold_is_one_line(words: str, tmp_path: Path) -> None:
    features = Encoder(
        ImageTextModel(FeatureTower(12), TransformersTower(config=XLMR | {"vocab_size": 300}), 24),
        TransformersTokenizer(words),
        None,
        [],
        "cosine",
        "a test",
    )
    odd = model(words)
    odd.tokenizer = ByteTokenizer()
    for encoder, message in (
        (model(words, text="attention"), "text pooling is attention, it has cls, mean, max, last; use"),
        (model(words, image="attention"), "image pooling is attention"),
        (
            model(words, metric="asymmetric"),
            "it scores by cosine, this model by asymmetric similarity",
        ),
        (features, "it has timm and transformers towers, not FeatureTower and TransformersTower"),
        (odd, "it has tokenizers of transformers, not ByteTokenizer"),
    ):
        with pytest.raises(ValueError, match=message) as raised:
            write(encoder, "a model", tmp_path / "out", "sentence_transformers")
        assert "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_mmtrain_says_that_it_does_not_read_the_folder(words: str, tmp_path: Path) -> None:
    write(model(words), "a model", tmp_path / "out", "sentence_transformers")
    with pytest.raises(ValueError, match="is a folder for sentence-transformers or transformers.js"):
        mmtrain.load(tmp_path / "out")


@pytest.mark.parametrize("format", ["sentence_transformers", "multi_vector"])
def test_without_the_library_it_is_one_line(
    format: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("sentence_transformers_folder", "multi_vector_folder"):
        monkeypatch.delitem(sys.modules, f"mmtrain.export.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ValueError, match=f"--format: {format} needs sentence_transformers: pip install") as raised:
        write(model(words), "a model", tmp_path / "out", format)
    assert "\n" not in str(raised.value) and not (tmp_path / "out").exists()
