"""Each protocol on a miniature of its data set in the true file format, from the files to metrics.json."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.packing import Row
from mmtrain.cli import main
from mmtrain.embedding.one_pass import embed
from mmtrain.embedding.splits import open_split
from mmtrain.evaluation.measuring.retrieval import measure_split
from mmtrain.evaluation.protocols import PROTOCOLS, Split, named_protocol
from mmtrain.evaluation.protocols.xm3600 import LANGUAGES
from mmtrain.models.loading import load
from tests.datamodules.test_packing_sources import COLUMNS, wit_row, write_wit
from tests.mmtrain.small import fit

NAMES = [f"{number:016x}" for number in range(8)]


def picture(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 24, 3)).astype("uint8")
    Image.fromarray(pixels).save(path)


def written(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def xm3600(folder):
    lines = []
    for number, name in enumerate(NAMES):
        texts = {
            language: {"caption": [f"{language} {number}", f"{language} again {number}"][: 1 + number % 2]}
            for language in ("en", "lv" if number == 7 else "sw", "quz")
        }
        lines.append(json.dumps({"image/key": name, "image/locale": "sw", **texts}))
        picture(folder / f"{name}.jpg", number)
    written(folder / "captions.jsonl", "\n".join(lines) + "\n")


def xtd10(folder):
    names = [f"COCO_{'val' if number > 5 else 'train'}2014_{number:012d}.jpg" for number in range(8)]
    written(folder / "test_image_names.txt", "\n".join(names) + "\n")
    for code in ("en", "jp", "zh"):
        written(folder / f"XTD10/test_1kcaptions_{code}.txt", "\n".join(f"{code} {n}" for n in range(8)))
    for number, name in enumerate(names):
        picture(folder / ("val2014" if number > 5 else "train2014") / name, number)


def multi30k(folder):
    for split, languages in {"test_2016_flickr": ("en", "de", "fr", "cs"), "test_2017_flickr": ("en", "de")}.items():
        written(folder / f"image_splits/{split}.txt", "".join(f"{split}_{number}.jpg\n" for number in range(8)))
        for language in languages:
            written(folder / f"raw/{split}.{language}", "".join(f"{language} {number}\n" for number in range(8)))
        for number in range(8):
            picture(folder / f"{split}_{number}.jpg", len(split) * number)


def mscoco(folder):
    images = [
        {
            "filepath": "val2014",
            "filename": f"COCO_val2014_{number:012d}.jpg",
            "split": "test" if number < 8 else "restval",
            "cocoid": number,
            "sentences": [{"raw": f"caption {k} of {number}"} for k in range(5)],
        }
        for number in range(10)
    ]
    written(folder / "dataset_coco.json", json.dumps({"images": images, "dataset": "coco"}))
    for number, image in enumerate(images):
        picture(folder / image["filepath"] / image["filename"], number)


def xflickrco(folder):
    flickr = [{"id": str(number), "img_path": f"{number}.jpg"} for number in range(4)]
    coco = [{"id": number, "img_path": f"COCO_val2014_{number:012d}.jpg"} for number in range(4)]  # the same numbers
    for language in ("en", "de", "zh"):
        lines = [json.dumps({"sentences": [f"{language} {each['img_path']}"], **each}) for each in flickr + coco]
        written(folder / f"annotations/{language}/test.jsonl", "\n".join(lines[: 6 if language == "zh" else 8]))
    for number, each in enumerate(flickr + coco):
        picture(folder / ("" if number < 4 else "val2014") / each["img_path"], number)


def wit(folder):
    for language, numbers in {"en": range(0, 5), "ar": range(3, 8)}.items():
        lines = [
            {
                "image_idx": number,
                "image_url": f"https://upload.wikimedia.org/wikipedia/commons/b/b6/Ca%C3%B1on_{number}.png",
                "meta_url": f"http://commons.wikimedia.org/wiki/File:Ca%C3%B1on_{number}.png",
                "caption_reference_description": f"{language} {number}",
                "language": language,
                "page_url": f"https://{language}.wikipedia.org/wiki/Ca%C3%B1on",
                "wit_ix": f"wit-test_{number}",
            }
            for number in [*numbers, numbers[0]]  # the first picture stands on a second page
        ]
        written(folder / f"annotations/test_{language}.jsonl", "\n".join(map(json.dumps, lines)))
    for number in range(8):
        picture(folder / f"Cañon_{number}.png", number)


def wit_test(folder):
    address = "https://upload.wikimedia.org/wikipedia/commons/b/b6/{}.png"
    rows = [
        wit_row(language, reference=f"{language} {number}", alt="no reference") for language in ("en", "ar")
        for number in range(8)
    ]  # fmt: skip
    for n, row in enumerate(rows):
        row[COLUMNS.index("image_url")] = address.format(n % 8)
    folder.mkdir()
    write_wit(folder / "wit_v1.test.all-00000-of-00005.tsv.gz", rows)
    write_wit(folder / "wit_v1.val.all-00000-of-00005.tsv.gz", rows)
    for number in range(8):
        picture(folder / f"{number}.png", number)


MINIATURES = {
    "xm3600": (xm3600, {"en": 12, "sw": 10, "quz": 12}, False),
    "xm3600/first": (xm3600, {"en": 8, "sw": 7, "quz": 8}, False),
    "xtd10": (xtd10, {"en": 8, "ja": 8, "zh": 8}, False),
    "xtd10/val2014": (xtd10, {"en": 2, "ja": 2, "zh": 2}, True),
    "multi30k": (multi30k, {"en": 8, "de": 8, "fr": 8, "cs": 8}, False),
    "multi30k/2017": (multi30k, {"en": 8, "de": 8}, False),
    "mscoco": (mscoco, {"en": 40}, True),
    "mscoco/5k": (mscoco, {"en": 40}, False),
    "xflickrco": (xflickrco, {"en": 8, "de": 8, "zh": 6}, True),
    "wit": (wit, {"en": 6, "ar": 6}, True),
    "wit/test": (wit_test, {"en": 8, "ar": 8}, False),
}


@pytest.fixture(scope="module")
def run(shards, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    assert fit(shards, folder, "--trainer.max_steps=1") == 0
    return folder


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", MINIATURES)
def test_from_the_files_to_figures(name, run, tmp_path, cache):
    write, queries, pooled = MINIATURES[name]
    write(tmp_path / "files")
    protocol = named_protocol(name)
    encoder = load(run)
    shards = open_split(encoder, protocol.shards(str(tmp_path / "files")), list(queries), 8, 0)
    ranks, metrics = measure_split(encoder, shards, embed(encoder, shards), protocol)
    assert {language: each["queries"] for language, each in metrics["text_to_image"].items() if language != "mean"} == (
        queries
    )
    assert metrics["protocol"]["captions"] == ("first" if name == "xm3600/first" else "all")
    assert ("count" in metrics["protocol"]["pools"]) == pooled
    assert not metrics["protocol"]["complete"]  # eight pictures are no test set
    assert ranks.images == 8
    assert ranks.recall_at == ((1, 3, 5) if name == "wit/test" else (1, 5, 10))


@pytest.mark.parametrize("name", ["xm3600/first", "wit"])
def test_the_command_packs_the_files_once_and_says_what_it_measured(name, run, tmp_path, cache, capsys):
    write, queries, _ = MINIATURES[name]
    write(tmp_path / "files")
    arguments = ["evaluate", str(run), "--data", str(tmp_path / "files"), "--out", str(tmp_path / "out")]
    languages = ["--languages", f"[{','.join(queries)}]", "--workers", "0", "--device", "cpu"]
    assert main([*arguments, "--protocol", name, *languages]) == 0
    protocol = json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))["protocol"]
    assert f"{protocol['name']}/{protocol['variant']}" == str(named_protocol(name))
    assert protocol["languages_absent"] and not protocol["complete"]
    assert (tmp_path / "out" / "report.html").is_file()
    shown = " ".join(capsys.readouterr().out.split())
    assert "of the test set: 8 here, without" in shown and "comparable (seen):" in shown
    packed = list((tmp_path / "cache" / "mmtrain" / "shards" / "protocols").iterdir())
    assert named_protocol(name).shards(str(tmp_path / "files")) == str(packed[0]) and len(packed) == 1
    assert named_protocol(name).shards(str(packed[0])) == str(packed[0])  # shards are taken as they are


def test_each_language_of_wit_is_ranked_among_its_own_pictures():
    image_of_text, language = np.array([0, 1, 1, 2]), np.array(["en", "en", "ar", "ar"])
    pools = named_protocol("wit").pools(Split(["a", "b", "c"], image_of_text, language))
    assert {pool.name: pool.images.tolist() for pool in pools} == {"ar": [1, 2], "en": [0, 1]}


def test_a_picture_of_wit_has_all_its_captions(tmp_path):
    wit(tmp_path)
    rows = list(named_protocol("wit").read(tmp_path))
    assert len(rows) == 8
    of_third = next(row for row in rows if row.record["id"] == "Cañon_3.png")
    assert of_third.record["captions"] == {"ar": ["ar 3", "ar 3"], "en": ["en 3"]}
    assert of_third.images == (
        "upload.wikimedia.org/wikipedia/commons/b/b6/Ca%C3%B1on_3.png",
        "upload.wikimedia.org/wikipedia/commons/b/b6/Cañon_3.png",
        "Ca%C3%B1on_3.png",
        "Cañon_3.png",
    )


def test_flickr_and_coco_pictures_of_one_number_stay_apart(tmp_path):
    xflickrco(tmp_path)
    written(tmp_path / "annotations/tr/test.jsonl", '{"id": 1}\n')
    rows = list(named_protocol("xflickrco").read(tmp_path))
    good = [row for row in rows if isinstance(row, Row)]
    assert len(good) == 8
    assert good[1].record == {"id": "1", "captions": {"de": ["de 1.jpg"], "en": ["en 1.jpg"], "zh": ["zh 1.jpg"]}}
    assert [str(row) for row in rows if row not in good] == ["tr/test.jsonl line 1: no img_path and sentences"]


def test_a_fold_of_coco_is_a_thousand_pictures_in_their_order():
    random = np.random.default_rng(0)
    image = random.standard_normal((5000, 4)).astype(np.float32)
    text = image + random.standard_normal((5000, 4)).astype(np.float32)
    columns = (image, text, np.arange(5000), np.array(["en"] * 5000))
    ids = [str(number) for number in range(5000)]
    _, folds = named_protocol("mscoco/1k").measure(*columns, ids, bootstrap=10)
    _, whole = named_protocol("mscoco/5k").measure(*columns, ids, bootstrap=10)
    assert folds["protocol"]["complete"] and whole["protocol"]["complete"]
    assert folds["protocol"]["pools"]["count"] == 5 and folds["protocol"]["figures"] == "mean over pools"
    assert folds["text_to_image"]["en"]["R@1"] > whole["text_to_image"]["en"]["R@1"] > 0
    scores = image[:1000] @ text[:1000].T / np.linalg.norm(image[:1000], axis=1)[:, None]
    first = np.mean(scores.argmax(0) == np.arange(1000))
    assert folds["text_to_image"]["en"]["R@1"] == pytest.approx(100 * first, abs=3)  # four other folds like it


def test_every_protocol_says_what_it_is():
    assert len(LANGUAGES) == len(set(LANGUAGES)) == 36
    for name, protocol in PROTOCOLS.items():
        assert named_protocol(name) is protocol and name == f"{protocol.name}/{protocol.variant}"
        assert all(each.provenance in ("seen", "reported", "recalled") for each in protocol.comparable)
    assert named_protocol("xm3600").captions == "all" and named_protocol("mscoco").variant == "1k"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--protocol", "xm36"], "--protocol: 'xm36' is unknown; one of xm3600/all, xm3600/first"),
        (["--protocol", "xm3600", "--captions", "first"], "xm3600/all counts all captions, not first"),
        (["--images", "pictures"], "it needs --protocol"),
        (["--protocol", "multi30k", "--languages", "[lv]"], "multi30k/2016 has en, de, fr, cs, the data lv"),
        (["--protocol", "xflickrco", "--text_to_text", "en->de"], "xflickrco/test ranks within pools"),
        (["--protocol", "xtd10/val2014", "--data", "NONE"], "NONE does not exist"),
        (["--protocol", "xm3600", "--rerank", "5"], "--rerank: 5 sorts the answers of the whole collection"),
        (["--protocol", "xm3600", "--data", "EMPTY"], "captions.jsonl"),
        (["--protocol", "wit", "--data", "EMPTY"], "holds no test_<language>.jsonl"),
        (["--protocol", "xflickrco", "--data", "EMPTY"], "holds no <language>/test.jsonl"),
    ],
)
def test_bad_input_is_one_line(arguments, says, run, shards, tmp_path, capfd):
    (tmp_path / "EMPTY").mkdir()
    arguments = [str(tmp_path / each) if each in ("EMPTY", "NONE") else each for each in arguments]
    data = [] if "--data" in arguments else ["--data", str(shards)]
    assert main(["evaluate", str(run), *data, "--out", str(tmp_path / "out"), "--workers", "0", *arguments]) == 1
    error = [line for line in capfd.readouterr().err.splitlines() if "error:" in line]
    assert len(error) == 1 and says in error[0], error


def test_a_picture_that_comes_later_is_packed(tmp_path, cache):
    xm3600(tmp_path)
    late = tmp_path / f"{NAMES[3]}.jpg"
    content = late.read_bytes()
    late.unlink()
    first = named_protocol("xm3600").shards(str(tmp_path / "captions.jsonl"))
    late.write_bytes(content)
    second = named_protocol("xm3600").shards(str(tmp_path / "captions.jsonl"))
    assert [json.loads((Path(shards) / "shards.json").read_text())["samples"] for shards in (first, second)] == [7, 8]
