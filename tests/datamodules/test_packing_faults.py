"""Rows, images and folders that other people's sources bring: nothing is lost, turned or stale without a word."""

import io
import json
import os
import threading

import numpy as np
import pytest
from PIL import Image
from tiny_shards import pack_jsonl, png_bytes

from datamodules import ImagePipeline, Manifest, RelationDataModule
from datamodules.files import writing_into
from datamodules.packing import Row, pack_rows, read_folder, read_jsonl, read_multi30k, read_table
from datamodules.shards.reader import ShardReader
from datamodules.shards.samples import BrokenSample, read_labels, read_sample
from mmtrain.cli import main

TURNED = 6  # EXIF: show it a quarter clockwise


@pytest.fixture
def manifest(tmp_path):
    """manifest(rows): JSON Lines; a.png lies beside them, and each row shows it unless it names another."""
    (tmp_path / "a.png").write_bytes(png_bytes())

    def write(rows):
        rows = [{"id": str(n), "image": "a.png", "captions": {"en": "a"}} | row for n, row in enumerate(rows)]
        (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return tmp_path / "m.jsonl"

    return write


def image_of(folder):
    (folder / "b.png").write_bytes(png_bytes())
    return {"id": "b", "captions": {"en": "b"}}, ("b.png",)


def samples(folder):
    reader = ShardReader()
    for tar in sorted(folder.glob("*.tar")):
        for number in range(len(reader.index(str(tar)))):
            yield read_sample(*reader.read(str(tar), number))
    reader.close()


def encoded(image, kind, **options):
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def test_labels_as_tables_are_exported(manifest, tmp_path):
    labels = [{"mood": None}, {"mood": float("nan")}, {"mood": 1.0}, {"mood": 0}, {"mood": "sad"}, None]
    listing = pack_jsonl(manifest([{"labels": label} for label in labels]), tmp_path / "out")
    assert [sample.labels for sample in samples(tmp_path / "out")] == [
        {},
        {},
        {"mood": 1},
        {"mood": 0},
        {"mood": "sad"},
        {},
    ]
    assert listing["shards"][0]["labels"] == {"mood": {"1": 1, "0": 1, '"sad"': 1}}


@pytest.mark.parametrize("labels", [{"mood": 0.5}, {"mood": True}, {"mood": [1]}, {"mood": 10**30}, [1], "glad", 3])
def test_other_labels_are_bad_rows_and_broken_samples(manifest, tmp_path, labels):
    listing = pack_jsonl(manifest([{}, {"labels": labels}]), tmp_path / "out")
    (named,) = listing["shards"][0]["skipped_rows"]
    assert listing["samples"] == 1 and named.startswith("row 2 (1): label")
    with pytest.raises(BrokenSample, match="label"):
        read_labels(labels)


def test_labels_of_a_table_with_gaps(tmp_path):
    (tmp_path / "a.csv").write_text("image,text,mood\na,t,1.0\nb,t,\nc,t,-1\nd,t,1.5\ne,t," + "9" * 5000 + "\n")
    rows = list(read_table(tmp_path / "a.csv", captions={"en": "text"}, labels={"mood": "mood"}))
    assert [row.record["labels"].get("mood") for row in rows] == [1, None, -1, "1.5", "9" * 5000]


def test_a_language_that_is_null_is_missing(manifest, tmp_path):
    captions = [{"en": "a", "lv": None}, {"en": float("nan"), "lv": "b"}, {"en": ["a", None, "c"]}, {"en": None}]
    listing = pack_jsonl(manifest([{"captions": each} for each in captions]), tmp_path / "out")
    assert listing["captions"] == {"en": 3, "lv": 1}
    assert (listing["skipped"], listing["holds"]) == ({}, {"image": 4, "texts": 3})
    assert [sample.captions for sample in samples(tmp_path / "out")][:2] == [{"en": ["a"]}, {"lv": ["b"]}]


@pytest.mark.parametrize("name", ["half \ud83d", "caf\udce9", "\udc00"])
def test_a_row_left_out_may_have_any_name(manifest, tmp_path, name):
    listing = pack_jsonl(manifest([{}, {"id": name, "image": f"{name}.png"}]), tmp_path / "out")
    assert listing["samples"] == 1 and sum(listing["skipped"].values()) == 1


PIXELS = np.zeros((48, 64, 3), np.uint8)
PIXELS[:24, :, 0] = PIXELS[24:, :32, 1] = 255
UPRIGHT = Image.fromarray(PIXELS)


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        ("AVIF", "RGB"),
        ("TIFF", "RGB"),
        ("TIFF", "CMYK"),
        ("TIFF", "YCbCr"),
        ("TIFF", "LAB"),
        ("TIFF", "F"),
    ],
)
@pytest.mark.parametrize("turn", [1, TURNED])
def test_images_that_are_rewritten_stand_upright(manifest, tmp_path, kind, mode, turn):
    if kind == "AVIF" and "AVIF" not in Image.SAVE:
        pytest.skip("this Pillow has no AVIF")
    image, exif = UPRIGHT.transpose(Image.Transpose.ROTATE_90) if turn == TURNED else UPRIGHT, Image.Exif()
    exif[0x0112] = turn
    image = image.convert("L").convert("F") if mode == "F" else image
    if mode == "LAB":
        image = Image.frombytes("LAB", image.size, image.tobytes())
    (tmp_path / "b.any").write_bytes(encoded(image.convert(mode), kind, exif=exif))
    pack_jsonl(manifest([{"image": "b.any"}]), tmp_path / "out")
    (sample,) = samples(tmp_path / "out")
    stored = Image.open(io.BytesIO(sample.image))
    assert stored.size == UPRIGHT.size and 0x0112 not in stored.getexif()
    if mode != "LAB":
        wanted = np.asarray(UPRIGHT.convert("L" if mode == "F" else "RGB").convert("RGB")).astype(int)
        assert np.abs(np.asarray(stored.convert("RGB")).astype(int) - wanted).mean() < 4


def test_no_image_starts_another_program(manifest, tmp_path):
    (tmp_path / "b.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    listing = pack_jsonl(manifest([{}, {"image": "b.jpg"}]), tmp_path / "out")
    assert listing["shards"][0]["skipped_rows"] == ["row 2 (1): broken image b.jpg"]


def test_what_a_folder_holds_besides_is_counted(tmp_path):
    folder = tmp_path / "in"
    for name in ("a.jpg", "b.AVIF", "c.jfif", "d.heic", "e.SVG"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(encoded(Image.new("RGB", (4, 4)), "JPEG"))
    for name in ("a.txt", "a.pt_BR.txt", "a.EN.txt", "a.jpg.lv.txt", "c.jfif.txt", "d.txt", "z.txt", "a.english.txt"):
        (folder / name).write_text(name)
    (tmp_path / "other").mkdir()
    (folder / "linked").symlink_to("../other")
    listing = pack_rows(read_folder(folder), tmp_path / "out", images=folder)
    assert listing["captions"] == {"en": 1, "lv": 1, "pt-BR": 1, "und": 2}
    assert listing["skipped"] == {
        "image of a format that is not read": 2,
        "linked folder": 1,
        "no caption": 1,
        "text without an image": 2,
    }


def test_language_codes_of_file_names(tmp_path):
    (tmp_path / "train_images.txt").write_text("a.png\n")
    for name in ("train.en", "train.pt_BR", "train.LV", "train.zh-Hant"):
        (tmp_path / name).write_text("text\n")
    (row,) = read_multi30k(tmp_path)
    assert sorted(row.record["captions"]) == ["en", "lv", "pt-BR", "zh-Hant"]


def test_an_image_of_equal_size_and_older_date_is_noticed(manifest, tmp_path):
    source, image = manifest([{"image": "b.bmp"}]), tmp_path / "b.bmp"
    for colour in ("red", "blue"):
        Image.new("RGB", (8, 8), colour).save(image)
        os.utime(image, (0, 0))
        pack_jsonl(source, tmp_path / "out")
    (sample,) = samples(tmp_path / "out")
    assert Image.open(io.BytesIO(sample.image)).getpixel((0, 0)) == (0, 0, 255)


@pytest.mark.parametrize("name", ["../secret.npy", "/etc/passwd", "x/../../secret.npy", "../in2/a.png"])
def test_a_row_cannot_lead_out_of_the_folder_of_images(tmp_path, name, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in2").mkdir()
    (tmp_path / "in2" / "a.png").write_bytes(png_bytes())
    np.save(tmp_path / "secret.npy", np.ones(4, np.float32))
    row = {"id": "a", "image": name, "captions": {"en": "a"}}
    (tmp_path / "in" / "m.jsonl").write_text(json.dumps(row))
    assert (
        main(["pack", "jsonl", str(tmp_path / "in" / "m.jsonl"), "--out", str(tmp_path / "out"), "--workers", "1"]) == 1
    )
    (said,) = capsys.readouterr().err.splitlines()
    assert f"row 1 (a): image outside the folder of images {name}" in said
    assert not (tmp_path / "out").exists()


def test_an_absolute_path_inside_the_folder_is_taken(manifest, tmp_path):
    assert pack_jsonl(manifest([{"image": str(tmp_path / "a.png")}]), tmp_path / "out")["samples"] == 1


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([], "m.jsonl: the source holds no row"),
        (
            [{"image": "images/none.png"}],
            "m.jsonl: no sample could be packed (missing image); row 1 (0): missing image images/none.png",
        ),
        ([{"captions": {"en": 3}}], "m.jsonl: no sample could be packed (caption is no string); row 1 (0): caption"),
    ],
)
def test_a_failed_pack_names_file_and_row_and_leaves_nothing(manifest, tmp_path, capsys, rows, says):
    arguments = ["pack", "jsonl", str(manifest(rows)), "--out", str(tmp_path / "out"), "--workers", "1"]
    before = {path.name for path in tmp_path.iterdir()}
    assert main(arguments) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert says in said
    assert {path.name for path in tmp_path.iterdir()} == before


def test_a_source_that_fails_half_way_leaves_what_was_there_before(manifest, tmp_path):
    def rows():
        yield from list(read_jsonl(manifest([{}] * 4)))
        raise ValueError("source: it ends in the middle")

    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match="ends in the middle"):
        pack_rows(rows(), tmp_path / "out", images=tmp_path, samples_per_shard=2)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_failed_pack_leaves_an_earlier_one_alone(manifest, tmp_path):
    pack_jsonl(manifest([{}]), tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    def rows():
        raise ValueError("source: it cannot be read")
        yield

    def one_row():
        yield from read_jsonl(tmp_path / "m.jsonl")
        yield from rows()

    with pytest.raises(ValueError, match="cannot be read"):
        pack_rows(one_row(), tmp_path / "out", images=tmp_path, samples_per_shard=1)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_a_row_without_a_place_for_its_image(tmp_path):
    listing = pack_rows(
        [Row(0, {"id": "a", "captions": {"en": "a"}}, ()), Row(1, *image_of(tmp_path))],
        tmp_path / "out",
        images=tmp_path,
    )
    assert listing["skipped"] == {"missing image": 1}


def test_two_packs_into_one_folder(manifest, tmp_path):
    with writing_into(tmp_path / "out"), pytest.raises(ValueError, match="out: another run writes here"):
        pack_jsonl(manifest([{}]), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


# manifests that are named where shards are


def relation(tmp_path, stage="fit", **options):
    module = RelationDataModule(
        str(tmp_path / "p.csv"),
        manifest=Manifest({"en": "text"}, {"mood": "mood"}),
        images=ImagePipeline(size=8),
        batch_size=4,
        workers=0,
        cache_dir=str(tmp_path / "cache"),
        **options,
    )
    module.setup(stage)
    return module


def test_images_of_a_manifest_that_come_later_or_change(tmp_path):
    (tmp_path / "p.csv").write_text("image,text,mood\n" + "".join(f"{n}.png,t {n},{n % 2}\n" for n in range(8)))
    for n in range(6):
        Image.new("RGB", (8, 8), "red").save(tmp_path / f"{n}.png")
    with pytest.raises(ValueError, match=r"2 of 8 samples are lost.*max_skip_rate = 0.01.*p.csv: missing image 2"):
        relation(tmp_path)
    module = relation(tmp_path, max_skip_rate=0.5)
    assert module.samples("train") == 6
    assert module.account.summary()["causes"] == {"missing image": 2}
    for n in range(8):
        Image.new("RGB", (8, 8), "blue").save(tmp_path / f"{n}.png")
    module = relation(tmp_path)
    assert module.samples("train") == 8
    assert {tuple(image[:, 0, 0].tolist()) for batch in module.train_dataloader() for image in batch.images} == {
        (0, 0, 255)
    }


def test_processes_wait_for_the_one_that_packs(tmp_path):
    (tmp_path / "p.csv").write_text("image,text,mood\n" + "a.png,t,0\nb.png,t,1\n" * 2)
    for n, name in enumerate("ab"):
        (tmp_path / f"{name}.png").write_bytes(png_bytes(n))
    threads = [threading.Thread(target=relation, args=(tmp_path,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (packed,) = (tmp_path / "cache" / "manifests").iterdir()
    assert sorted(path.name for path in packed.iterdir()) == ["shard-000000.tar", "shards.json"]


@pytest.mark.parametrize(("classes", "names"), [(5, None), (2, None), (2, ["sad", "glad", "calm"])])
def test_classes_and_names_of_a_task_agree(manifest, tmp_path, classes, names):
    moods = [{"labels": {"mood": ["sad", "glad", "calm"][n % 3]}} for n in range(6)]
    pack_jsonl(manifest(moods), tmp_path / "out")
    with pytest.raises(ValueError, match=f"data.classes: mood has {classes} classes and 3 names"):
        RelationDataModule(
            str(tmp_path / "out"),
            classes={"mood": classes},
            label_names=names and {"mood": names},
            batch_size=2,
            workers=0,
            images=ImagePipeline(size=8),
        ).setup("fit")
