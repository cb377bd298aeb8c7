"""`pack pairs`: text pairs of JSON Lines and TSV become samples, and what is none is counted by cause."""

import json
import tarfile

import pytest

from mmtrain.cli import main

ROWS = [
    {"query": "two", "positive": "divi", "language": "en"},
    {
        "id": "x",
        "query": {"en": "a"},
        "positive": {"lv": ["b", "c"]},
        "negatives": ["d", "e"],
        "scores": [1, 0.5, 0, -1],
    },
    {"query": "q", "positive": "p", "score": 0.25, "source": "somewhere"},
]
BAD = {
    "no JSON object": "[1]",
    "no query": {"query": " ", "positive": "a"},
    "no positive": {"query": "a"},
    "query holds what is no text": {"query": 3, "positive": "a"},
    "negatives holds what is no text": {"query": "a", "positive": "a", "negatives": {"en": [None, 3]}},
    "score is no finite number": {"query": "a", "positive": "a", "score": float("nan")},
    "scores are no finite numbers": {"query": "a", "positive": "a", "scores": [float("inf")]},
    "scores are not as many as positive and negatives": {"query": "a", "positive": "a", "scores": [1, 2]},
    "id is no string": {"id": 3, "query": "a", "positive": "a"},
}


@pytest.fixture
def pack(tmp_path):
    """pack(text, name, *options): the listing, and the record of each sample."""

    def run(text, name="pairs.jsonl", *options, out="out"):
        (tmp_path / name).write_text(text, encoding="utf-8")
        common = ["pack", "pairs", str(tmp_path / name), "--out", str(tmp_path / out), "--workers", "1"]
        assert main([*common, *options]) == 0
        found = []
        for shard in sorted((tmp_path / out).glob("*.tar")):
            with tarfile.open(shard) as tar:
                found += [json.loads(tar.extractfile(member).read()) for member in tar]
        return json.loads((tmp_path / out / "shards.json").read_text()), found

    return run


def lines(rows):
    return "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)


def test_rows_of_json_become_samples_without_pictures(pack, capsys):
    listing, records = pack(lines(ROWS))
    assert records == [{**ROWS[0], "id": "0"}, ROWS[1], {**ROWS[2], "id": "2"}]
    assert listing["holds"] == {"negatives": 1, "positive": 3, "query": 3, "score": 1, "scores": 1}
    assert listing["shards"][0]["languages"] == {"en": 2, "lv": 1, "und": 2}
    (said,) = capsys.readouterr().out.splitlines()
    assert "3 samples" in said and "3 with query" in said and "3 have no picture; 3 have no caption" in said


@pytest.mark.parametrize("cause", BAD)
def test_a_row_that_is_no_pair_is_counted(pack, cause, capsys):
    listing, records = pack(lines([ROWS[0], BAD[cause], ROWS[2]]))
    assert (len(records), listing["skipped"]) == (2, {cause: 1})
    assert listing["shards"][0]["skipped_rows"][0].startswith("row 2")
    assert f"1 rows left out (1 {cause})" in capsys.readouterr().out


TABLE = """query\tpositive\tnegative1\tnegative2\tscore\tquery_language\tpositive_language\tid\tsplit
one\tviens\tdivi\t\t0.5\ten\tlv\tfirst\ttrain
two\tdivi\t\t\t\t\t\t\tval
three\ttrīs\t\t\tmany\ten\tlv\t\ttrain
four
"""


def test_a_table(pack):
    listing, records = pack(TABLE, "pairs.tsv", "--language", "de")
    assert records[0] == {
        "id": "first",
        "query": {"en": "one"},
        "positive": {"lv": "viens"},
        "negatives": {"lv": ["divi"]},
        "score": 0.5,
        "split": "train",
        "language": "de",
    }
    assert {key: records[1][key] for key in ("id", "query", "language")} == {
        "id": "1",
        "query": "two",
        "language": "de",
    }
    assert listing["holds"] == {"negatives": 1, "positive": 2, "query": 2, "score": 1}
    assert listing["skipped"] == {"score is no finite number": 1, "wrong number of fields": 1}
    assert pack(TABLE, "pairs.tsv", "--split", "val", out="val")[0]["samples"] == 1


def test_a_table_of_other_columns_is_one_line(tmp_path, capsys):
    (tmp_path / "a.tsv").write_text("query\tanswer\na\tb\n")
    assert main(["pack", "pairs", str(tmp_path / "a.tsv"), "--out", str(tmp_path / "out")]) == 1
    assert "a.tsv has no column 'positive'; its columns: query, answer" in capsys.readouterr().err


def test_any_number_of_processes_writes_the_same(pack, tmp_path):
    text = lines({"query": f"q {n}", "positive": f"p {n}"} for n in range(20))
    pack(text, "a.jsonl", "--samples_per_shard", "6", out="one")
    pack(text, "a.jsonl", "--samples_per_shard", "6", "--workers", "2", out="two")
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / out).iterdir()} for out in ("one", "two"))
    assert len(one) == 5 and one == two
