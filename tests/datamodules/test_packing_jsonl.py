"""`pack jsonl`: the same bytes every time, restartable, and every row that is no sample is named."""

import json
import multiprocessing
import os
import resource
import signal
import tarfile
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_shards import pack_jsonl, png_bytes

from datamodules.shards.inspection import inspect_shards

DATA = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture
def manifest(tmp_path):
    """manifest(rows): a JSON Lines file; a row may be a dict or a raw line. Pictures 0.png to 29.png lie beside it."""
    (tmp_path / "images").mkdir()
    for number in range(30):
        (tmp_path / "images" / f"{number}.png").write_bytes(png_bytes(number))

    def write(rows):
        lines = [row if isinstance(row, bytes) else json.dumps(row, ensure_ascii=False).encode() for row in rows]
        (tmp_path / "manifest.jsonl").write_bytes(b"\n".join(lines) + b"\n")
        return tmp_path / "manifest.jsonl"

    return write


def row(number, **more):
    split = "val" if number % 3 == 0 else "train"
    captions = {"en": f"picture {number}", "lv": [f"attēls {number}", f"bilde {number}"]}
    return {"id": f"a.b/{number}", "split": split, "image": f"images/{number}.png", "captions": captions, **more}


def forked(work):
    """A process at work, without importing everything again."""
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    return process


def folder_bytes(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def records(folder):
    found = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                key, suffix = member.name.split(".")
                found.setdefault(key, {})[suffix] = tar.extractfile(member).read()
    return found


def test_rows_become_samples_and_unknown_keys_travel(manifest, tmp_path):
    listing = pack_jsonl(manifest([row(n, story="x", page=n) for n in range(5)]), tmp_path / "out")
    found = records(tmp_path / "out")
    assert list(found) == [f"{n:09d}-a_b_{n}" for n in range(5)]
    first = found["000000000-a_b_0"]
    assert first["png"] == png_bytes(0)
    captions = {"en": "picture 0", "lv": ["attēls 0", "bilde 0"]}
    assert json.loads(first["json"]) == {"id": "a.b/0", "split": "val", "captions": captions, "story": "x", "page": 0}
    assert (listing["samples"], listing["images"], listing["captions"]) == (5, 5, {"en": 5, "lv": 10})
    assert listing["bytes"] == (tmp_path / "out" / "shard-000000.tar").stat().st_size
    assert json.loads((tmp_path / "out" / "shards.json").read_text()) == listing


def test_the_bytes_do_not_depend_on_time_or_processes(manifest, tmp_path):
    source = manifest([row(n) for n in range(30)])
    pack_jsonl(source, tmp_path / "one", samples_per_shard=4)
    time.sleep(1.1)  # a tar that kept the time would differ
    pack_jsonl(source, tmp_path / "two", samples_per_shard=4, workers=2)
    assert len(folder_bytes(tmp_path / "one")) == 8 + 1
    assert folder_bytes(tmp_path / "one") == folder_bytes(tmp_path / "two")


def test_a_split_packs_only_its_rows(manifest, tmp_path):
    source = manifest([row(n) for n in range(9)])
    assert pack_jsonl(source, tmp_path / "val", split="val")["samples"] == 3
    assert pack_jsonl(source, tmp_path / "train", split="train")["samples"] == 6
    assert pack_jsonl(source, tmp_path / "all")["samples"] == 9
    with pytest.raises(ValueError, match="no row with split 'dev'; its splits are train, val"):
        pack_jsonl(source, tmp_path / "dev", split="dev")


def test_finished_shards_are_not_written_again_and_changed_ones_are(manifest, tmp_path):
    source, out = manifest([row(n) for n in range(12)]), tmp_path / "out"
    pack_jsonl(source, out, samples_per_shard=4)
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    (out / "shard-000001.tar").write_bytes(b"rot")
    (tmp_path / "images" / "9.png").write_bytes(png_bytes(99, size=(9, 9)))
    pack_jsonl(source, out, samples_per_shard=4)
    changed = [name for name, at in before.items() if (out / name).stat().st_mtime_ns != at]
    assert changed == ["shard-000001.tar", "shard-000002.tar"]
    pack_jsonl(source, tmp_path / "fresh", samples_per_shard=4)
    assert folder_bytes(out) == folder_bytes(tmp_path / "fresh")


def running(processes):
    """Those that are not dead (a dead one that nobody waited for still has a number)."""
    stats = [Path("/proc", str(process), "stat") for process in processes]
    return [path for path in stats if path.exists() and path.read_text().rpartition(")")[2].split()[0] != "Z"]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_pack_goes_on_and_ends_with_the_same_bytes(manifest, tmp_path, workers):
    source, out = manifest([row(n % 30, id=str(n)) for n in range(1000)]), tmp_path / "out"
    process = forked(lambda: pack_jsonl(source, out, samples_per_shard=50, workers=workers))
    while not (out / "shard-000001.tar").exists():
        assert process.is_alive()
        time.sleep(0.002)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.kill()
    process.join()
    while running(children):  # nobody writes on behind the back of the next run
        time.sleep(0.002)
    assert len(children) == (workers if workers > 1 else 0)
    assert not (out / "shard-000019.tar").exists()
    kept = (out / "shard-000000.tar").stat().st_mtime_ns
    listed = [json.loads(line)["name"] for line in (out / ".shards.jsonl").read_text().splitlines()]
    pack_jsonl(source, out, samples_per_shard=50, workers=workers)
    assert "shard-000000.tar" not in listed or (out / "shard-000000.tar").stat().st_mtime_ns == kept
    pack_jsonl(source, tmp_path / "fresh", samples_per_shard=50)
    assert folder_bytes(out) == folder_bytes(tmp_path / "fresh")


BAD = {
    "no JSON object": [b"{", b"[1]"],
    "invalid UTF-8": [b'{"id": "\xff"}'],
    "image is no path": [row(1, image=3)],
    "missing image": [
        row(1, image="images/none.png"),
        row(1, image="images"),
        row(1, pictures={"photo": ["images/1.png", "images/none.png"]}),
    ],
    "image outside the folder of images": [row(1, features={"audio": "../audio.npy"})],
    "broken image": [row(1, image="manifest.jsonl"), row(1, pictures={"photo": "manifest.jsonl"})],
    "id is no string": [row(1, id=7), row(1, id="")],
    "no picture and no text": [{"id": "x"}, {"id": "x", "captions": {"en": " "}}],
    "pictures are no paths": [row(1, pictures={"photo": 3}), row(1, pictures={"photo": []})],
    "features are no paths": [row(1, features={"audio": ["a.npy"]})],
    "pictures are no paths by names of a to z and _": [row(1, pictures={"Photo": "x"}), row(1, pictures="x")],
    "features are no paths by names of a to z and _": [row(1, features={"query": "x"}), row(1, features={"a1": "x"})],
    "broken features": [row(1, features={"audio": "manifest.jsonl"})],
    "negatives holds what is no text": [row(1, query="a", negatives=[3])],
    "scores are not as many as positive and negatives": [row(1, query="a", positive="b", scores=[1, 2])],
    "caption is no string": [row(1, captions={"en": 3}), row(1, captions={"en": ["a", {}]})],
    "captions are no object": [row(1, captions="a")],
}


@pytest.mark.parametrize("cause", BAD)
def test_rows_that_are_no_samples_are_counted_and_named(manifest, tmp_path, cause):
    rows = [row(0), *BAD[cause], row(2)]
    listing = pack_jsonl(manifest(rows), tmp_path / "out")
    assert (listing["samples"], listing["skipped"]) == (2, {cause: len(BAD[cause])})
    assert all(cause in named and named.startswith("row ") for named in listing["shards"][0]["skipped_rows"])
    with pytest.raises(ValueError, match=f"no sample could be packed.*{cause}"):
        pack_jsonl(manifest(BAD[cause]), tmp_path / "none")


def test_rows_of_any_shape(manifest, tmp_path):
    rows = [
        {"id": "text", "captions": {"en": "a"}},
        {"id": "page", "image": "images/1.png"},
        row(2, pictures={"photo": ["images/3.png", "images/4.png"]}, features={"audio": "audio.bin"}),
        {"id": "pair", "query": "a", "positive": {"lv": "b"}, "score": 0.5},
    ]
    with (tmp_path / "audio.bin").open("wb") as file:
        np.save(file, np.ones((2, 3), np.float16))
    listing = pack_jsonl(manifest(rows), tmp_path / "out", image_size=4)
    holds = {"image": 2, "texts": 2, "audio": 1, "photo": 1, "query": 1, "positive": 1, "score": 1}
    assert (listing["samples"], listing["skipped"], listing["holds"]) == (4, {}, dict(sorted(holds.items())))
    with tarfile.open(tmp_path / "out" / "shard-000000.tar") as tar:
        names = [name.partition("-")[2] for name in tar.getnames()]
    assert names == ["text.json", "page.jpg", "page.json", *(f"a_b_2.{end}" for end in FILES), "pair.json"]
    facts = inspect_shards(str(tmp_path / "out")).facts
    assert (facts["broken"], facts["without a picture"], facts["without a caption"]) == ({}, 2, 2)


FILES = ("audio.npy", "jpg", "json", "photo.jpg", "photo1.jpg")


def test_a_changed_further_file_makes_its_shard_anew(manifest, tmp_path):
    source = manifest([row(n, pictures={"photo": f"images/{n + 1}.png"}) for n in range(4)])
    pack_jsonl(source, tmp_path / "out", samples_per_shard=1, image_size=4)
    kept = (tmp_path / "out" / "shard-000000.tar").stat().st_mtime_ns
    (tmp_path / "images" / "4.png").write_bytes(png_bytes(99, size=(9, 9)))
    pack_jsonl(source, tmp_path / "out", samples_per_shard=1, image_size=4)
    assert (tmp_path / "out" / "shard-000000.tar").stat().st_mtime_ns == kept
    pack_jsonl(source, tmp_path / "fresh", samples_per_shard=1, image_size=4)
    assert folder_bytes(tmp_path / "out") == folder_bytes(tmp_path / "fresh")


def test_other_picture_formats_are_stored_as_png(manifest, tmp_path):
    source = manifest([row(1, image="images/1.gif"), row(2, image="images/2.jpg")])
    Image.new("P", (5, 4)).save(tmp_path / "images" / "1.gif")
    Image.new("RGB", (5, 4)).save(tmp_path / "images" / "2.jpg")
    pack_jsonl(source, tmp_path / "out")
    assert [sorted(files) for files in records(tmp_path / "out").values()] == [["json", "png"], ["jpg", "json"]]


def test_a_folder_of_somebody_elses_shards_is_left_alone(manifest, tmp_path, plain_shards):
    source, folder = manifest([row(1)]), plain_shards([[{"png": b"", "json": b""}]])
    before = folder_bytes(folder)
    with pytest.raises(ValueError, match="holds shards of something else .part-00.tar.; an empty folder"):
        pack_jsonl(source, folder)
    assert folder_bytes(folder) == before


def test_a_smaller_pack_into_the_same_folder_is_refused(manifest, tmp_path):
    pack_jsonl(manifest([row(n) for n in range(6)]), tmp_path / "out", samples_per_shard=2)
    with pytest.raises(ValueError, match="earlier, larger pack"):
        pack_jsonl(manifest([row(n) for n in range(2)]), tmp_path / "out", samples_per_shard=2)


def test_places_that_cannot_be_read_or_written(manifest, tmp_path):
    source = manifest([row(1)])
    with pytest.raises(ValueError, match="none.jsonl cannot be read .No such file"):
        pack_jsonl(tmp_path / "none.jsonl", tmp_path / "out")
    with pytest.raises(ValueError, match="manifest.jsonl/out cannot be written .Not a directory."):
        pack_jsonl(source, source / "out")
    with pytest.raises(ValueError, match="/proc/none/out cannot be written .No such file or directory."):
        pack_jsonl(source, "/proc/none/out")  # where not even root can make a folder
    with pytest.raises(ValueError, match="samples_per_shard"):
        pack_jsonl(source, tmp_path / "out", samples_per_shard=0)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_disk_that_fills_up_is_one_line_and_leaves_no_half_shard(manifest, tmp_path, workers):
    """A limit on file size stands for the full disk: the write fails with an OSError in the middle of a shard."""
    source, out = manifest([row(n) for n in range(30)]), tmp_path / "out"
    said = tmp_path / "said"

    def pack():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        with pytest.raises(ValueError) as error:
            pack_jsonl(source, out, workers=workers)
        said.write_text(str(error.value))

    forked(pack).join()
    assert said.read_text() == f"out: {out} cannot be written (File too large); a folder with room"
    assert not out.exists()


def test_memory_does_not_grow_with_the_manifest(manifest, tmp_path):
    source = manifest([row(n % 30, id=str(n), text="x" * 50_000) for n in range(200)])  # 10 MB
    tracemalloc.start()
    pack_jsonl(source, tmp_path / "out", samples_per_shard=10)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5_000_000


@pytest.mark.skipif(not DATA.exists(), reason="../shared/data is not here")
@pytest.mark.parametrize(
    ("manifest_name", "split", "languages"),
    [("storybooks/storybooks.jsonl", "val", 100), ("emoji/twemoji.jsonl", "val", 112)],
)
def test_real_manifests(tmp_path, data, manifest_name, split, languages):
    listing = pack_jsonl(DATA / manifest_name, tmp_path / "out", split=split, workers=2)
    rows = [json.loads(line) for line in open(DATA / manifest_name, encoding="utf-8")]
    expected = [one for one in rows if one["split"] == split]
    assert (listing["samples"], listing["skipped"]) == (len(expected), {})
    assert languages <= len(listing["captions"]) == len({code for one in expected for code in one["captions"]})
    module = data("validate", val=tmp_path / "out", batch_size=64)
    batches = list(module.val_dataloader())
    assert [name for batch in batches for name in batch.ids] == [one["id"] for one in expected]
    assert sum(int(batch.present.sum()) for batch in batches) == sum(len(one["captions"]) for one in expected)
    os.remove(tmp_path / "out" / "shards.json")
    assert data("validate", val=tmp_path / "out", batch_size=64).languages == module.languages
