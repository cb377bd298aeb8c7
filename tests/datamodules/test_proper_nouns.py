"""Captions that are hardly more than names, at packing, by small models of the real spaCy."""

import json
import sys

import pytest
from tiny_shards import pack_jsonl, png_bytes

SENTENCES = {"Alan Turing": "PROPN PROPN", "a black dog": "DET ADJ NOUN", "the dog runs": "DET NOUN VERB"}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder of models: rules takes capitalised words for names, learned was trained on three sentences."""
    spacy, folder = pytest.importorskip("spacy"), tmp_path_factory.mktemp("models")
    spacy.util.fix_random_seed(0)
    nlp = {name: spacy.blank("it" if name == "rules" else "en") for name in ("rules", "learned", "tags", "nothing")}
    nlp["rules"].add_pipe("attribute_ruler").add([[{"IS_TITLE": True}]], {"POS": "PROPN"})
    nlp["tags"].add_pipe("tagger").add_label("NNP")
    nlp["tags"].initialize()
    nlp["learned"].add_pipe("morphologizer")
    example = spacy.training.Example.from_dict
    learned = [example(nlp["learned"].make_doc(text), {"pos": pos.split()}) for text, pos in SENTENCES.items()]
    optimizer = nlp["learned"].initialize(lambda: learned)
    for _ in range(10):
        nlp["learned"].update(learned, sgd=optimizer)
    for name, each in nlp.items():
        each.to_disk(folder / name)
    (folder / "empty").mkdir()
    return folder


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


def test_captions_of_names_are_left_out_and_counted(models, manifest, tmp_path):
    italian = {"it": str(models / "rules")}
    listing = pack_jsonl(manifest, tmp_path / "out", proper_nouns=italian)
    assert listing["captions"] == {"en": 1, "it": 1, "lv": 2}  # English has no model, so its names stay
    assert listing["skipped"] == {"caption of proper nouns": 4}
    assert listing["shards"][0]["skipped_rows"][0] == "row 1 (0): caption of proper nouns"
    assert listing["samples"] == 3
    stricter = pack_jsonl(manifest, tmp_path / "all", proper_nouns=italian, proper_noun_share=1.0)
    assert stricter["skipped"] == {"caption of proper nouns": 3}


def test_a_model_a_language(models, manifest, tmp_path):
    """The learned model knows names of English captions; of Italian ones the rules."""
    both = {"it": str(models / "rules"), "en": str(models / "learned")}
    listing = pack_jsonl(manifest, tmp_path / "out", proper_nouns=both)
    assert listing["captions"] == {"it": 1, "lv": 2} and listing["skipped"] == {"caption of proper nouns": 5}
    alone = pack_jsonl(manifest, tmp_path / "alone", proper_nouns={"en": str(models / "learned")})
    assert alone["captions"] == {"it": 5, "lv": 2} and alone["skipped"] == {"caption of proper nouns": 1}


def test_the_fields_of_captions_stay_in_step(models, manifest, tmp_path):
    from datamodules.curation.proper_nouns import ProperNouns
    from datamodules.packing import read_jsonl
    from datamodules.packing.filters import filtered

    _, row, *_ = filtered(read_jsonl(manifest), [ProperNouns({"it": str(models / "rules")})])
    assert row.record["captions"]["it"] == ["un cane nero"]
    assert row.record["fields"] == {"it": ["reference"], "en": ["alt"]}


@pytest.mark.parametrize(
    ("model", "share", "says"),
    [
        ("nowhere", 0.8, "proper_nouns: spaCy has no model 'nowhere': python -m spacy download nowhere"),
        ("empty", 0.8, "empty holds no model that spaCy can load: .*meta.json"),
        ("nothing", 0.8, "tells no parts of speech, it has nothing; one like it_core_news_sm"),
        ("tags", 0.8, "tells no parts of speech, it has tagger"),
        ("rules", 0.0, "proper_noun_share: 0.0 is no share"),
    ],
)
def test_what_cannot_be_used_is_one_line(models, manifest, tmp_path, model, share, says):
    named = model if model == "nowhere" else str(models / model)
    with pytest.raises(ValueError, match=says) as refused:
        pack_jsonl(manifest, tmp_path / "out", proper_nouns={"it": named}, proper_noun_share=share)
    assert len(str(refused.value).splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_without_spacy_is_one_line(manifest, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "spacy", None)  # as Python has it where a module cannot be imported
    with pytest.raises(ValueError, match="proper_nouns: spaCy is not installed: pip install spacy"):
        pack_jsonl(manifest, tmp_path / "out", proper_nouns={"it": "it_core_news_sm"})
