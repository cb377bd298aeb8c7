"""`mmtrain curate`: from shards and metadata to keep.jsonl, in one go and in parts."""

import json
import random
import signal
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from datamodules.curation.balancing import number_of
from datamodules.curation.near import signature
from datamodules.shards.writing import write_shards
from mmtrain.cli import main
from tests.mmtrain.small import ENVIRONMENT, ROOT

pytest.importorskip("ahocorasick_rs")
ENTRIES = {"en": [f"w{i}" for i in range(40)], "lv": [f"v{i}" for i in range(40)]}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """3 shards of 300 samples: Zipf words in English, fewer in Latvian, a language without entries, one without any."""
    folder, rng = tmp_path_factory.mktemp("corpus"), random.Random(0)

    def words(letter):
        return " ".join(f"{letter}{min(int(rng.paretovariate(0.7)), 45)}" for _ in range(3))

    def made(task):
        for number in range(task["first"], task["first"] + 300):
            captions = {"en": [words("w"), words("w")]}
            captions |= {"lv": words("v")} if rng.random() < 0.3 else {}
            captions |= {"sw": words("u")} if rng.random() < 0.1 else {}
            record = {"id": f"s{number}", "captions": captions}
            yield {"__key__": f"{number:06d}", "json": json.dumps(record).encode()}

    write_shards(folder / "shards", [{"first": 300 * i} for i in range(3)], made)
    lines = [json.dumps({"language": name, "entry": entry}) for name, own in ENTRIES.items() for entry in own]
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def curate(corpus, out, *options):
    arguments = ["curate", str(corpus / "shards"), "--metadata", str(corpus / "metadata.jsonl"), "--out", str(out)]
    return main([*arguments, *options])


def read(out):
    kept = [json.loads(line) for line in (out / "keep.jsonl").read_text().splitlines()]
    return kept, json.loads((out / "curation.json").read_text())


def counts_of(lines, language):
    captions = [line["caption"].split() for line in lines if line["language"] == language]
    return {entry: sum(entry in words for words in captions) for entry in ENTRIES.get(language, ())}


def test_every_caption_is_kept_by_the_rule(corpus, tmp_path):
    assert curate(corpus, tmp_path / "out", "--t", "60", "--floor", "5", "--seed", "7") == 0
    lines, facts = read(tmp_path / "out")
    english = np.array(list(counts_of(lines, "en").values()))
    share = english[english < 60].sum() / english.sum()
    for language in ("en", "lv"):
        counts, row = counts_of(lines, language), facts["languages"][language]
        of_language = [line for line in lines if line["language"] == language]
        sums = {c: sum(n for n in counts.values() if n <= c) / sum(counts.values()) for c in counts.values() if c}
        nearest = min(sums, key=lambda c: (abs(sums[c] - share), -c))
        assert row["threshold"] == max(nearest, 5)
        assert row["captions"] == len(of_language) and row["kept"] == sum(line["kept"] for line in of_language)
        tail = [entry for entry, count in counts.items() if count <= row["threshold"]]
        assert row["tail_before"] == pytest.approx(sum(counts[e] for e in tail) / sum(counts.values()))
        after = counts_of([line for line in of_language if line["kept"]], language)
        assert row["tail_after"] == pytest.approx(sum(after[e] for e in tail) / sum(after.values()))
        for line in of_language:
            matched = {word for word in line["caption"].split() if counts.get(word)}
            chance = 1 - np.prod([1 - min(1, row["threshold"] / counts[word]) for word in matched])
            assert line["matched"] == len(matched)
            assert line["probability"] == pytest.approx(chance if matched else 0)
            number = number_of(7, line["id"], language, line["caption"])
            assert line["kept"] is bool(number < line["probability"])
    assert facts["languages"]["other"]["kept"] == 0
    assert {line["tag"] for line in lines if line["language"] == "other"} == {"sw"}
    assert [line["id"] for line in lines] == sorted((line["id"] for line in lines), key=lambda id: int(id[1:]))


@pytest.mark.parametrize("count", [2, 5])
@pytest.mark.parametrize("first", [0, 1])
def test_any_number_of_parts_gives_the_same_files(corpus, tmp_path, count, first, capsys):
    assert curate(corpus, tmp_path / "whole") == 0
    for part in range(first + 1, first + count):
        assert curate(corpus, tmp_path / "joined", "--part", f"{part}/{count}") == 0
    assert curate(corpus, tmp_path / "joined", "--join") == 1
    assert "--part makes them" in capsys.readouterr().err
    assert curate(corpus, tmp_path / "joined", "--part", f"{first}/{count}") == 0
    assert curate(corpus, tmp_path / "joined", "--join") == 0
    for name in ("keep.jsonl", "curation.json"):
        assert (tmp_path / "joined" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not (tmp_path / "joined.parts").exists()
    assert curate(corpus, tmp_path / "joined") == 0
    assert "all is there already" in capsys.readouterr().out


def test_the_tasks_of_an_array_share_the_parts(corpus, tmp_path, monkeypatch):
    assert curate(corpus, tmp_path / "whole") == 0
    for task in (1, 0):
        for name, value in {"COUNT": 2, "ID": task, "MIN": 0, "STEP": 1}.items():
            monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
        assert curate(corpus, tmp_path / "joined") == 0
        assert (tmp_path / "joined").exists() is (task == 0)
    assert (tmp_path / "joined" / "keep.jsonl").read_bytes() == (tmp_path / "whole" / "keep.jsonl").read_bytes()


PROGRAM = """
import os, signal, sys
import datamodules.curation.parts as parts
from datamodules.curation.joining import Joined
from mmtrain.cli import main

moment, save, keep = sys.argv[1], parts.save_file, Joined._keep
parts.SAMPLES, written, kept = 100, [], []

def saved(tensors, path):
    written.append(path)
    if moment == f"part {len(written)}":
        path.write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
    save(tensors, path)

def keeping(joined, part, probabilities, file):
    kept.append(part)
    if moment == f"join {len(kept)}":
        os.kill(os.getpid(), signal.SIGKILL)
    keep(joined, part, probabilities, file)

parts.save_file, Joined._keep = saved, keeping
code = main(sys.argv[2:])
print(len(written), "parts made")
sys.exit(code)
"""


@pytest.mark.system
def test_a_killed_part_and_a_killed_join_go_on(corpus, tmp_path):
    """SIGKILL in the middle of the third part's file, then of keep.jsonl: what was made is not made again."""
    assert curate(corpus, tmp_path / "whole") == 0
    options = ["curate", str(corpus / "shards"), "--metadata", str(corpus / "metadata.jsonl"), "--out"]

    def run(moment, *further):
        command = [sys.executable, "-c", PROGRAM, moment, *options, str(tmp_path / "out"), *further]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=ENVIRONMENT, cwd=ROOT)
        return done.returncode, done.stdout

    assert run("part 3", "--part", "0/1")[0] == -signal.SIGKILL
    code, said = run("", "--part", "0/1")
    assert code == 0 and "7 parts made" in said  # of nine
    assert run("join 5", "--join")[0] == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    assert run("", "--join")[0] == 0
    facts = [read(tmp_path / name) for name in ("out", "whole")]
    assert facts[0][0] == facts[1][0] and facts[0][1]["languages"] == facts[1][1]["languages"]
    assert {path.name for path in tmp_path.iterdir()} == {"out", "whole"}


def test_what_a_killed_writer_left_is_removed(corpus, tmp_path):
    left = tmp_path / "out.parts" / ("0" * 16)
    left.mkdir(parents=True)
    for name in (".tmpa1B2c3", ".000001.safetensors.0123abcd.part", "000001.safetensors"):  # the first is the library's
        (left / name).touch()
    assert curate(corpus, tmp_path / "out") == 0
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


def test_one_caption_of_a_sample_is_drawn_first(corpus, tmp_path):
    assert curate(corpus, tmp_path / "out", "--one_caption", "--floor", "100000") == 0
    lines, _ = read(tmp_path / "out")
    chosen = [line["id"] for line in lines if line.get("drawn", True)]
    assert sorted(chosen) == sorted({line["id"] for line in lines})
    assert not any(line["kept"] for line in lines if "drawn" in line)


def test_captions_without_a_language_get_one(tmp_path):
    pytest.importorskip("py3langid")
    texts = ["a dog runs in the snow of the mountains", "ein Hund rennt durch den Schnee der Berge"]
    rows = [
        {"__key__": str(n), "json": json.dumps({"id": f"s{n}", "captions": {"und": text}}).encode()}
        for n, text in enumerate(texts)
    ]
    write_shards(tmp_path / "shards", [{}], lambda task: iter(rows))
    lines = [{"language": "en", "entry": "dog"}, {"language": "de", "entry": "Hund"}]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert curate(tmp_path, tmp_path / "out", "--identify") == 0
    lines, _ = read(tmp_path / "out")
    assert [(line["language"], line["tag"], line["kept"]) for line in lines] == [
        ("en", "und", True),
        ("de", "und", True),
    ]


@pytest.fixture
def filters(tmp_path):
    """A file of filters: two samples are excluded, long captions, and those that came before."""
    (tmp_path / "ids.txt").write_text("s5\ns404\n")
    listed = [
        {"class_path": "datamodules.curation.Ids", "init_args": {"exclude": str(tmp_path / "ids.txt")}},
        {"class_path": "datamodules.curation.Length", "init_args": {"longest": 9}},
        {"class_path": "datamodules.curation.NearCaption", "init_args": {"similarity": 1.0}},
    ]
    (tmp_path / "filters.yaml").write_text(json.dumps(listed))
    return ["--filters", str(tmp_path / "filters.yaml"), "--floor", "2"]


def test_captions_that_filters_leave_out_are_counted_and_match_nothing(corpus, tmp_path, filters):
    assert curate(corpus, tmp_path / "whole", *filters) == 0
    lines, facts = read(tmp_path / "whole")
    seen = set()
    for line in lines:
        text = line.get("tag", line["language"]), signature(line["caption"]).tobytes()
        expected = "excluded id" if line["id"] in ("s5", "s404") else None
        expected = expected or ("caption of another length" if len(line["caption"]) > 9 else None)
        expected = expected or ("near-duplicate caption" if text in seen else None)
        assert line.get("filter") == expected
        seen |= set() if expected else {text}
        assert not expected or (line["matched"], line["probability"], line["kept"]) == (0, 0.0, False)
    for language in ("en", "lv"):
        own = [line for line in lines if line["language"] == language]
        left, row = [line for line in own if "filter" not in line], facts["languages"][language]
        assert row["filtered"] == Counter(line["filter"] for line in own if "filter" in line)
        assert len(row["filtered"]) == 3 and row["captions"] == len(own)
        counts = counts_of(left, language)
        for line in left:
            chances = [
                min(1, row["threshold"] / counts[word]) for word in set(line["caption"].split()) if word in counts
            ]
            assert line["probability"] == pytest.approx(1 - np.prod([1 - chance for chance in chances]))
    page = (tmp_path / "whole" / "curation.html").read_text()
    assert "Left out by filters" in page and "near-duplicate caption" in page
    for part in range(3):
        assert curate(corpus, tmp_path / "joined", *filters, "--part", f"{part}/3") == 0
    assert curate(corpus, tmp_path / "joined", *filters, "--join") == 0
    for name in ("keep.jsonl", "curation.json"):
        assert (tmp_path / "joined" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize(
    ("listed", "said"),
    [
        ("[{class_path: datamodules.curation.NearPicture}]", "NearPicture looks at pictures, which are not read"),
        ("[{class_path: datamodules.curation.Length, init_args: {longest: 0}}]", "got 1 and 0"),
        ("[{class_path: datamodules.curation.None}]", "expected a list such as"),
        ("a: [", "expected a list such as"),
    ],
)
def test_filters_that_cannot_be_used_are_one_line(corpus, tmp_path, capsys, listed, said):
    (tmp_path / "filters.yaml").write_text(listed)
    assert curate(corpus, tmp_path / "out", "--filters", str(tmp_path / "filters.yaml")) == 1
    error = capsys.readouterr().err
    assert "--filters: " in error and said in error and "Traceback" not in error and error.count("\n") == 1


def test_a_page_shows_languages_and_what_was_let_go(corpus, tmp_path):
    assert curate(corpus, tmp_path / "out", "--tail", "0.1", "--floor", "1") == 0
    page = (tmp_path / "out" / "curation.html").read_text()
    lines, _ = read(tmp_path / "out")
    assert "Latvian" in page and "w1" in page
    assert any(line["caption"] in page for line in lines if not line["kept"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--part", "5/4"], "--part: got 5/4"),
        (["--t", "3", "--tail", "0.1"], "expected one of them"),
        (["--t", "3", "--head_language", "xx"], "no caption in 'xx' matches an entry"),
        (["--floor", "0"], "--floor: got 0"),
        (["--tail", "2"], "--tail: got 2.0"),
        (["--share", "0.5"], "--by_model"),
        (["--by_model", "runs/none"], "expected one of them"),
    ],
)
def test_wrong_options_are_one_line(corpus, tmp_path, capsys, options, said):
    assert curate(corpus, tmp_path / "out", *options) in (1, 2)
    *_, error = capsys.readouterr().err.splitlines()
    assert said in error and "Traceback" not in error


def test_metadata_of_texts_is_written(tmp_path, capsys):
    (tmp_path / "en.txt").write_text("dogs and cats\n")
    options = ["--build_metadata", str(tmp_path / "en.txt"), "--top_unigrams", "1"]
    assert main(["curate", *options, "--out", str(tmp_path / "m.jsonl")]) == 0
    entries = [json.loads(line) for line in (tmp_path / "m.jsonl").read_text().splitlines()]
    assert {"language": "en", "entry": "cats"} in entries and len(entries) == 103
    assert "103 entries (100 numbers, 3 unigrams)" in capsys.readouterr().out


def test_other_files_stay(corpus, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()
    assert curate(corpus, tmp_path / "out") == 1
    assert "mine.txt" in capsys.readouterr().err
