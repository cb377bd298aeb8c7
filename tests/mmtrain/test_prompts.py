"""Prompts before texts that search and texts that are found: in training, and with the model ever after."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import mmtrain
from datamodules import ByteTokenizer
from datamodules.tokenizers.tokenizer import Prompted, tokenizer_of
from mmtrain.cli import main
from mmtrain.models.image_text import ImageTextModel
from mmtrain.towers import ByteGRU, FeatureTower
from tests.mmtrain.small import fit

PROMPTS = {"query": "query: ", "passage": "passage: "}
TEXTS = ["red", "zaļš"]


@pytest.fixture(scope="module")
def run(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prompts")
    options = [f"--model.prompts={json.dumps(PROMPTS)}", "--trainer.max_steps=1"]
    assert fit(shards, folder, *options) == 0
    return folder


def test_roles_have_their_prompts(run: Path) -> None:
    model = mmtrain.load(run)
    assert model.model.prompts == PROMPTS
    plain = model.encode_text(TEXTS)
    for role, prompt in PROMPTS.items():
        rows = model.encode_text(TEXTS, role=role)
        np.testing.assert_allclose(rows, model.encode_text([prompt + text for text in TEXTS]), atol=1e-6)
        assert not np.allclose(rows, plain, atol=1e-4)
    with pytest.raises(ValueError, match="role: got 'answer', expected query or passage"):
        model.encode_text(TEXTS, role="answer")


def test_a_model_without_prompts_has_roles_that_change_nothing() -> None:
    model = ImageTextModel(FeatureTower(4), ByteGRU(width=8), 8)
    assert model.arguments()["prompts"] == {}
    with pytest.raises(ValueError, match="model.prompts: got answer: 'a', expected a text for query and passage"):
        ImageTextModel(FeatureTower(4), ByteGRU(width=8), 8, prompts={"answer": "a"})


def test_texts_of_a_sample_are_read_in_their_role() -> None:
    tokenizer = Prompted(ByteTokenizer(), PROMPTS)
    for name, prompt in (("captions", "query: "), ("query", "query: "), ("positive", "passage: ")):
        ids, _ = tokenizer_of(tokenizer, name)(TEXTS, ["en", "lv"])
        assert torch.equal(ids, ByteTokenizer()([prompt + text for text in TEXTS], ["en", "lv"])[0])
    assert tokenizer_of(tokenizer.tokenizer, "positive") is tokenizer.tokenizer


def test_evaluation_reads_captions_as_training_does(run: Path, shards: Path, tmp_path: Path) -> None:
    from mmtrain.embedding.one_pass import embed
    from mmtrain.embedding.splits import open_split

    model = mmtrain.load(run)
    split = embed(model, open_split(model, str(shards), None, 8, 0))
    english = np.flatnonzero(np.asarray(split.captions) == "red")[0]
    np.testing.assert_allclose(split.texts[english], model.encode_text(["red"], role="query")[0], atol=1e-5)


@pytest.mark.parametrize("format", ["safetensors", "onnx"])
def test_exports_keep_the_prompts(run: Path, tmp_path: Path, format: str) -> None:
    pytest.importorskip("onnxscript" if format == "onnx" else "safetensors")
    assert main(["export", str(run), "--out", str(tmp_path / "out"), "--format", format]) == 0
    before, after = mmtrain.load(run), mmtrain.load(tmp_path / "out")
    rows = before.encode_text(TEXTS, role="passage")
    np.testing.assert_allclose(after.encode_text(TEXTS, role="passage"), rows, atol=1e-4)
    assert '- texts that search: "query: "' in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
