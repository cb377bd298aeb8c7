"""What is kept of captions: matching, thresholds, metadata, and what a source draws of it."""

import bz2
import json
import sqlite3
import string
import tracemalloc
from collections import Counter
from contextlib import closing
from fractions import Fraction
from itertools import chain, count, islice, pairwise
from zipfile import ZipFile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_shards import sample_files

from datamodules import Source
from datamodules.curation.balancing import caption_probabilities, entry_probabilities, number_of, threshold
from datamodules.curation.building import Limits, build_metadata
from datamodules.curation.joining import Balance, Joined
from datamodules.curation.kept import Kept
from datamodules.curation.matching import spaced_entry
from datamodules.curation.metadata import Metadata
from datamodules.curation.parts import CurationParts
from datamodules.curation.wordnets import lemmas_in
from datamodules.shards.writing import write_shards

COUNTS = st.lists(st.integers(0, 300), min_size=1, max_size=60).map(np.array)
SHARES = st.integers(0, 50).map(lambda percent: Fraction(percent, 50))


@settings(deadline=None)
@given(COUNTS, SHARES, st.integers(1, 40))
def test_the_threshold_is_the_count_nearest_to_the_share_and_the_larger_of_two(counts, share, floor):
    occurring = sorted({int(count) for count in counts if count})
    if not occurring:
        assert threshold(counts, share, floor) == floor
        return

    def distance(count):
        return abs(Fraction(int(counts[counts <= count].sum()), int(counts.sum())) - share)

    nearest = min(map(distance, occurring))
    assert threshold(counts, share, floor) == max(floor, *(c for c in occurring if distance(c) == nearest))


@settings(deadline=None)
@given(st.integers(1, 30), SHARES)
def test_no_entry_of_at_most_the_floor_loses_a_caption(floor, share):
    counts = np.arange(1, 60)
    probabilities = entry_probabilities(counts, threshold(counts, share, floor))
    assert (probabilities[counts <= floor] == 1).all()
    assert (probabilities > 0).all()


@settings(deadline=None)
@given(st.lists(st.lists(st.floats(0, 1), max_size=4), max_size=8))
def test_a_caption_stays_when_any_of_its_entries_would(entries):
    of_entries = np.array([p for own in entries for p in own])
    found = caption_probabilities(of_entries, np.array([len(own) for own in entries], np.int64))
    expected = [1 - np.prod([1 - p for p in own]) for own in entries]
    np.testing.assert_allclose(found, expected, atol=1e-12)


ZIPF = st.tuples(st.integers(200, 5000), st.floats(0.7, 1.4), st.floats(1e4, 1e7))  # entries, exponent, captions


@settings(deadline=None)
@given(st.lists(ZIPF, min_size=2, max_size=5), st.integers(2, 50), st.integers(1, 20))
def test_the_tail_share_is_equal_over_languages_where_the_counts_allow(languages, percent, floor):
    """No count lies between the two around the share; where these are within two points, the nearer is within one."""
    share = Fraction(percent, 100)
    for entries, exponent, captions in languages:
        zipf = np.arange(1.0, entries + 1) ** -exponent
        counts = np.round(captions * zipf / zipf.sum()).astype(np.int64)
        t, levels = threshold(counts, share, floor), np.unique(counts[counts > 0])
        below = [counts[counts <= level].sum() / counts.sum() for level in levels]
        around = np.searchsorted(below, float(share))
        allowed = 0 < around < len(levels) and below[around] - below[around - 1] <= 0.02
        if allowed and levels[around - 1] >= floor:
            assert abs(counts[counts <= t].sum() / counts.sum() - float(share)) <= 0.01


def test_the_tail_share_is_equal_over_languages_of_unequal_sizes():
    zipf = 1 / np.arange(1, 5001)
    shares = []
    for captions in (1e7, 1e6, 3e5):
        counts = np.ceil(captions * zipf).astype(np.int64)
        t = threshold(counts, Fraction(1, 4), 20)
        shares.append(counts[counts <= t].sum() / counts.sum())
    assert max(shares) - min(shares) < 0.01


def test_the_floor_keeps_a_small_corpus():
    """6,000 captions of 3 of 3,000 words: the published threshold is 1, and keeps a third of what should stay."""
    zipf = 1 / np.arange(1, 3001)
    words = np.random.default_rng(0).choice(3000, (6000, 3), p=zipf / zipf.sum())
    captions = [np.unique(row) for row in words]
    matched, flat = np.array([len(own) for own in captions]), np.concatenate(captions)
    counts, kept = np.bincount(flat, minlength=3000), {}
    for floor in (1, 20):
        t = threshold(counts, Fraction(6, 100), floor)
        kept[floor] = caption_probabilities(entry_probabilities(counts, t)[flat], matched).mean()
    assert kept[1] < 0.38 and kept[20] > 0.85


def test_numbers_are_drawn_evenly_and_depend_on_every_part():
    numbers = np.array([number_of(0, f"s{i}", "en", "a dog") for i in range(2000)])
    assert 0.45 < numbers.mean() < 0.55 and numbers.min() >= 0 and numbers.max() < 1
    drawn = {number_of(*parts) for parts in [(0, "s", "en", "a"), (1, "s", "en", "a"), (0, "s", "lv", "a")]}
    assert len(drawn) == 3


@pytest.mark.parametrize(
    ("caption", "entries"),
    [
        ("a dog, a cat", {"dog", "cat"}),
        ("hotdogs", set()),
        ("A Dog", set()),  # upper case differs
        ("dog\ncat.", {"dog", "cat"}),
        ("the big dog runs", {"dog", "big dog"}),
        ("你好世界", {"世界"}),  # without spaces around it
        ("hello-世界", {"世界"}),
    ],
)
def test_entries_match_as_words_with_the_published_spacing(caption, entries):
    pytest.importorskip("ahocorasick_rs")
    from datamodules.curation.matching import Matcher

    metadata = Metadata({"en": ["dog", "cat", "big dog", "世界"], "lv": ["dog"]})
    named = list(metadata.named())
    assert {named[number] for number in Matcher(metadata)(caption, "en")} == {("en", entry) for entry in entries}
    assert Matcher(metadata)(caption, "de") == []


PUBLISHED = [
    *((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F)),
    *((0x2B820, 0x2CEAF), (0x2CEB0, 0x2EBEF), (0xF900, 0xFAFF), (0x2E80, 0x2EFF), (0x2F00, 0x2FDF), (0x2FF0, 0x2FFF)),
    *((0x0E00, 0x0E7F), (0x0E80, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x0F00, 0x0FFF)),
]
OURS = [(0x3000, 0x30FF), (0xFF66, 0xFF9F)]  # kana and what stands among them
MARKS = string.punctuation + "，。、；：？！“”‘’（）【】《》〈〉「」『』～—"


def test_entries_join_beside_the_letters_that_were_published_and_kana():
    """Of MetaCLIP's substr_matching.py: an entry has no space beside such a letter."""
    ranges = [*PUBLISHED, *OURS]
    for code in range(0x110000):
        joins = chr(code) in MARKS or any(first <= code <= last for first, last in ranges)
        assert spaced_entry(f"{chr(code)}x") == f"{'' if joins else ' '}{chr(code)}x ", hex(code)


def test_a_tag_counts_in_the_language_of_its_shorter_tag():
    metadata = Metadata({"en": ["dog"], "zh": ["狗"], "zh-Hant": ["狗"], "pt_BR": ["cão"]})
    tags = {"en": "en", "en-GB": "en", "en_US": "en", "zh-Hant-TW": "zh-Hant", "zh-Hans": "zh", "pt_BR": "pt_BR"}
    assert {tag: metadata.language_of(tag) for tag in tags} == tags
    assert {metadata.language_of(tag) for tag in ("de", "", "und", "eng", "pt")} == {"other"}


def test_metadata_that_cannot_be_read_is_told_by_its_line(tmp_path):
    file = tmp_path / "m.jsonl"
    file.write_text('{"language": "en", "entry": "dog"}\n{"language": "en"}\n')
    with pytest.raises(ValueError, match=r"line 2: got .*expected"):
        Metadata.read(file)


LIMITS = Limits(top_unigrams=1, min_pmi=2, top_titles=0.5)


def test_metadata_is_made_of_words_pairs_titles_and_wordnets(tmp_path):
    (tmp_path / "en.txt").write_text("ice cream, and (dogs)\nice cream and cats\nand cats and dogs ...\n")
    pages = '<doc id="1" url="x" title="Ice &amp; snow">\nIce &amp; snow\nsnow falls\n</doc>\n'
    (tmp_path / "lv" / "AA").mkdir(parents=True)
    (tmp_path / "lv" / "AA" / "wiki_00").write_text(pages)
    titles = [{"language": "de", "text": "Hund", "title": f"T{views}", "views": views} for views in (1, 9)]
    (tmp_path / "titles.jsonl").write_text("".join(json.dumps(each) + "\n" for each in titles))
    (tmp_path / "wn-data-lav.tab").write_text("# lav\n00001-n\tlav:lemma\tmelns_zirgs\n")
    (tmp_path / "wn-data-deu.tab").write_text("1-n\tdeu:def\tein Tier\n")
    entries = build_metadata([tmp_path / name for name in ("en.txt", "lv", "titles.jsonl")], LIMITS, wordnet=tmp_path)
    english = {entry for entry, kind in entries["en"].items() if kind == "unigram"}
    assert english == {"ice", "cream", "and", "dogs", "cats"}
    assert [entry for entry, kind in entries["en"].items() if kind == "bigram"] == ["ice cream"]
    assert [entry for entry, kind in entries["de"].items() if kind == "title"] == ["T9"]
    assert entries["lv"]["Ice & snow"] == "title" and entries["lv"]["melns zirgs"] == "lemma"
    assert entries["lv"]["snow"] == "unigram"
    assert sum(kind == "number" for kind in entries["en"].values()) == 100


PRINCETON = (
    "  1 This software and database is being provided to you\ndog n 7 5 @ ~ 7 1 02084071\nhot_dog n 3 0 3 0 07\n"
)
LMF = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE LexicalResource SYSTEM "http://globalwordnet.github.io/schemas/WN-LMF-1.1.dtd">
<LexicalResource xmlns:dc="https://globalwordnet.github.io/schemas/dc/">
  <Lexicon id="x" label="x" language="lv" email="a@b.c" license="l" version="1">
    <LexicalEntry id="x-e">
      <Lemma writtenForm="melns zirgs" partOfSpeech="n"/><Sense id="x-s" synset="x-1"/>
    </LexicalEntry>
    <Synset id="x-1" ili="" partOfSpeech="n"/>
  </Lexicon>
</LexicalResource>
"""
DATABASE = """
CREATE TABLE lexicons (rowid INTEGER PRIMARY KEY, id TEXT NOT NULL, language TEXT NOT NULL);
CREATE TABLE entries (rowid INTEGER PRIMARY KEY, id TEXT NOT NULL, lexicon_rowid INTEGER NOT NULL);
CREATE TABLE forms (rowid INTEGER PRIMARY KEY, entry_rowid INTEGER NOT NULL, form TEXT NOT NULL, rank INTEGER);
INSERT INTO lexicons VALUES (1, 'x', 'lv'); INSERT INTO entries VALUES (1, 'x-e', 1);
INSERT INTO forms VALUES (1, 1, 'melns zirgs', 0), (2, 1, 'melnā zirga', 1);
"""


def test_wordnets_are_read_as_they_are_installed(tmp_path):
    """As Debian, nltk (zipped or not), a WN-LMF release and the package wn lay them down."""
    places = {name: tmp_path / name for name in ("debian", "nltk", "lmf", "wn")}
    for place in places.values():
        place.mkdir()
    (places["debian"] / "index.noun").write_text(PRINCETON)
    (places["debian"] / "index.sense").write_text("cat%1:05:00:: 02121620 1 18\n")
    with ZipFile(places["nltk"] / "omw-1.4.zip", "w") as archive:
        archive.writestr("omw-1.4/slv/wn-data-slv.tab", "# slv\n1-n\tlemma\tčrni_konj\n1-n\tslv:def 0\tžival\n")
        archive.writestr("omw-1.4/cmn/wn-data-cmn.tab", "1-n\tcmn:lemma\t黑马\n")
    (places["lmf"] / "wn.xml").write_text(LMF, encoding="utf-8")
    with closing(sqlite3.connect(places["wn"] / "wn.db")) as database:
        database.executescript(DATABASE)
    found = {name: lemmas_in(place) for name, place in places.items()}
    assert found == {
        "debian": {"en": ["dog", "hot dog"]},
        "nltk": {"zh": ["黑马"], "sl": ["črni konj"]},
        "lmf": {"lv": ["melns zirgs"]},
        "wn": {"lv": ["melns zirgs"]},
    }


@pytest.mark.parametrize(
    ("name", "content"), [("wn.db", "no database"), ("a.xml", "<Lexicon>"), ("a.zip", "PK"), ("a", "")]
)
def test_a_wordnet_that_cannot_be_read_is_one_line(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match="--wordnet: .*(cannot be read|holds no WordNet).*index.noun"):
        lemmas_in(tmp_path)


WITHOUT_SPACES = {
    "zh": "北京 大学 学生 喜欢 苹果",
    "ja": "わたし 学生 りんご テレビ 食べる",
    "th": "นักเรียน มหาวิทยาลัย แอปเปิล ชอบ กรุงเทพ",
    "lo": "ນັກຮຽນ ມະຫາວິທະຍາໄລ ມັກ ວຽງຈັນ",
    "km": "សិស្ស វិទ្យាល័យ ចូលចិត្ត ភ្នំពេញ",
    "my": "ကျောင်းသား တက္ကသိုလ် ပန်းသီး",
}


def test_languages_without_spaces_are_segmented_and_matched_inside_a_sentence(tmp_path):
    pytest.importorskip("ahocorasick_rs")
    pytest.importorskip("icu4py")
    from datamodules.curation.matching import Matcher

    for language, line in WITHOUT_SPACES.items():
        (tmp_path / f"{language}.txt").write_text("".join(line.split()) + "。\n", encoding="utf-8")
    found = build_metadata([tmp_path / f"{language}.txt" for language in WITHOUT_SPACES], LIMITS)
    for language, line in WITHOUT_SPACES.items():
        words = line.split()
        assert {entry for entry, kind in found[language].items() if kind == "unigram"} == set(words)
        pairs = {entry for entry, kind in found[language].items() if kind == "bigram"}
        assert pairs <= set(map("".join, pairwise(words)))
        assert Matcher(Metadata({language: words}))("".join(words), language) == list(range(len(words)))


def test_words_that_come_in_any_order_are_found(tmp_path):
    pytest.importorskip("icu4py")
    words = WITHOUT_SPACES["zh"].split()
    rng = np.random.default_rng(0)
    lines = ["".join(rng.choice(words, 6)) + "。" for _ in range(300)]
    (tmp_path / "zh.txt").write_text("\n".join(lines))
    entries = build_metadata([tmp_path / "zh.txt"], LIMITS)["zh"]
    assert set(words) <= entries.keys()
    assert not any(" " in entry for entry in entries)


def test_limits_count_entries_that_are_new(tmp_path):
    """As published: of 10 % of 20 words none counts that stands there already."""
    (tmp_path / "en.txt").write_text("7 7 7 dogs dogs " + " ".join(f"w{n}" for n in range(18)))
    entries = build_metadata([tmp_path / "en.txt"], Limits(min_pmi=99))["en"]
    assert entries["7"] == "number" and [each for each, kind in entries.items() if kind == "unigram"] == ["dogs", "w0"]


def test_extracts_may_be_compressed_and_lose_their_markup(tmp_path):
    (tmp_path / "lv").mkdir()
    page = '<doc id="1" url="x" title="Suns">\nSuns\nmelns&lt;ref name="a"&gt; suns<br>\n</doc>\n'
    (tmp_path / "lv" / "wiki_00.bz2").write_bytes(bz2.compress(page.encode()))
    entries = build_metadata([tmp_path / "lv"], LIMITS)["lv"]
    assert {each for each, kind in entries.items() if kind == "unigram"} == {"melns", "suns"}
    assert entries["Suns"] == "title"


def test_norwegian_lemmas_are_those_of_bokmal(tmp_path):
    (tmp_path / "no.txt").write_text("en hund\n")
    (tmp_path / "wn-data-nob.tab").write_text("1-n\tlemma\tsvart_hest\n")
    assert build_metadata([tmp_path / "no.txt"], LIMITS, wordnet=tmp_path)["no"]["svart hest"] == "lemma"


def test_captions_of_shards_are_texts_too(plain_shards):
    shards = plain_shards([[sample_files(0, {"en": "a red dog", "lv": "sarkans suns"})]])
    entries = build_metadata([shards], LIMITS)
    assert {"red", "dog"} <= entries["en"].keys() and "suns" in entries["lv"]


def test_texts_without_a_language_are_refused(tmp_path):
    (tmp_path / "texts.txt").write_text("dogs\n")
    with pytest.raises(ValueError, match="says no language"):
        build_metadata([tmp_path / "texts.txt"], LIMITS)


# -- a source's keep


def keep(folder, lines):
    folder.mkdir()
    keys = ("id", "language", "caption", "matched", "probability", "kept")
    text = "".join(json.dumps(dict(zip(keys, line, strict=True))) + "\n" for line in lines)
    (folder / "keep.jsonl").write_text(text)
    return folder


@pytest.fixture
def curated(tmp_path, plain_shards):
    """12 samples in two shards; of every third one no caption is kept, and English is of the head."""
    captions = [{"en": [f"one {n}", f"two {n}"], "lv": f"viens {n}"} for n in range(12)]
    shards = [[sample_files(n, captions[n]) for n in part] for part in (range(7), range(7, 12))]
    lines = []
    for n in range(12):
        lines += [(f"s{n:03d}", "en", f"one {n}", 1, 0.5, n % 3 > 0), (f"s{n:03d}", "en", f"two {n}", 0, 0.0, False)]
        lines += [(f"s{n:03d}", "lv", f"viens {n}", 1, 1.0, n % 3 == 1)]
    return plain_shards(shards), keep(tmp_path / "kept", lines)


def drawn(module, batches):
    """What a number of batches bring: (id, caption) of every slot."""
    found, epochs = [], chain.from_iterable(module.train_dataloader() for _ in count())
    for batch in islice(epochs, batches):
        found += [
            (batch.ids[i], batch.captions[i][k])
            for i in range(len(batch.ids))
            for k in range(batch.present.shape[1])
            if batch.present[i, k]
        ]
        module.trained(batch)
    return found


def source(curated, **options):
    shards, kept = curated
    return [Source(str(shards), keep=str(kept), **options)]


def test_a_source_draws_what_is_kept_and_nothing_else(curated, data):
    module = data(train=source(curated), captions_per_image="all", batch_size=4)
    assert module.samples("train") == 8
    found = Counter(drawn(module, 2))
    expected = {(f"s{n:03d}", f"one {n}") for n in range(12) if n % 3}
    expected |= {(f"s{n:03d}", f"viens {n}") for n in range(12) if n % 3 == 1}
    assert found == Counter(expected)
    assert list(module.account.summary()["lacking"].values()) == [{"kept": 3}, {"kept": 1}]
    assert module.drawn() == {"captions/en": 1, "captions/lv": 0.5, "captions/en/tail": 0, "captions/lv/tail": 0.5}


def test_languages_are_drawn_by_the_captions_that_are_kept(curated, data):
    module = data(train=source(curated), language_alpha=1.0, batch_size=3)
    shares = Counter(caption.split()[0] for _, caption in drawn(module, 4))
    assert shares == {"one": 8, "viens": 4}


def test_a_curated_source_resumes_at_the_next_sample(curated, data):
    options = {"train": source(curated), "captions_per_image": "all", "batch_size": 2}
    whole = drawn(data(**options), 4)
    first = data(**options)
    begun = drawn(first, 2)
    second = data(**options)
    second.load_state_dict(first.state_dict())
    assert begun + drawn(second, 2) == whole
    other = data(train=[Source(str(curated[0]))], batch_size=2)
    with pytest.raises(ValueError, match="the checkpoint's place belongs to other data"):
        other.load_state_dict(first.state_dict())


def test_keep_that_is_none_of_curates_is_told_by_its_line(tmp_path):
    folder = keep(tmp_path / "kept", [("a", "en", "dog", 1, 1.0, True)])
    assert Kept(folder).of("a", {"en": ["dog", "cat"], "lv": ["dog"]}) == {"en": [True, False], "lv": [False]}
    with (folder / "keep.jsonl").open("a") as file:
        file.write('{"id": "b"}\n')
    with pytest.raises(ValueError, match=r"keep: .*line 2"):
        Kept(folder)
    with pytest.raises(ValueError, match="keep: .*cannot be read"):
        Kept(tmp_path)


def highest(work):
    """Bytes that Python and numpy held at most at one time meanwhile."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_number_of_parts(tmp_path, monkeypatch):
    monkeypatch.setattr("datamodules.curation.parts.SAMPLES", 200)

    def made(task):
        for number in range(task["first"], task["first"] + 1000):
            record = {"id": f"s{number}", "captions": {"en": f"the number {number % 97} and more of it " * 4}}
            yield {"__key__": f"{number:06d}", "json": json.dumps(record).encode()}

    write_shards(tmp_path / "shards", [{"first": 1000 * n} for n in range(4)], made)
    lines = (json.dumps({"language": "en", "entry": str(number)}) for number in range(97))
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    metadata = Metadata.read(str(tmp_path / "metadata.jsonl"))
    parts = CurationParts(str(tmp_path / "shards"), metadata)
    paths = [tmp_path / f"{number}.safetensors" for number in range(20)]
    assert len(parts.runs) == len(paths)

    def make(numbers):
        for number in numbers:
            parts.make(number).write(paths[number])

    def join(count):
        (tmp_path / str(count)).mkdir()
        Joined(paths[:count], metadata, Balance(), "").write(tmp_path / str(count))

    make(range(20))  # opens what stays open
    assert highest(lambda: make(range(20))) < 1.3 * highest(lambda: make(range(2)))
    join(1)
    assert highest(lambda: join(20)) < 1.3 * highest(lambda: join(2))
