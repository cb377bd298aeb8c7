"""The models of rendered pages: words by latent semantic indexing, pages by the shapes of their words."""

from pathlib import Path

import numpy as np
import pytest
import torch

import mmtrain
from benchmarks.word_shapes import SHAPES, WordShapes, codes, count_shapes
from benchmarks.word_spaces import VECTORS, fit_words, word_encoder, write_static
from datamodules import WordTokenizer
from datamodules.packing.pages import PageLayout
from mmtrain.cli import main
from mmtrain.export.writing import write

DOCUMENTS = [
    ["the dog runs home", "der Hund läuft heim"],
    ["the cat sleeps", "die Katze schläft"],
    ["the dog sleeps", "der Hund schläft"],
    ["the cat runs", "die Katze läuft"],
    ["a bird sings at home", "ein Vogel singt daheim"],
    ["a bird sleeps", "ein Vogel schläft"],
]


@pytest.fixture
def words(tmp_path: Path) -> Path:
    (tmp_path / "words").mkdir()
    fit_words(DOCUMENTS, 4, tmp_path / "words")
    return tmp_path / "words"


def test_a_text_is_the_sum_of_its_words(words: Path) -> None:
    encoder, vectors = word_encoder(words), np.load(words / VECTORS)
    assert isinstance(encoder.tokenizer, WordTokenizer)
    place = {word: WordTokenizer.FIRST_WORD + n for n, word in enumerate(encoder.tokenizer.words["*"])}
    row = np.log(3) * vectors[place["dog"]] + np.log(2) * vectors[place["sleeps"]]
    found = encoder.encode_text(["Dog, unheard: dog sleeps"])[0]
    np.testing.assert_allclose(found, row / np.linalg.norm(row), atol=1e-5)
    english, german = encoder.encode_text(["dog", "bird"]), encoder.encode_text(["Hund", "Vogel"])
    assert (np.diag(english @ german.T) > 0.9).all() and (english @ german.T)[0, 1] < 0.5


def test_it_is_a_model_and_one_of_sentence_transformers(words: Path, tmp_path: Path) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    texts = ["the dog sleeps", "ein Vogel singt", "unheard of"]
    rows = word_encoder(words).encode_text(texts)
    model = write(word_encoder(words), "words", tmp_path / "model")
    np.testing.assert_array_equal(mmtrain.load(model).encode_text(texts), rows)
    write_static(words, tmp_path / "static")
    static = sentence_transformers.SentenceTransformer(str(tmp_path / "static"))
    theirs = static.encode(texts[:2], normalize_embeddings=True)
    np.testing.assert_allclose(theirs, rows[:2], atol=1e-5)  # no word comes twice
    assert not static.encode(texts[2]).any()


def test_equal_words_have_equal_shapes_wherever_they_stand(tmp_path: Path) -> None:
    layout = PageLayout(width=128, height=128, margin=4, font_size=9)
    (_, page), *_ = layout.draw("dog\nthe cat runs home\ndog")
    found = list(codes(np.asarray(page)[..., 0]))
    assert len(found) == 6 and found[0] == found[-1] and len(set(found)) == 5
    moved = np.roll(np.asarray(page)[..., 0], (3, 2), (0, 1))
    assert list(codes(moved)) == found
    illustration = np.full((128, 128), 255, np.uint8)
    illustration[10:60, 10:60] = 0
    assert not list(codes(illustration))


def test_a_page_is_how_often_it_shows_what_is_known(tmp_path: Path) -> None:
    tale = "dog cat\n\ndog bird\n\ndog dog cat fish\n\nsun"
    (tmp_path / "tale.txt").write_text(tale)
    options = ["--language", "en", "--width", "128", "--height", "64", "--margin", "4", "--font_size", "9"]
    assert main(["pack", "pages", str(tmp_path / "tale.txt"), "--out", str(tmp_path / "pages"), *options]) == 0
    known = count_shapes(tmp_path / "pages", tmp_path)
    tower = WordShapes(known, str(tmp_path / SHAPES))
    layout = PageLayout(width=128, height=64, margin=4, font_size=9)
    pages = [np.asarray(next(layout.draw(text))[1]) for text in tale.split("\n\n")]
    pages.append(np.full_like(pages[0], 255))
    pooled, tokens = tower(torch.from_numpy(np.stack(pages)).movedim(3, 1))
    assert tokens.shape == (5, 1, known) and torch.allclose(pooled.norm(dim=1), torch.ones(5))
    seen = [set(codes(page[..., 0])) for page in pages]
    twice = {code for code in set().union(*seen) if sum(code in each for each in seen) > 1}
    assert known == len(twice) >= 1
    assert [(row > 1e-3).sum() for row in pooled[:3]] == [len(each & twice) for each in seen[:3]]
