"""Parquet files, arrow files and folders of `datasets` as shards: columns, damage, order and resumption."""

import io
import json
import random
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_shards import aged, png_bytes

import datamodules.shards.cache_room
import datamodules.shards.survey
import datamodules.shards.tables
from datamodules import Source
from datamodules.reading.whole import WholeSamples
from datamodules.shards.inspection import inspect_shards
from datamodules.shards.locations import Reading, expand
from datamodules.shards.reader import ShardReader
from datamodules.shards.row_groups import RowGroups
from datamodules.shards.samples import BrokenSample
from datamodules.shards.survey import survey


def row(number, **more):
    return {"image": {"bytes": png_bytes(number), "path": None}, "id": f"s{number:03d}", **more}


def captioned(count, first=0):
    return [row(n, caption_en=f"number {n}", caption_lv=[f"skaitlis {n}"]) for n in range(first, first + count)]


def write(path, rows, schema=None, row_group_size=7):
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(rows, schema)
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=row_group_size)
    else:
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=row_group_size)
    return path


def first_sample(path, columns=""):
    (part,) = expand(f"{path}{columns}")
    key, files = ShardReader().read(part.shards[0], 0)
    return json.loads(files.pop("json")), files


CAPTIONS = {
    "a text": ({"caption": "a cat"}, {"caption": "a cat"}),
    "a list": ({"captions": ["a cat", "one cat"]}, {"caption": ["a cat", "one cat"]}),
    "a column a language": (
        {"caption_en": "a cat", "text_pt-BR": ["um gato"]},
        {"en": ["a cat"], "pt-BR": ["um gato"]},
    ),
    "columns called by language": ({"en": "a cat", "fil": "pusa"}, {"en": ["a cat"], "fil": ["pusa"]}),
    "a row a language": ({"caption": "a cat", "language": "en"}, {"en": ["a cat"]}),
    "a struct": ({"captions": {"en": "a cat", "lv": None}}, {"en": ["a cat"]}),
    "a struct by longer codes": ({"captions": {"eng_Latn": "a cat"}}, {"eng_Latn": ["a cat"]}),
    "a struct of lists": ({"translation": {"en": ["a cat", "one cat"]}}, {"en": ["a cat", "one cat"]}),
    "pairs": (
        {"captions": [{"language": "en", "text": "a cat"}, {"language": "en", "text": "b"}]},
        {"en": ["a cat", "b"]},
    ),
    "lists side by side": ({"translation": {"language": ["en", "lv"], "translation": ["a cat", "kaķis"]}}, None),
    "sentences": ({"sentences": [{"raw": "a cat", "tokens": ["a", "cat"]}]}, {"caption": ["a cat"]}),
}


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
@pytest.mark.parametrize("columns, record", CAPTIONS.values(), ids=CAPTIONS)
def test_captions_in_every_form(tmp_path, suffix, columns, record):
    path = write(tmp_path / f"a.{suffix}", [row(0, **columns)])
    found, files = first_sample(path)
    captions = {
        name: each if isinstance(each, list) else [each] for name, each in found.get("captions", {}).items() if each
    }
    expected = {"en": ["a cat"], "lv": ["kaķis"]} if record is None else record
    assert (captions or {"caption": found["caption"]}) == expected
    assert (found["id"], files) == ("s000", {"png": png_bytes(0)})
    (shard,) = survey([str(path)], None, Reading(text_language="sv"))
    assert set(shard.languages) == ({"sv"} if "caption" in expected else set(expected))


def test_a_map_is_captions_too(tmp_path):
    schema = pa.schema([("jpg", pa.binary()), ("text", pa.map_(pa.string(), pa.string())), ("key", pa.int64())])
    path = write(tmp_path / "a.parquet", [{"jpg": png_bytes(0), "text": {"en": "a cat"}, "key": 7}], schema)
    assert first_sample(path) == ({"captions": {"en": "a cat"}, "id": "7"}, {"png": png_bytes(0)})


def test_columns_named_by_the_user_come_before_those_known(tmp_path):
    rows = [
        {"image": b"no", "photo": png_bytes(3), "text": "no", "title": "a cat", "virsraksts": "kaķis", "mood": "sad"}
    ]
    path = write(tmp_path / "a.parquet", rows)
    named = "[image=photo, captions.en=title,captions.lv=virsraksts,labels.mood=mood]"
    found, files = first_sample(path, named)
    assert files == {"png": png_bytes(3)}
    assert found == {"text": "no", "captions": {"en": "a cat", "lv": "kaķis"}, "labels": {"mood": "sad"}}
    facts = inspect_shards(f"{path}{named}").facts
    assert facts["columns"].endswith("not read: image")
    assert facts["captions"] == {"en": 1, "lv": 1}


def test_labels_scores_and_further_files(tmp_path):
    facts = {"info": {"features": {"label": {"names": ["sad", "glad"], "_type": "ClassLabel"}}}}
    rows = [
        row(n, label=n - 1, url="x", score=0.5, clap=[0.25, 1.0], other={"bytes": png_bytes(9), "path": None})
        for n in range(3)
    ]
    table = pa.Table.from_pylist(rows).replace_schema_metadata({"huggingface": json.dumps(facts)})
    pq.write_table(table, tmp_path / "a.parquet")
    path = f"{tmp_path}/a.parquet[audio=clap,photo=other]"
    (shard,) = survey([path], None, Reading(), frozenset({"image", "audio", "photo", "score"}))
    assert (len(shard), shard.labels) == (3, {"label": {"sad": 1, "glad": 1}})  # -1 is none
    reader = ShardReader()
    _, files = reader.read(path, 1, frozenset({"json"}), frozenset({"audio"}))
    assert np.load(io.BytesIO(files.pop("audio.npy"))).tolist() == [0.25, 1.0]
    assert json.loads(files.pop("json")) == {"id": "s001", "url": "x", "score": 0.5, "labels": {"label": "sad"}}
    assert files == {}
    assert reader.read(path, 1)[1]["photo.png"] == png_bytes(9)


def test_text_pairs_and_numbered_negatives(tmp_path):
    rows = [{"anchor": "q", "positive": "p", "negative_1": "a", "negative_2": None}, {"anchor": "r", "positive": None}]
    path = write(tmp_path / "a.parquet", rows)
    assert first_sample(path)[0] == {"query": "q", "positive": "p", "negatives": ["a"]}
    (shard,) = survey([str(path)], None, Reading(), frozenset({"query", "positive"}))
    assert (shard.usable.tolist(), shard.lacking) == ([0], {"positive": 1})


@pytest.mark.parametrize("missing", ["struct", "bytes", "column"])
def test_a_row_may_lack_its_picture(tmp_path, missing):
    rows = captioned(20)
    rows[8]["image"] = None if missing == "struct" else {"bytes": None, "path": None}
    if missing == "column":
        rows = [each | {"image": each["image"]["bytes"]} for each in rows]
    path = str(write(tmp_path / "a.parquet", rows))
    (shard,) = survey([path], None, Reading())
    assert (shard.samples, len(shard), shard.lacking) == (20, 19, {"image": 1})
    assert ShardReader().suffixes(path, 8) == ["json"]


def test_pictures_by_path_stay_in_the_folder(tmp_path):
    (tmp_path / "secret.png").write_bytes(png_bytes(1))
    (tmp_path / "data" / "pictures").mkdir(parents=True)
    (tmp_path / "data" / "pictures" / "0.png").write_bytes(png_bytes(0))
    places = ["pictures/0.png", "../secret.png", str(tmp_path / "secret.png"), "pictures/1.png", "https://a.b/c.png"]
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    for name, rows, schema in (
        ("text", [{"image": place, "caption": "x"} for place in places], None),
        (
            "struct",
            [{"image": {"bytes": None, "path": place}, "caption": "x"} for place in places],
            pa.schema([("image", struct), ("caption", pa.string())]),
        ),
    ):
        path = write(tmp_path / "data" / f"{name}.parquet", rows, schema)
        outside = "image outside the folder of the shard"
        assert inspect_shards(str(path)).facts["broken"] == {outside: 2, "missing image": 2}
        assert first_sample(path)[1] == {"png": png_bytes(0)}


def test_features_in_the_place_of_pictures(tmp_path, data):
    rows = [{"embedding": [float(n), 1.0, 2.0], "caption": f"number {n}"} for n in range(12)]
    write(tmp_path / "a.parquet", rows)
    module = data(train=f"{tmp_path}/a.parquet[image=embedding]")
    batch = next(iter(module.train_dataloader()))
    assert batch.images.shape == (4, 3)


# -- folders, and what is refused


def test_folders_as_datasets_writes_them(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "en": datasets.Value("string")})
    made = datasets.Dataset.from_list([{"image": {"bytes": png_bytes(n)}, "en": f"n {n}"} for n in range(30)], features)
    datasets.DatasetDict({"train": made, "test": made.select(range(4, 9))}).save_to_disk(tmp_path / "saved")
    for split, first in (("train", 0), ("test", 4)):
        record, files = first_sample(tmp_path / "saved" / split)
        assert (record["captions"], files) == ({"en": f"n {first}"}, {"png": png_bytes(first)})
    made.save_to_disk(tmp_path / "three", num_shards=3)
    (part,) = expand(str(tmp_path / "three"))
    assert [len(shard) for shard in survey(part.shards, None, Reading())] == [10, 10, 10]
    (tmp_path / "hub" / "data").mkdir(parents=True)
    made.to_parquet(tmp_path / "hub" / "data" / "train-00000-of-00001.parquet")
    assert first_sample(tmp_path / "hub")[1] == {"png": png_bytes(0)}
    with pytest.raises(ValueError, match=r"saved holds the splits test, train; name one, as in .*saved/test"):
        expand(str(tmp_path / "saved"))


def test_a_split_of_a_folder_as_on_the_hub(tmp_path):
    for name, count in (("train-00000-of-00002", 3), ("train-00001-of-00002", 2), ("validation-00000-of-00001", 4)):
        write(tmp_path / "data" / f"{name}.parquet", captioned(count))
    with pytest.raises(ValueError, match="data holds the splits train, validation; name one"):
        expand(str(tmp_path))
    for spec, counts in (("train", [3, 2]), ("data/train", [3, 2]), ("data/validation", [4])):
        (part,) = expand(f"{tmp_path}/{spec}")
        assert [len(shard) for shard in survey(part.shards, None, Reading())] == counts


def test_the_tables_that_img2dataset_leaves_beside_its_tars_are_no_shards(listed_shards):
    folder = listed_shards(4)
    write(folder / "00000.parquet", [{"url": "x", "caption": "y"}])
    (part,) = expand(str(folder))
    assert [shard.rpartition(".")[2] for shard in part.shards] == ["tar"]


@pytest.mark.parametrize(
    "spec, message",
    [
        ("a.parquet[image=photo]", "no column 'photo' for image; its columns: image, id, caption_en, caption_lv"),
        (
            "a.parquet[captions=id,image=caption_en,image=id]",
            r"'image=id' names no column; ROLE=COLUMN, as in \[image=",
        ),
        ("a.parquet[Picture=image]", "'Picture=image' names no column"),
        ("a.parquet[captions.en=image]", r"column 'image' is struct<.*>; captions.en takes lists of texts, text"),
        (
            "odd.parquet",
            r"no column is known by its name \(x, y\); image: image, img,.*; captions: .*odd.parquet\[image=",
        ),
        ("chats.parquet", r"no column is known by its name \(caption\)"),
        (
            "chats.parquet[captions=caption]",
            r"column 'caption' is list<.*role.*>; captions takes an object of them by language, lists",
        ),
        ("b.tar[image=photo]", r"\[image=photo\] says what columns are, and .*b.tar is no .parquet"),
    ],
)
def test_columns_that_do_not_fit_are_one_line(tmp_path, spec, message):
    write(tmp_path / "a.parquet", captioned(2))
    write(tmp_path / "odd.parquet", [{"x": 1.5, "y": [1]}])
    write(tmp_path / "chats.parquet", [{"caption": [{"role": "user", "content": "a cat?"}]}])
    (tmp_path / "b.tar").touch()
    with pytest.raises(ValueError, match=message) as error:
        survey(expand(f"{tmp_path}/{spec}")[0].shards, None, Reading())
    assert "\n" not in str(error.value)


def test_without_pyarrow_a_line_names_the_extra(tmp_path):
    write(tmp_path / "a.parquet", captioned(2))
    code = "import sys; from datamodules.shards.locations import expand; expand(sys.argv[1])"
    blocked = f"import sys; sys.modules['pyarrow'] = None; {code}"
    done = subprocess.run([sys.executable, "-c", blocked, str(tmp_path / "a.parquet")], capture_output=True, text=True)
    assert done.stderr.endswith("parquet and arrow files need pyarrow: pip install 'mmtrain[documents]'\n")


# -- damage


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_what_is_no_table_counts_as_a_lost_shard(tmp_path, suffix):
    whole, path = write(tmp_path / f"a.{suffix}", captioned(30)).read_bytes(), tmp_path / f"b.{suffix}"
    for content in (b"", b"PAR1", bytes(3000), whole[:300], whole[100:]):
        path.write_bytes(content)
        assert survey([str(path)], None, Reading())[0].lost == {"unreadable shard": 1}
    path.unlink()
    assert survey([str(path)], None, Reading())[0].lost == {"missing shard": 1}


def test_an_arrow_file_that_was_cut_off_keeps_what_came_before(tmp_path):
    path = write(tmp_path / "a.arrow", captioned(30))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    (shard,) = survey([str(path)], None, Reading())
    assert shard.lost == {"truncated shard": 1}
    assert len(shard) in (14, 21)


def test_damaged_pages_cost_their_row_group(tmp_path, data):
    rows = captioned(70)
    path = write(tmp_path / "a.parquet", rows, row_group_size=10)
    content = bytearray(path.read_bytes())
    place = content.index(rows[35]["image"]["bytes"])
    metadata = pq.ParquetFile(path).metadata.row_group(3).column(0)
    first = metadata.dictionary_page_offset or metadata.data_page_offset
    assert first < place
    content[first : first + 40] = b"\xff" * 40
    path.write_bytes(content)
    assert inspect_shards(str(path)).facts["broken"] == {"damaged bytes in the shard": 10}
    module = data(train=path, max_skip_rate=1.0)
    for batch in module.train_dataloader():
        module.trained(batch)
    assert module.account.summary()["causes"].keys() == {"damaged bytes in the shard"}


def test_text_that_is_no_utf8_costs_its_row(tmp_path):
    texts = pa.array([b"a", b"\xff\xfe", b"c"], pa.binary()).view(pa.string())
    table = pa.table({"jpg": pa.array([png_bytes(n) for n in range(3)]), "caption": texts})
    pq.write_table(table, tmp_path / "a.parquet")
    path = str(tmp_path / "a.parquet")
    assert [isinstance(each, BrokenSample) for each in ShardReader().texts(path)] == [False, True, False]
    assert inspect_shards(path).facts["broken"] == {"invalid UTF-8": 1}


def test_a_broken_picture_is_skipped_by_shard_and_cause(tmp_path, data, epoch):
    rows = captioned(40)
    rows[5]["image"]["bytes"] = b"no picture"
    module = data(train=write(tmp_path / "a.parquet", rows), max_skip_rate=1.0)
    assert len([name for names in epoch(module) for name in names]) == 40
    assert module.account.summary()["causes"].keys() == {"broken image"}


# -- as tars are


@pytest.fixture
def both(tmp_path, listed_shards):
    """The same 48 samples in tars and in parquet files of the same sizes."""
    tars = listed_shards(48, 12)
    for number in range(4):
        write(tmp_path / "tables" / f"{number}.parquet", captioned(12, 12 * number))
    return tars, tmp_path / "tables"


@pytest.mark.parametrize("workers", [0, 2])
def test_the_order_and_what_is_drawn_are_those_of_tars(both, data, epoch, workers):
    one, other = (data(train=folder, workers=workers) for folder in both)
    assert epoch(one) == epoch(other)


def test_a_run_goes_on_where_it_was(both, data, epoch):
    folder = both[1]
    whole = epoch(data(train=folder))
    stopped = data(train=folder)
    assert epoch(stopped, batches=5) == whole[:5]
    resumed = data(train=folder)
    resumed.load_state_dict(stopped.state_dict())
    assert epoch(resumed) == whole[5:]


def test_tars_and_tables_in_one_mixture(both, data, epoch):
    tars, tables = both
    ids = epoch(data(train=f"3@{tars}::1@{tables}[captions.en=caption_en]", epoch_samples=64, batch_size=8))
    assert sum(len(names) for names in ids) == 64
    module = data(train=[Source(str(tars), 1.0), Source(str(tables), 1.0, languages=["lv"])])
    assert module.languages == ["en", "lv"]


def test_the_second_survey_reads_no_rows(tmp_path, monkeypatch):
    path = aged(
        write(tmp_path / "a.parquet", [row(n, caption=random.Random(n).randbytes(1000).hex()) for n in range(200)])
    )
    cache, really = str(tmp_path / "cache"), datamodules.shards.survey._found
    read = []
    monkeypatch.setattr(datamodules.shards.survey, "_found", lambda *all: read.append(all) or really(*all))
    first, again = (survey([str(path)], None, Reading(cache_dir=cache))[0] for _ in range(2))
    assert (len(read), first.languages, first.columns) == (1, again.languages, again.columns)
    survey([f"{path}[captions.lv=caption]"], None, Reading(cache_dir=cache))
    assert len(read) == 2


@pytest.fixture
def groups_read(monkeypatch):
    """The row groups that were read, in order, with their columns."""
    asked, really = [], pq.ParquetFile.read_row_group

    def read(file, number, columns, **options):
        asked.append((number, columns))
        return really(file, number, columns, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", read)
    return asked


def test_a_survey_reads_no_pictures(tmp_path, groups_read):
    path = write(tmp_path / "a.parquet", captioned(30))
    survey([str(path)], None, Reading())
    assert groups_read == []


def test_a_row_group_is_read_once_while_it_is_kept(tmp_path, groups_read):
    path = str(write(tmp_path / "a.parquet", captioned(30), row_group_size=10))
    reader = ShardReader()
    for number in (3, 17, 5, 29, 11, 2):
        reader.read(path, number)
    assert len(groups_read) == 2 * 3  # pictures and texts of three groups


@pytest.fixture
def small_memory(monkeypatch):
    """Gives this process memory for a single row group, as if it had just begun."""

    def begin():
        monkeypatch.setattr(datamodules.shards.tables, "RECENT", RowGroups(1))

    begin()
    return begin


def test_a_row_group_that_no_memory_holds_is_decoded_twice_and_then_mapped(tmp_path, groups_read, small_memory):
    path, copies = (
        str(write(tmp_path / "a.parquet", captioned(30), row_group_size=10)),
        Reading(cache_dir=tmp_path / "c"),
    )
    numbers = [random.Random(seed).randrange(30) for seed in range(60)]
    expected = [ShardReader().read(path, number) for number in numbers]
    assert len(groups_read) > 60  # what it costs without copies
    small_memory()
    groups_read.clear()
    reader = ShardReader(copies=copies)
    assert [reader.read(path, number) for number in numbers] == expected
    assert len(groups_read) == 2 * 2 * 3  # pictures and texts of three groups, twice
    groups_read.clear()
    small_memory()  # another process
    reader = ShardReader(copies=copies)
    assert [reader.read(path, number) for number in numbers] == expected
    assert groups_read == []
    for copy in (tmp_path / "c").iterdir():  # damage
        copy.write_bytes(copy.read_bytes()[:100])
    small_memory()
    assert [ShardReader(copies=copies).read(path, number) for number in numbers[:9]] == expected[:9]


def test_a_copy_of_a_row_group_is_of_the_file_as_it_is(tmp_path, small_memory):
    copies = Reading(cache_dir=tmp_path / "c")
    for first in (0, 30):
        path = str(aged(write(tmp_path / "a.parquet", captioned(20, first), row_group_size=10), 60 + first))
        reader = ShardReader(copies=copies)
        for number in [0, 10] * 3:
            assert json.loads(reader.read(path, number)[1]["json"])["id"] == f"s{first + number:03d}"


@pytest.mark.parametrize("full", ["disk", "cache_gb", "folder"])
def test_row_groups_are_copied_only_where_there_is_room(tmp_path, monkeypatch, small_memory, full):
    path, copies = (
        str(write(tmp_path / "a.parquet", captioned(20), row_group_size=10)),
        Reading(cache_dir=tmp_path / "c"),
    )
    if full == "disk":
        monkeypatch.setattr(datamodules.shards.cache_room, "FREE", 1.1)
    elif full == "cache_gb":
        copies = Reading(cache_dir=tmp_path / "c", cache_gb=1e-9)
    else:
        (tmp_path / "c").touch()
    reader = ShardReader(copies=copies)
    found = [json.loads(reader.read(path, number)[1]["json"])["id"] for number in [0, 10] * 4]
    assert found == ["s000", "s010"] * 4
    assert not list((tmp_path / "c").glob("*.arrow"))


def test_training_copies_what_it_reads_again(tmp_path, data, epoch, small_memory):
    path = write(tmp_path / "a.parquet", captioned(48), row_group_size=8)
    module = data(train=path, cache_dir=str(tmp_path / "c"))
    assert len(epoch(module)) == 12
    assert list((tmp_path / "c").glob("*-rows.arrow"))


def test_shards_are_written_again_from_tables(both):
    tars, tables = (WholeSamples.named(str(folder)) for folder in both)
    assert [tables[n].sample.captions for n in range(48)] == [tars[n].sample.captions for n in range(48)]
    assert [tables[n].files["png"] for n in range(48)] == [tars[n].files["png"] for n in range(48)]
    assert len({tables[n].key for n in range(48)}) == 48
