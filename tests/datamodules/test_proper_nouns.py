"""Captions that are hardly more than names, at packing. spaCy is not installed here: a module of its name and form
stands in, which takes capitalised words for proper nouns."""

import importlib.util
import json
import sys

import pytest
from tiny_shards import pack_jsonl, png_bytes

SPACY = """
class Token:
    def __init__(self, word):
        self.pos_ = "PROPN" if word[0].isupper() else "NOUN"

class Model:
    def __init__(self, name):
        self.pipe_names = ["sentencizer"] if name == "blank" else ["tok2vec", "tagger"]

    def __call__(self, text):
        return [Token(word) for word in text.split()]

def load(name, exclude):
    if name == "none":
        raise OSError("no such model")
    return Model(name)
"""


@pytest.fixture
def spacy(tmp_path, monkeypatch):
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "spacy.py").write_text(SPACY)
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    yield
    sys.modules.pop("spacy", None)


@pytest.fixture
def manifest(tmp_path):
    captions = [
        {"it": ["un cane nero", "Alan Turing"], "en": "Alan Turing"},
        {"it": "Roma Torino"},
        {"it": "Il Colosseo Roma Lazio oggi", "lv": "Rīga"},
        {"it": ["Roma", None], "lv": "suns"},
    ]
    rows = [{"id": str(n), "image": f"{n}.png", "captions": each} for n, each in enumerate(captions)]
    rows[0]["fields"] = {"it": ["reference", "alt"], "en": ["alt"]}
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(png_bytes(number))
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path / "m.jsonl"


def test_captions_of_names_are_left_out_and_counted(spacy, manifest, tmp_path):
    listing = pack_jsonl(manifest, tmp_path / "out", proper_nouns={"it": "it_core_news_sm"})
    assert listing["captions"] == {"en": 1, "it": 1, "lv": 2}  # English has no model, so its names stay
    assert listing["skipped"] == {"caption of proper nouns": 4}
    assert listing["shards"][0]["skipped_rows"][0] == "row 1 (0): caption of proper nouns"
    assert listing["samples"] == 3
    stricter = pack_jsonl(manifest, tmp_path / "all", proper_nouns={"it": "it_core_news_sm"}, proper_noun_share=1.0)
    assert stricter["skipped"] == {"caption of proper nouns": 3}


def test_the_fields_of_captions_stay_in_step(spacy, manifest, tmp_path):
    from datamodules.curation.proper_nouns import ProperNouns
    from datamodules.packing import read_jsonl
    from datamodules.packing.filters import filtered

    _, row, *_ = filtered(read_jsonl(manifest), [ProperNouns({"it": "a"})])
    assert row.record["captions"]["it"] == ["un cane nero"]
    assert row.record["fields"] == {"it": ["reference"], "en": ["alt"]}


@pytest.mark.parametrize(
    ("model", "share", "says"),
    [
        ("none", 0.8, "proper_nouns: spaCy has no model 'none': python -m spacy download none"),
        ("blank", 0.8, "proper_nouns: spaCy's model 'blank' tags no words"),
        ("a", 0.0, "proper_noun_share: 0.0 is no share"),
    ],
)
def test_what_cannot_be_used_is_one_line(spacy, manifest, tmp_path, model, share, says):
    with pytest.raises(ValueError, match=says):
        pack_jsonl(manifest, tmp_path / "out", proper_nouns={"it": model}, proper_noun_share=share)


@pytest.mark.skipif(importlib.util.find_spec("spacy") is not None, reason="spaCy is installed")
def test_without_spacy_is_one_line(manifest, tmp_path):
    with pytest.raises(ValueError, match="proper_nouns: spaCy is not installed: pip install spacy"):
        pack_jsonl(manifest, tmp_path / "out", proper_nouns={"it": "it_core_news_sm"})
