"""Every source that can be packed, as a miniature in its true form, with its traps."""

import csv
import gzip
import json
import random
import tracemalloc

import pytest

from datamodules.packing import (
    Row,
    pack_rows,
    read_crossmodal3600,
    read_folder,
    read_jsonl,
    read_karpathy,
    read_multi30k,
    read_table,
    read_wit,
    read_xtd10,
)
from datamodules.packing.sorting import sorted_on_disk
from datamodules.packing.wit import COLUMNS
from datamodules.shards.encoding import BadRow
from tests.datamodules.tiny_shards import png_bytes


def rows_of(reader):
    """id -> (captions, names of the picture) of the good rows; the bad ones as text."""
    rows = list(reader)
    good = [row for row in rows if isinstance(row, Row)]
    assert len({row.number for row in good}) == len(good)
    found = {row.record["id"]: (row.record["captions"], row.images) for row in good}
    return found, [str(row) for row in rows if isinstance(row, BadRow)]


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


# CSV and TSV


def test_a_table_names_its_columns(tmp_path):
    text = (
        'path;name;caption_en;caption_lv;second;mood;story\n1.png;one;"two\nlines; ""said""";divi;;0;s1\n2.png;x;;;b;;'
    )
    source = write(tmp_path / "a.csv", "\ufeff" + text)
    captions = {"en": ["caption_en", "second"], "lv": "caption_lv"}
    options = {"captions": captions, "image": "path", "id": "name", "labels": {"mood": "mood"}, "separator": ";"}
    rows = list(read_table(source, **options))
    both = {"en": ['two\nlines; "said"'], "lv": ["divi"]}
    assert rows[0] == Row(0, {"id": "one", "story": "s1", "captions": both, "labels": {"mood": 0}}, ("1.png",))
    assert rows[1] == Row(1, {"id": "x", "story": "", "captions": {"en": ["b"]}, "labels": {}}, ("2.png",))


def test_a_tsv_without_ids_takes_the_path_and_its_split_column(tmp_path):
    source = tmp_path / "a.tsv.gz"
    source.write_bytes(gzip.compress(b"image\ttext\tsplit\na/1.png\tone, two\tval\n\na/2.png\tthree\ttrain\n"))
    rows = list(read_table(source, captions={"en": "text"}))
    assert rows[0] == Row(0, {"id": "a/1", "split": "val", "captions": {"en": ["one, two"]}}, ("a/1.png",))
    assert [row.record["split"] for row in rows] == ["val", "train"]


def test_a_field_as_long_as_an_article_is_read(tmp_path):
    source = write(tmp_path / "a.csv", f"image,text\n1.png,{'x' * 300_000}\n")
    (row,) = read_table(source, captions={"en": "text"})
    assert len(row.record["captions"]["en"][0]) == 300_000


def test_a_quote_that_is_never_closed_is_told_and_not_swallowed(tmp_path):
    source = write(tmp_path / "a.csv", 'image,text\n1.png,a\n2.png,"b\n3.png,c\n4.png,"d"\n5.png,e\n')
    found, bad = rows_of(read_table(source, captions={"en": "text"}))
    assert list(found) == ["1", "5"]
    assert bad == ["a.csv, lines 3 to 5: broken quotes"]
    found, bad = rows_of(read_table(source, captions={"en": "text"}, unquoted=True))
    assert list(found) == ["1", "2", "3", "4", "5"] and not bad
    assert found["2"][0] == {"en": ['"b']}


def test_rows_of_another_width_are_told(tmp_path):
    source = write(tmp_path / "a.csv", "image,text\n1.png\n2.png,b\n3.png,c,d\n,e\n")
    found, bad = rows_of(read_table(source, captions={"en": "text"}))
    assert list(found) == ["2"]
    assert bad == ["row 1: wrong number of fields", "row 3: wrong number of fields", "row 4: missing image"]


@pytest.mark.parametrize(
    ("text", "options", "says"),
    [
        (b"image;text\n1.png;a\n", {}, "a.csv has no column 'image' .separator ','.; its columns: image;text"),
        (b"image,text\n", {"captions": {"en": "caption"}}, "no column 'caption' .*; its columns: image, text"),
        (b"", {}, "no column 'image' .*; its columns: none"),
        (b"\x89PNG\r\n\x1a\n\x00", {}, "no column 'image'"),
        (b"image,text\n", {"separator": ", "}, "separator: ', ' is no separator"),
        (b"image,text\n", {"id": "name"}, "no column 'name'"),
        (b"image,text\n", {"captions": {}}, "captions: no column is named"),
    ],
)
def test_a_file_that_is_no_such_table_is_one_line(tmp_path, text, options, says):
    source = write(tmp_path / "a.csv", text)
    with pytest.raises(ValueError, match=says):
        list(read_table(source, **{"captions": {"en": "text"}, **options}))


# Karpathy's splits

COCO = {
    "dataset": "coco",
    "images": [
        {
            "filepath": "val2014",
            "filename": "COCO_val2014_000000391895.jpg",
            "split": "test",
            "cocoid": 391895,
            "imgid": 0,
            "sentids": [770337, 771687],
            "sentences": [{"raw": "A man.", "tokens": ["a", "man"], "imgid": 0, "sentid": 770337}, {"raw": "A hill. "}],
        },
        {"filename": "36979.jpg", "split": "restval", "imgid": 1, "sentences": [{"raw": "Two dogs"}]},
        {"filename": "36980.jpg", "split": "val", "imgid": 2, "sentences": []},
        {"imgid": 3},
    ],
}


def test_karpathy_splits(tmp_path):
    source = write(tmp_path / "dataset_coco.json", json.dumps(COCO))
    rows = list(read_karpathy(source))
    name = "COCO_val2014_000000391895"
    record = {"id": name, "split": "test", "cocoid": 391895, "imgid": 0, "captions": {"en": ["A man.", "A hill. "]}}
    assert rows[0] == Row(0, record, (f"val2014/{name}.jpg", f"{name}.jpg"))
    assert rows[1].record["split"] == "train"
    assert str(rows[3]) == "row 4: no filename"
    assert list(next(read_karpathy(source, language="lv")).record["captions"]) == ["lv"]


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"images": {}}', '"images"'])
def test_json_of_another_form_is_one_line(tmp_path, text):
    with pytest.raises(ValueError, match="a.json is no Karpathy split; JSON like"):
        list(read_karpathy(write(tmp_path / "a.json", text)))


# Multi30k


def multi30k(folder):
    write(folder / "image_splits/train.txt", "1000092795.jpg\n10002456.jpg\n")
    write(folder / "image_splits/test_2017_mscoco.txt", "COCO_train2014_000000117071.jpg#367178\n")
    write(folder / "image_splits/val.txt", "7.jpg\n")  # nobody has its texts
    for name, text in {
        "train.en": "Two young men.\nSeveral men\u2028in hard hats.\n",
        "train.de": "Zwei junge Männer.\r\nMehrere\x0cMänner.",
        "test_2017_mscoco.en": "A bench.\n",
        "test_2017_mscoco.fr": "Un banc.\n",
    }.items():
        write(folder / f"raw/{name}.gz", gzip.compress(text.encode()))
    write(folder / "raw/train.de", "Zwei junge Männer.\r\nMehrere\x0cMänner.")  # unpacked, the .gz left behind
    write(folder / "tok/train.lc.norm.tok.en", "two young men .\n")
    return folder


def test_multi30k(tmp_path):
    rows = list(read_multi30k(multi30k(tmp_path / "task1")))
    assert [row.record for row in rows] == [
        {
            "id": "COCO_train2014_000000117071",
            "split": "test_2017_mscoco",
            "captions": {"en": ["A bench."], "fr": ["Un banc."]},
        },
        {
            "id": "1000092795",
            "split": "train",
            "captions": {"de": ["Zwei junge Männer."], "en": ["Two young men."]},
        },
        {
            "id": "10002456",
            "split": "train",
            "captions": {"de": ["Mehrere\x0cMänner."], "en": ["Several men\u2028in hard hats."]},
        },
    ]
    assert [row.number for row in rows] == [0, 1, 2]
    assert rows[0].images == ("COCO_train2014_000000117071.jpg",)


def test_multi30k_task_2_has_several_captions_a_language(tmp_path):
    write(tmp_path / "image_splits/train_images.txt", "1.jpg\n2.jpg\n")
    for number in (1, 2):
        for language in ("de", "en"):
            write(tmp_path / f"raw/train.{number}.{language}", f"{language} {number} a\n{language} {number} b\n")
    found, _ = rows_of(read_multi30k(tmp_path))
    assert found["2"][0] == {"de": ["de 1 b", "de 2 b"], "en": ["en 1 b", "en 2 b"]}


def test_texts_that_are_not_aligned_are_one_line(tmp_path):
    folder = multi30k(tmp_path)
    write(folder / "raw/train.cs", "Dva mladí muži.\n")
    with pytest.raises(ValueError, match="raw/train.cs has 1 lines, .*image_splits/train.txt has 2; as many in both"):
        list(read_multi30k(folder))
    with pytest.raises(ValueError, match="holds no list with texts"):
        list(read_multi30k(tmp_path / "tok"))


# Crossmodal-3600


def crossmodal3600(folder):
    texts = {"caption": ["Ein Hund.", "Hund im Gras."], "caption/tokenized": ["Ein Hund .", "Hund im Gras ."]}
    entry = {"image/key": "000411001ff7dd4f", "image/locale": "sw", "de": texts, "quz": {"caption": ["allqu"]}}
    entry["fil"] = {"caption": []}
    lines = [json.dumps(entry), json.dumps({"image/key": "0123456789abcdef", "en": {"caption": ["a"]}}), "{}"]
    return write(folder / "captions.jsonl", "\n".join(lines))


def test_crossmodal3600(tmp_path):
    rows = list(read_crossmodal3600(crossmodal3600(tmp_path)))
    captions = {"de": ["Ein Hund.", "Hund im Gras."], "quz": ["allqu"], "fil": []}
    record = {"id": "000411001ff7dd4f", "locale": "sw", "captions": captions}
    assert rows[0] == Row(0, record, ("000411001ff7dd4f.jpg",))
    assert str(rows[2]) == "row 3: no image/key"


# WIT


def wit_row(
    language="en", url="commons/a/a9/Half_Dome.jpg", reference="", attribution="", passes="true", alt="", **more
):
    row = dict.fromkeys(COLUMNS, "") | {
        "language": language,
        "page_url": f"https://{language}.wikipedia.org/wiki/Half_Dome",
        "image_url": f"https://upload.wikimedia.org/wikipedia/{url}",
        "page_title": "Half Dome",
        "caption_reference_description": reference,
        "caption_attribution_description": attribution,
        "caption_alt_text_description": alt,
        "attribution_passes_lang_id": passes,
    }
    return list((row | more).values())


def write_wit(path, rows, header=True):
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter="\t", lineterminator="\n").writerows([list(COLUMNS)] * header + rows)
    return path


def test_wit(tmp_path):
    quoted = 'The "granite"\ndome\tat dusk'
    rows = [
        wit_row(reference=quoted, attribution="Half Dome seen from Glacier Point", alt=quoted),
        wit_row("iw", attribution="English: Half Dome", passes="false", alt="חצי כיפה"),
        wit_row("fr", url="commons/1/1b/D%C3%B4me_%28nord%29.jpg", context_page_description="x" * 200_000),
    ]
    source = write_wit(tmp_path / "wit_v1.train.all-1percent_sample.tsv.gz", rows)
    found = list(read_wit(source))
    assert found[0] == Row(
        0,
        {
            "id": "en/Half_Dome.jpg",
            "page_url": "https://en.wikipedia.org/wiki/Half_Dome",
            "image_url": "https://upload.wikimedia.org/wikipedia/commons/a/a9/Half_Dome.jpg",
            "captions": {"en": [quoted, "Half Dome seen from Glacier Point"]},  # the alternative text says it again
            "fields": {"en": ["reference", "attribution"]},
            "split": "train",
        },
        ("upload.wikimedia.org/wikipedia/commons/a/a9/Half_Dome.jpg", "Half_Dome.jpg"),
    )
    # the attribution is in another language, and "iw" is "he" by now
    assert found[1].record["captions"] == {"he": ["חצי כיפה"]}
    assert found[2].record["captions"] == {"fr": []}
    assert found[2].record["id"] == "fr/Dôme_(nord).jpg"
    mirrored = "upload.wikimedia.org/wikipedia/commons/1/1b/"
    names = ("D%C3%B4me_%28nord%29.jpg", "Dôme_(nord).jpg")
    assert found[2].images == (mirrored + names[0], mirrored + names[1], *names)


def test_wit_captions_are_a_choice_and_an_order_of_fields(tmp_path):
    rows = [wit_row(reference="r", attribution="a", alt="t", context_page_description="p"), wit_row(alt="t")]
    source = write_wit(tmp_path / "a.tsv", rows)

    def captions(*fields, first=False):
        return [row.record["captions"]["en"] for row in read_wit(source, caption_fields=fields, first=first)]

    assert captions("page", "alt") == [["p", "t"], ["t"]]
    assert captions("alt", "reference") == [["t", "r"], ["t"]]
    assert captions("reference", "alt", first=True) == [["r"], ["t"]]
    with pytest.raises(ValueError, match=r"caption_fields: \['caption'\]; one or more of reference"):
        captions("caption")


def test_wit_joined_by_picture(tmp_path):
    other, elsewhere = "commons/b/b1/Other.jpg", "en/a/a9/Half_Dome.jpg"
    train = [
        wit_row("lv", alt="alts", reference="zem"),
        wit_row("en", url=other, attribution="other"),
        wit_row("en", reference="below", attribution="page"),
        wit_row()[:16],
        wit_row("en", reference="second page", attribution="page", alt="below"),
        wit_row("de", url=f"{elsewhere}?x=1"),
    ]
    write_wit(tmp_path / "wit_v1.train.all-0.tsv", train)
    write_wit(tmp_path / "wit_v1.val.all-0.tsv", [wit_row("fr", reference="sous")])
    rows = list(read_wit(tmp_path, join=True))
    assert [str(row) for row in rows if not isinstance(row, Row)] == ["row 4: wrong number of fields"]
    found = [(row.number, row.record["id"], row.record["split"], row.record["captions"]) for row in rows[1:]]
    captions = {"en": ["below", "second page", "page"], "lv": ["zem", "alts"]}
    assert found == [
        (0, "Half_Dome.jpg", "train", captions),
        (6, "Half_Dome.jpg", "val", {"fr": ["sous"]}),  # whoever trains on one split has not seen the other's captions
        (1, "Other.jpg", "train", {"en": ["other"]}),
        (5, "Half_Dome.jpg", "train", {}),
    ]
    fields = {"en": ["reference", "reference", "attribution"], "lv": ["reference", "alt"]}
    assert rows[1].record["fields"] == fields
    assert [row.rpartition("//")[2][:2] for row in rows[1].record["page_urls"]] == ["lv", "en", "en"]
    assert rows[4].images[-1] == "Half_Dome.jpg"


def test_what_is_sorted_on_disk_is_sorted_and_memory_stays_flat():
    keys = random.Random(0).sample(range(20_000), 20_000)
    items = ([f"{key % 7}", key, {"text": "\ud800" + "x" * 400}] for key in keys)
    tracemalloc.start()
    found = []
    for first, second, content in sorted_on_disk(items, 2, most=400_000):
        found.append((first, second))
        assert len(content["text"]) == 401
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == sorted((f"{key % 7}", key) for key in keys)
    assert peak < 6_000_000  # 8 MB of text, and the keys collected here


def test_no_room_to_sort_is_one_line(monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", "/proc/none")
    with pytest.raises(ValueError, match="cannot be sorted in /proc/none .No such file .* TMPDIR names a folder"):
        list(sorted_on_disk([[1]], 1))


def test_wit_in_several_files_with_and_without_a_header(tmp_path):
    write_wit(tmp_path / "wit_v1.test.all-00000-of-00005.tsv.gz", [wit_row(reference="a"), wit_row()[:16]])
    write_wit(tmp_path / "wit_v1.test.all-00001-of-00005.tsv.gz", [wit_row(reference="b")], header=False)
    rows = list(read_wit(tmp_path))
    assert [row.record["captions"]["en"] for row in (rows[0], rows[2])] == [["a"], ["b"]]
    assert [rows[0].number, rows[2].number] == [0, 2]
    assert str(rows[1]) == "row 2: wrong number of fields"


def test_wit_addresses_cannot_lead_out_of_the_folder(tmp_path):
    urls = ["commons/..%2F..%2Fsecret.jpg", "%2Fsecret.jpg", "", "commons/[x/A.jpg?download"]
    rows = list(read_wit(write_wit(tmp_path / "a.tsv", [wit_row(url=url, reference="r") for url in urls])))
    mirror = "upload.wikimedia.org/wikipedia"
    assert [row.images for row in rows] == [
        (f"{mirror}/commons/..%2F..%2Fsecret.jpg", "..%2F..%2Fsecret.jpg"),
        (f"{mirror}/%2Fsecret.jpg", "%2Fsecret.jpg"),
        (),
        (f"{mirror}/commons/[x/A.jpg", "A.jpg"),
    ]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"language\tcaption\nen\ta\n", "a.tsv has 2 columns, not those of WIT; language, page_url"),
        (b"image_url\tlanguage\n", "not those of WIT"),
    ],
)
def test_a_table_that_is_not_wit_is_one_line(tmp_path, content, says):
    with pytest.raises(ValueError, match=says):
        list(read_wit(write(tmp_path / "a.tsv", content)))
    with pytest.raises(ValueError, match="holds no .tsv"):
        list(read_wit(tmp_path / ".."))


def test_a_truncated_gz_is_one_line(tmp_path):
    source = write_wit(tmp_path / "a.tsv.gz", [wit_row(reference=str(n)) for n in range(1000)])
    source.write_bytes(source.read_bytes()[:-30])
    with pytest.raises(ValueError, match="a.tsv.gz cannot be read .Compressed file ended"):
        list(read_wit(source))
    with pytest.raises(ValueError, match="b.tsv.gz cannot be read .Not a gzipped file"):
        list(read_wit(write(tmp_path / "b.tsv.gz", b"language\t")))


# XTD10


def xtd10(folder):
    names = ["COCO_train2014_000000061844.jpg", "COCO_train2014_000000061849.jpg", "COCO_val2014_000000000042.jpg"]
    write(folder / "XTD10/test_image_names.txt", "\n".join(names) + "\n")
    write(folder / "XTD10/.DS_Store", b"\x00\x01")
    for place, codes in {"XTD10": ("es", "it", "ko", "pl", "ru", "tr", "zh"), "MIC": ("de", "en", "fr")}.items():
        for code in codes:
            write(folder / place / f"test_1kcaptions_{code}.txt", f"{code} 1\n{code} 2\n{code} 3\n")
    write(folder / "STAIR/test_1kcaptions_jp.txt", "一\n二\n三")
    write(folder / "XTD10/test_1kcaptions_zh.txt", "红\n红\n蓝")  # no line feed behind the last, and one said twice
    return folder


def test_xtd10(tmp_path):
    rows = list(read_xtd10(xtd10(tmp_path)))
    assert len(rows) == 3
    last = rows[2]
    assert last.record["id"] == "COCO_val2014_000000000042"
    assert sorted(last.record["captions"]) == ["de", "en", "es", "fr", "it", "ja", "ko", "pl", "ru", "tr", "zh"]
    assert (last.record["captions"]["zh"], last.record["captions"]["ja"]) == (["蓝"], ["三"])
    name = "COCO_val2014_000000000042.jpg"
    assert last.images == (name, f"train2014/{name}", f"val2014/{name}")


def test_xtd10_without_the_pictures_models_have_seen(tmp_path):
    found, bad = rows_of(read_xtd10(xtd10(tmp_path), without_train2014=True))
    assert list(found) == ["COCO_val2014_000000000042"]
    assert bad[0] == "row 1 (COCO_train2014_000000061844.jpg): COCO training image" and len(bad) == 2


def test_xtd10_that_is_not_whole_is_one_line(tmp_path):
    folder = xtd10(tmp_path / "xtd")
    write(folder / "copy/test_1kcaptions_en.txt", "a\nb\nc\n")
    with pytest.raises(ValueError, match="copy/test_1kcaptions_en.txt is a second text of en, after .*MIC"):
        list(read_xtd10(folder))
    write(folder / "copy/test_1kcaptions_en.txt", "a\nb\n").rename(folder / "copy/test_1kcaptions_sv.txt")
    with pytest.raises(ValueError, match="test_1kcaptions_sv.txt has 2 lines, .*test_image_names.txt has 3"):
        list(read_xtd10(folder))
    with pytest.raises(ValueError, match="holds 0 test_image_names.txt and 1 test_1kcaptions"):
        list(read_xtd10(folder / "STAIR"))


# A folder of pictures


def test_a_folder_of_pictures_with_sidecars(tmp_path):
    for name in ("b.png", "a.JPG", "sub/c.webp", "my.cat.jpg", "my.jpg", "alone.png", "._a.JPG", ".cache/x.png"):
        write(tmp_path / name, png_bytes())
    write(tmp_path / "a.txt", "one\ntwo\n")
    write(tmp_path / "b.en.txt", "bee")
    write(tmp_path / "b.zh-Hant.txt", "蜜蜂")
    write(tmp_path / "sub/c.txt", "see")
    write(tmp_path / "my.cat.txt", "a cat")  # the caption of my.cat.jpg, not the Catalan (cat) of my.jpg
    found, _ = rows_of(read_folder(tmp_path, language="en"))
    assert found == {
        "a": ({"en": ["one\ntwo\n"]}, ("a.JPG",)),
        "alone": ({}, ("alone.png",)),
        "b": ({"en": ["bee"], "zh-Hant": ["蜜蜂"]}, ("b.png",)),
        "my.cat": ({"en": ["a cat"]}, ("my.cat.jpg",)),
        "my": ({}, ("my.jpg",)),
        "sub/c": ({"en": ["see"]}, ("sub/c.webp",)),
    }
    assert list(found) == ["a", "alone", "b", "my.cat", "my", "sub/c"]
    assert next(read_folder(tmp_path)).record["captions"] == {"und": ["one\ntwo\n"]}
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty holds no picture; a folder of .jpg"):
        list(read_folder(tmp_path / "empty"))


# All of them


def test_bytes_that_are_no_utf_8_cost_their_row_and_not_the_file(tmp_path):
    for number in range(3):
        write(tmp_path / f"{number}.png", png_bytes(number))
    source = write(tmp_path / "a.csv", b"image,text\n0.png,a\n1.png,caf\xe9\n2.png,caf\xc3\xa9\n")
    listing = pack_rows(read_table(source, captions={"fr": "text"}), tmp_path / "out", images=tmp_path)
    assert (listing["samples"], listing["skipped"]) == (2, {"invalid UTF-8": 1})


@pytest.mark.parametrize("reader", [read_jsonl, read_karpathy, read_crossmodal3600, read_wit])
def test_a_file_that_is_not_there_is_one_line(tmp_path, reader):
    with pytest.raises(ValueError, match="none.tsv cannot be read .No such file or directory.; a UTF-8 text file"):
        list(reader(tmp_path / "none.tsv"))
