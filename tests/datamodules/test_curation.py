"""What is kept of captions: matching, thresholds, metadata, and what a source draws of it."""

import json
import tracemalloc
from collections import Counter
from fractions import Fraction
from itertools import chain, count, islice

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
from datamodules.curation.metadata import Metadata
from datamodules.curation.parts import CurationParts
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


def test_the_tail_share_is_equal_over_languages_of_unequal_sizes():
    zipf = 1 / np.arange(1, 5001)
    shares = []
    for captions in (1e7, 1e6, 3e5):
        counts = np.ceil(captions * zipf).astype(np.int64)
        t = threshold(counts, Fraction(1, 4), 20)
        shares.append(counts[counts <= t].sum() / counts.sum())
    assert max(shares) - min(shares) < 0.01


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
    (tmp_path / "wn-data-lav.tab").write_text("# lav\n00001-n\tlav:lemma\tmelns_suns\n")
    (tmp_path / "wn-data-deu.tab").write_text("1-n\tdeu:def\tein Tier\n")
    entries = build_metadata([tmp_path / name for name in ("en.txt", "lv", "titles.jsonl")], LIMITS, wordnet=tmp_path)
    english = {entry for entry, kind in entries["en"].items() if kind == "unigram"}
    assert english == {"ice", "cream", "and", "dogs", "cats"}
    assert [entry for entry, kind in entries["en"].items() if kind == "bigram"] == ["ice cream"]
    assert [entry for entry, kind in entries["de"].items() if kind == "title"] == ["T9"]
    assert entries["lv"]["Ice & snow"] == "title" and entries["lv"]["snow"] == "unigram"
    assert sum(kind == "number" for kind in entries["en"].values()) == 100


def test_languages_without_spaces_are_segmented_by_what_their_texts_teach(tmp_path):
    words = ["北京", "大学", "学生", "喜欢", "苹果"]
    rng = np.random.default_rng(0)
    lines = ["".join(rng.choice(words, 6)) + "。" for _ in range(300)]
    (tmp_path / "zh.txt").write_text("\n".join(lines))
    entries = build_metadata([tmp_path / "zh.txt"], LIMITS)["zh"]
    assert set(words) <= entries.keys()
    assert not any(" " in entry for entry in entries)


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
