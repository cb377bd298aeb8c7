"""A run is whole: moved, and loaded from another folder, it needs no file that lay beside it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import mmtrain
from datamodules import TransformersTokenizer, WordTokenizer
from mmtrain.cli import main
from mmtrain.models.spec import spec_of
from mmtrain.models.tokenizer_files import alike, make_tokenizer, saved
from tests.mmtrain.conftest import WORDS
from tests.mmtrain.encoders import write_words
from tests.mmtrain.small import fit

TOKENIZERS = {
    "words": "{class_path: datamodules.WordTokenizer, init_args: {vocabulary: words/words.json}}",
    "transformers": "{class_path: datamodules.TransformersTokenizer, init_args: {name_or_folder: words}}",
}
TEXT = "--model.text={class_path: mmtrain.towers.ByteGRU, init_args: {width: 32, vocabulary_size: 300}}"


def write_vocabulary(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "words.json").write_text(json.dumps({"words": WORDS}), encoding="utf-8")
    return folder / "words.json"


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_run_carries_its_tokenizer(kind: str, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    write_words(home / "words")
    write_vocabulary(home / "words")
    assert fit(shards, home / "run", f"--data.tokenizer={TOKENIZERS[kind]}", TEXT, "--trainer.max_steps=1") == 0
    expected = mmtrain.load("run").encode_text(WORDS["lv"], "lv")
    assert len(np.unique(expected, axis=0)) == 4
    monkeypatch.chdir(tmp_path)
    (home / "run" / "checkpoints" / "last.ckpt").rename("moved.ckpt")
    shutil.rmtree(home)
    moved = mmtrain.load("moved.ckpt")
    np.testing.assert_array_equal(moved.encode_text(WORDS["lv"], "lv"), expected)
    assert spec_of(moved.tokenizer)["init_args"].get("name_or_folder", "words") == "words"
    assert main(["export", "moved.ckpt", "--out", "export"]) == 0
    (tmp_path / "export").rename(tmp_path / "exported")
    np.testing.assert_allclose(mmtrain.load("exported").encode_text(WORDS["lv"], "lv"), expected, atol=1e-6)


def test_tokenizers_of_two_folders_are_compared_by_content(tmp_path: Path) -> None:
    one, same = (WordTokenizer(str(write_vocabulary(tmp_path / name))) for name in "ab")
    (tmp_path / "c.json").write_text(json.dumps({"words": {"en": ["other"]}}))
    assert alike(one, same) and not alike(one, WordTokenizer(str(tmp_path / "c.json")))
    assert not alike(one, WordTokenizer(one.vocabulary, max_length=9))
    first, second = (TransformersTokenizer(write_words(tmp_path / name)) for name in "de")
    assert alike(first, second) and not alike(first, one)


def test_a_tokenizers_file_lies_in_its_own_folder(tmp_path: Path) -> None:
    tokenizer = WordTokenizer(str(write_vocabulary(tmp_path / "words")))
    files = saved(tokenizer) | {f"../{tmp_path.name}-outside": torch.zeros(1, dtype=torch.uint8)}
    with pytest.raises(ValueError, match="would lie elsewhere"):
        make_tokenizer(spec_of(tokenizer), files)
