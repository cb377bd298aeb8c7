"""An index with token rows: a text ranks its candidates by them, and the page shows which words found what."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

import mmtrain
from datamodules import ByteTokenizer
from datamodules.tokenizers.tokenizer import Prompted
from mmtrain.cli import main
from mmtrain.models.token_rows import restored, stored
from mmtrain.search.heat import words_of
from mmtrain.search.index import SearchIndex
from mmtrain.search.tokens import late_scores
from tests.chromium import CHROMIUM, opened
from tests.mmtrain.indexes import SIZES, contents
from tests.mmtrain.small import fit
from tests.mmtrain.test_many_vectors import LATE

PATCHES = [
    "--model.image={class_path: mmtrain.towers.TimmTower, init_args: {name: vit_tiny_patch16_224, image_size: 32,"
    " options: {patch_size: 8, embed_dim: 32, depth: 1, num_heads: 2}}}"
]


@pytest.fixture(scope="module")
def model(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    assert fit(shards, folder / "run", "--trainer.max_steps=20", "--model.learning_rate=0.003", *PATCHES, *LATE) == 0
    assert main(["export", str(folder / "run"), "--out", str(folder / "export")]) == 0
    return folder / "export"


def build(model: Path, shards: Path, out: Path, *options: str) -> Path:
    assert main(["index", str(model), "--data", str(shards), "--out", str(out), *SIZES, *options]) == 0
    return out


@pytest.fixture(scope="module")
def built(model: Path, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(model, shards, tmp_path_factory.mktemp("index") / "built", "--tokens", "float16")


def test_scores_are_those_of_a_loop(model: Path, built: Path, shards: Path) -> None:
    encoder, index = mmtrain.load(model), SearchIndex(built)
    assert index.tokens is not None
    query = encoder.encode_text(["red and blue"], multi=True, role="query")[0]
    row = encoder.encode_text(["red and blue"], role="query")
    scores, numbers = index.search_late(row, query, 5)
    slow = [np.mean([max(word @ patch for patch in index.tokens.rows(item)) for word in query]) for item in range(32)]
    np.testing.assert_allclose(scores, np.sort(slow)[::-1][:5], atol=1e-6)
    np.testing.assert_allclose([slow[number] for number in numbers], scores, atol=1e-6)


def test_the_store_holds_the_rows_of_the_pictures(model: Path, built: Path, shards: Path) -> None:
    from PIL import Image

    index, encoder = SearchIndex(built), mmtrain.load(model)
    for number, item in enumerate(index.items.read(range(4))):
        picture = Image.open(shards.parent / f"{item.id.removeprefix('c')}.png")
        (exact,) = encoder.encode_image([picture], multi=True)
        assert index.tokens is not None
        np.testing.assert_allclose(index.tokens.rows(number), exact, atol=2e-3)
    tokens = index.description["tokens"]
    assert tokens["rows"] == 32 * 16 and tokens["width"] == 8
    assert tokens["loss"]["largest"] < 1e-3 and tokens["loss"]["items"] == 32


def test_fewer_rows_in_fewer_bits(
    model: Path, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = build(model, shards, tmp_path / "index", "--tokens", "int8", "--budget", "3")
    said = capsys.readouterr().out
    assert re.search(
        r"token rows: 96 of width 8, at most 3 a picture, int8; R@1 of 80 captions among 32 pictures", said
    )
    index = SearchIndex(out)
    assert index.tokens is not None and index.tokens.clusters.max() == 2
    assert np.load(out / "tokens.npy", mmap_mode="r").dtype == np.int8
    assert main(["search", str(out), "red", "-k", "3", "--html", str(tmp_path / "page.html")]) == 0
    more = ["--tokens", "float16", "--budget", "3", "--pooling", "attention"]
    attended = SearchIndex(build(model, shards, tmp_path / "attended", *more))
    assert attended.tokens is not None and attended.description["tokens"]["pooling"] == "attention"
    assert np.abs(attended.tokens.rows(0) - index.tokens.rows(0)).max() > 0.01


def test_int8_rows_stay_near() -> None:
    rows = np.random.default_rng(0).standard_normal((50, 128)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    near = restored(stored(rows, "int8"))
    assert np.abs(np.linalg.norm(near, axis=1) - 1).max() < 1e-6
    assert (near * rows).sum(1).min() > 0.9999


def test_any_number_of_processes_writes_the_same(model: Path, built: Path, shards: Path, tmp_path: Path) -> None:
    again = build(model, shards, tmp_path / "again", "--tokens", "float16", "--part_size", "32")
    for name in ("tokens.npy", "token_starts.npy", "token_clusters.npy"):
        assert (again / name).read_bytes() == (built / name).read_bytes()
    assert contents(again)[:3] == contents(built)[:3]


def test_the_page_shows_which_words_found_what(built: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert main(["search", str(built), "red blue", "-k", "3", "--html", str(page)]) == 0
    text = page.read_text()
    assert text.count("<svg") == 3 * 3 and text.count("<rect") == 3 * 2  # all words, then each
    assert text.count("<bdi>red</bdi>") == text.count("<bdi>blue</bdi>") == 3
    assert "ranked among 100 candidates by the token rows" in text
    assert "left:8.3" in text  # 48 x 40 pixels, of which the model saw the square in the middle


@pytest.mark.system
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_the_page_opens_without_messages(built: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert main(["search", str(built), "red blue", "-k", "3", "--html", str(page)]) == 0
    assert opened(page, tmp_path) == ([], [])


def test_pictures_and_mixed_queries_are_compared_by_rows(built: Path, shards: Path) -> None:
    from mmtrain.commands.search import search

    (picture,) = search(str(built), image=[shards.parent / "3.png"], k=1)
    assert picture.item.id == "c3" and picture.score == pytest.approx(1, abs=1e-3) and picture.found is None


def test_words_and_their_tokens() -> None:
    spans = ByteTokenizer().spans("zaļš nams")
    assert words_of("zaļš nams", spans) == [("zaļš", [1, 2, 3, 4, 5, 6]), ("nams", [8, 9, 10, 11])]
    prompted = Prompted(ByteTokenizer(), {"query": "find: "}, "query").spans("a b")
    assert words_of("a b", prompted) == [("a", [7]), ("b", [9])]
    assert len(ByteTokenizer(5).spans("zaļš")) == ByteTokenizer(5)(["zaļš"], [""])[0].shape[1] == 4


def test_scores_do_not_depend_on_the_other_candidates() -> None:
    rows = np.random.default_rng(0).standard_normal((9, 4)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    alone = [late_scores(rows[:2], [rows[start:end]])[0] for start, end in ((2, 3), (3, 9))]
    np.testing.assert_allclose(late_scores(rows[:2], [rows[2:3], rows[3:]]), alone, atol=1e-6)


def test_what_cannot_be_is_one_line(
    model: Path, built: Path, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit(shards, tmp_path / "run", "--trainer.max_steps=1") == 0
    index = ["index", str(tmp_path / "run"), "--data", str(shards), "--out", str(tmp_path / "index"), *SIZES]
    for command, message in (
        ([*index, "--tokens", "int8"], "--tokens: multi: the model gives no token rows"),
        ([*index, "--budget", "3"], "--budget: got 3 without --tokens"),
        ([*index, "--pooling", "attention"], "--pooling: got attention without --budget"),
        ([*index, "--tokens", "int8", "--budget", "0"], "--budget: got 0, expected at least 1"),
        (["search", str(built), " "], "text: got ' ', expected words to search for"),
    ):
        capsys.readouterr()
        assert main(command) == 1
        assert message in capsys.readouterr().err
    damaged = build(model, shards, tmp_path / "damaged", "--tokens", "int8")
    starts = np.load(damaged / "token_starts.npy")
    np.save(damaged / "token_starts.npy", starts[:-1])
    capsys.readouterr()
    assert main(["search", str(damaged), "red"]) == 1
    assert "is no complete index (tokens.npy and token_starts.npy differ); index again" in capsys.readouterr().err
    assert json.loads((built / "index.json").read_text())["tokens"]["dtype"] == "float16"
