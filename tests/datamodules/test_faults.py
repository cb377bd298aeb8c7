"""Whatever is broken is counted by shard and cause, and its place is taken by a whole sample."""

import io
import json
import struct
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from tiny_shards import png_bytes, sample_files, write_tar

from datamodules.shards.inspection import inspect_shards
from datamodules.shards.samples import read_record
from datamodules.shards.tars import index_shard

BLOCK = 512


def run(module, epoch, passes=1):
    """Trains passes of the data; every batch must be full."""
    for _ in range(passes):
        assert all(len(ids) == 4 and "" not in ids for ids in epoch(module))
    return module.account.summary()


def huge_png():
    """A valid header of 30,000 x 30,000 pixels and next to nothing behind it."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def good_but(**files):
    made = sample_files(7)
    return {
        suffix: files.get(suffix, content) for suffix, content in made.items() if files.get(suffix, b"") is not None
    }


def with_record(record):
    return good_but(json=json.dumps(record).encode())


BROKEN = {
    "broken image": good_but(png=b"no picture at all"),
    "broken image (cut)": good_but(png=png_bytes(7)[:-40]),
    "image too large": good_but(png=huge_png()),
    "invalid UTF-8": good_but(json=b'{"captions": {"en": "\xff"}}'),
    "broken JSON": good_but(json=b"{"),
    "JSON is no object": with_record(["en", "a"]),
    "captions are no object": with_record({"captions": "a"}),
    "caption is no string": with_record({"captions": {"en": 3}}),
    "caption is no string (list)": with_record({"captions": {"en": ["a", 3]}}),
    "captions are no object (list)": with_record({"captions": ["a"]}),
    "broken JSON (deep)": good_but(json=b"[" * 10**6),
    "broken JSON (a long number)": good_but(json=b'{"id": ' + b"1" * 10**5 + b"}"),
    "labels are no object": with_record({"captions": {"en": "a"}, "labels": 1}),
    "label is out of range": with_record({"captions": {"en": "a"}, "labels": {"stars": 10**30}}),
    "label is neither whole number nor string": with_record({"captions": {"en": "a"}, "labels": {"stars": True}}),
    "broken image (EPS)": good_but(png=b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\nshowpage\n"),
    "no caption": good_but(json=None),
}


@pytest.mark.parametrize("cause", BROKEN)
def test_a_broken_sample_is_replaced_and_counted(plain_shards, data, epoch, cause):
    folder = plain_shards(
        [[sample_files(n) for n in range(20)] + [BROKEN[cause]] + [sample_files(n) for n in (21, 22, 23)]]
    )
    summary = run(data(train=folder, max_skip_rate=1.0, languages=["en"]), epoch, passes=2)
    cause, shard = cause.split(" (")[0], str(folder / "part-00.tar")
    assert summary["shards"] == {shard: {cause: 2}}  # once a pass
    assert summary["causes"] == {cause: 2}
    assert (summary["tried"], summary["skipped"]) == (2 * 24 + 2, 2)
    assert summary["examples"][shard] == {cause: ["0020"]}


@pytest.mark.parametrize("cause", BROKEN)
def test_inspect_finds_what_training_skips(plain_shards, cause):
    folder = plain_shards([[sample_files(0), sample_files(1), sample_files(2), BROKEN[cause]]])
    assert inspect_shards(str(folder)).facts["broken"] == {cause.split(" (")[0]: 1}


def npy(values, **options):
    content = io.BytesIO()
    np.save(content, values, **options)
    return content.getvalue()


def npz():
    content = io.BytesIO()
    np.savez(content, np.zeros(4, np.float32))
    return content.getvalue()


NUMBERS = npy(np.arange(4, dtype=np.float32))
FEATURES = {
    "a zip": npz(),
    "2**45 numbers": NUMBERS.replace(b"(4,), }" + b" " * 14, b"(35184372088832,), }" + b" "),
    "a cut header": NUMBERS[:40],
    "cut": NUMBERS[:-1],
    "empty": b"",
    "objects": npy(np.array([1, None, 2, 3]), allow_pickle=True),
    "whole numbers": npy(np.arange(4)),
    "complex": npy(np.zeros(4, np.complex64)),
    "a block": npy(np.zeros((1, 2, 4), np.float32)),
    "no token": npy(np.zeros((0, 4), np.float32)),
    "no number": npy(np.zeros(0, np.float32)),
    "beyond float32": npy(np.full(4, 1e300)),
    "NaN": npy(np.full(4, np.nan)),
    "brackets": NUMBERS[:10] + b"(" * 118,
}


@pytest.mark.parametrize("kind", FEATURES)
def test_broken_features_are_skipped_and_found(plain_shards, data, epoch, kind):
    good = {"npy": NUMBERS, "json": sample_files(7)["json"]}
    folder = plain_shards([[good | {"npy": FEATURES[kind]}] + [good] * 4])
    assert inspect_shards(str(folder)).facts["broken"] == {"broken features": 1}
    assert run(data(train=folder, max_skip_rate=1.0), epoch)["causes"] == {"broken features": 1}


def test_features_of_every_float_and_of_another_size(plain_shards, data):
    kinds = [np.float16, np.float32, ">f4", np.float64]
    samples = [{"npy": npy(np.arange(4, dtype=kind)), "json": sample_files(0)["json"]} for kind in kinds]
    samples += [{"npy": npy(np.zeros(shape, np.float32)), "json": sample_files(0)["json"]} for shape in (5, (1, 4))]
    samples += [sample_files(1)]
    folder = plain_shards([samples])
    module = data("test", test=folder, batch_size=8)
    (batch,) = module.test_dataloader()
    assert batch.images[:4].tolist() == [[0, 1, 2, 3]] * 4
    causes = {"features of another size": 2, "pictures and features mixed": 1}
    assert Counter(skip.cause for skip in batch.skipped) == causes == inspect_shards(str(folder)).facts["broken"]


def test_half_a_pair_of_surrogates_is_repaired_wherever_it_stands(plain_shards, data, epoch):
    record = rb'{"id": "\ud83d", "image_id": "\uD83D", "captions": {"en": "half \ud800 pair", "\udfff": "x"}}'
    folder = plain_shards([[good_but(json=record)] + [sample_files(n) for n in range(3)]])
    module = data(train=folder, max_skip_rate=0)
    assert sorted(epoch(module)[0]) == ["?", "s000", "s001", "s002"]
    assert module.languages == ["?", "en", "lv"]
    facts = inspect_shards(str(folder)).facts
    assert (facts["broken"], facts["samples by language"]["?"]) == ({}, 1)


def test_what_tables_spell_as_null_or_nan_is_missing(plain_shards, data):
    captions = b'{"en": "a", "lv": null, "de": NaN, "fr": ["b", null]}'
    record = b'{"id": null, "captions": %s, "labels": {"x": NaN, "y": 1.0}}' % captions
    folder = plain_shards([[good_but(json=record)]])
    module = data("test", test=folder)
    (batch,) = module.test_dataloader()
    assert (batch.ids, batch.captions[0][:2], module.languages) == (["0000"], ["a", "b"], ["en", "fr"])
    assert (module.tasks, batch.labels["y"].tolist()) == (["y"], [1])


@pytest.mark.parametrize(
    "blank", ["", " \t", "\u200b\u200b", "\ufeff", "\u200f\u00a0", "\x00", "\u3164", "\u2800", "\ufe0f"]
)
def test_a_caption_that_shows_nothing_is_none(blank):
    files = {"json": json.dumps({"captions": {"en": [blank, "a" + blank], "lv": blank}}).encode()}
    assert list(read_record(files)[1]) == ["en"] and len(read_record(files)[1]["en"]) == 1
    assert read_record({"txt": blank.encode()})[1] == {}


def test_skips_are_the_same_for_any_number_of_readers(plain_shards, data, epoch):
    folder = plain_shards([[BROKEN["broken image"] if n % 5 == 0 else sample_files(n) for n in range(40)]])
    runs = [data(train=folder, workers=workers, max_skip_rate=1.0) for workers in (0, 2)]
    assert [epoch(module) for module in runs][0] == epoch(data(train=folder, max_skip_rate=1.0))
    assert runs[0].account.summary() == runs[1].account.summary()
    assert runs[0].account.summary()["causes"]["broken image"] >= 8


def test_past_the_limit_the_run_stops_with_the_table(plain_shards, data, epoch):
    folder = plain_shards([[BROKEN["broken image"] if n % 25 == 0 else sample_files(n) for n in range(200)]])
    module = data(train=folder)
    with pytest.raises(ValueError, match=r"max_skip_rate = 0.01.*part-00.tar: broken image \d") as error:
        epoch(module)
    assert "\n" not in str(error.value)
    assert module.account.tried >= 100


def test_a_small_epoch_is_judged_at_its_end(plain_shards, data, epoch):
    folder = plain_shards([[sample_files(n) for n in range(19)] + [BROKEN["broken image"]]])
    module = data(train=folder)
    assert len(epoch(module, batches=4)) == 4
    with pytest.raises(ValueError, match="max_skip_rate"):
        epoch(module)


def test_nothing_but_broken_samples_is_one_line(plain_shards, data, epoch):
    folder = plain_shards([[BROKEN["broken image"]] * 8])
    with pytest.raises(ValueError, match="16 samples drawn for one place were all broken"):
        epoch(data(train=folder, max_skip_rate=1.0, languages=["en"]))


def test_broken_samples_of_validation_are_masked_and_counted_once(plain_shards, data):
    folder = plain_shards([[sample_files(0), BROKEN["broken image"], sample_files(2), BROKEN["broken JSON"]]])
    module = data("validate", val=folder)
    for _ in range(3):
        for batch in module.val_dataloader():
            module.evaluated(batch)
            assert batch.rows.tolist() == [0, -1, 2, -1]
    assert module.account.summary()["causes"] == {"broken image": 1, "broken JSON": 1}


# -- shards

SAMPLES = {f"{n:04d}": sample_files(n) for n in range(10)}


def whole(path):
    return write_tar(path, SAMPLES)


def header_of(path, member):
    """Offset of a member's header."""
    import tarfile

    with tarfile.open(path) as tar:
        return tar.getmember(member).offset


def test_a_truncated_tar_keeps_what_is_whole(tmp_path, data, epoch):
    tar = whole(tmp_path / "a.tar")
    content = tar.read_bytes()
    tar.write_bytes(content[: header_of(tar, "0006.json") + BLOCK + 10])
    index = index_shard(tar)
    assert (len(index), index.truncated, index.faults) == (7, True, ["truncated shard"])
    summary = run(data(train=tar, max_skip_rate=1.0, batch_size=4), epoch, passes=1)
    # the cut sample each time it comes, and 1 for what lay behind it, which nobody can count
    drawn = summary["tried"] - 4
    assert summary["causes"] == {"truncated shard": 1 + drawn}


@pytest.mark.parametrize("keep", [0, 5], ids=["after the header", "in the payload"])
def test_a_tar_cut_inside_the_first_file_of_a_sample(tmp_path, keep):
    tar = whole(tmp_path / "a.tar")
    tar.write_bytes(tar.read_bytes()[: header_of(tar, "0003.png") + BLOCK + keep])
    assert (len(index_shard(tar)), index_shard(tar).truncated) == (4, True)


def test_the_listing_tells_how_many_a_truncation_lost(listed_shards, data):
    folder = listed_shards(40, 10)
    tar = folder / "shard-000001.tar"
    tar.write_bytes(tar.read_bytes()[: header_of(tar, "000000014.png")])
    module = data(train=folder, max_skip_rate=1.0)
    assert module.account.summary()["shards"] == {str(tar): {"truncated shard": 5}}
    assert module.epoch_length == 35
    with pytest.raises(ValueError, match="5 of 40 samples are lost, more than max_skip_rate = 0.01"):
        data(train=folder)


def test_zero_bytes_in_the_middle_do_not_end_the_shard(tmp_path, data, epoch):
    tar = whole(tmp_path / "a.tar")
    start, end = header_of(tar, "0003.png"), header_of(tar, "0005.png")
    content = bytearray(tar.read_bytes())
    content[start:end] = bytes(end - start)
    tar.write_bytes(content)
    index = index_shard(tar)
    assert index.keys == [key for key in SAMPLES if key not in ("0003", "0004")]
    assert index.faults == ["damaged bytes in the shard"]
    assert run(data(train=tar, max_skip_rate=1.0), epoch)["causes"] == {"damaged bytes in the shard": 1}


def test_a_wiped_header_loses_one_file_not_the_rest(tmp_path):
    tar = whole(tmp_path / "a.tar")
    start = header_of(tar, "0003.json")
    content = bytearray(tar.read_bytes())
    content[start : start + BLOCK] = b"\xaa" * BLOCK
    tar.write_bytes(content)
    index = index_shard(tar)
    assert index.keys == list(SAMPLES)
    assert [len(index.members(n)) for n in range(len(index))] == [1 if key == "0003" else 2 for key in SAMPLES]


@pytest.mark.parametrize("content", [b"", b"this is no tar" * 1000, bytes(300)], ids=["0 bytes", "text", "a stump"])
def test_a_file_that_is_no_tar_is_one_fault_beside_good_ones(plain_shards, data, epoch, content):
    folder = plain_shards([[sample_files(n) for n in range(8)]])
    (folder / "bad.tar").write_bytes(content)
    module = data(train=folder, max_skip_rate=0.2)
    assert run(module, epoch)["shards"] == {str(folder / "bad.tar"): {"unreadable shard": 1}}
    with pytest.raises(ValueError, match=r"data.train: no sample in .*bad.tar \(unreadable shard\)"):
        data(train=folder / "bad.tar", max_skip_rate=1.0)


def test_an_empty_shard_does_no_harm(plain_shards, data, epoch):
    folder = plain_shards([[sample_files(n) for n in range(8)], []])
    module = data(train=folder)
    assert len(epoch(module)) == 2
    assert module.account.summary()["skipped"] == 0
    with pytest.raises(ValueError, match="no sample in"):
        data(train=folder / "part-01.tar")


def test_more_readers_than_shards(plain_shards, data, epoch):
    folder = plain_shards([[sample_files(n) for n in range(9)]])
    assert sorted(sum(epoch(data(train=folder, workers=3)), [])) == sorted(sum(epoch(data(train=folder)), []))


def test_a_shard_that_the_listing_names_and_nobody_finds(listed_shards, data):
    folder = listed_shards(40, 10)
    (folder / "shard-000002.tar").unlink()
    module = data(train=folder, max_skip_rate=0.5)
    assert module.account.summary()["shards"] == {str(folder / "shard-000002.tar"): {"missing shard": 10}}
    assert module.epoch_length == 30


def test_a_shard_that_disappears_while_training(listed_shards, data, epoch):
    folder = listed_shards(20, 10)
    module = data(train=folder, max_skip_rate=1.0)
    (folder / "shard-000001.tar").unlink()
    summary = run(module, epoch)
    assert set(summary["shards"]) == {str(folder / "shard-000001.tar")}
    assert summary["causes"]["missing shard"] == summary["tried"] - 20 >= 10


def test_a_shard_replaced_by_a_smaller_one_while_training(listed_shards, data, epoch):
    folder = listed_shards(20, 10)
    module = data(train=folder, max_skip_rate=1.0)
    write_tar(folder / "shard-000001.tar", dict(list(SAMPLES.items())[:4]))
    summary = run(module, epoch)
    assert set(summary["shards"]) == {str(folder / "shard-000001.tar")}
    # the four that are left lie elsewhere now and can be read; of the others each draw is one skip
    assert summary["causes"]["missing from the shard"] == summary["tried"] - 20 >= 6


def test_two_files_of_one_name(tmp_path):
    tar = write_tar(tmp_path / "a.tar", {"0": sample_files(0), "1": sample_files(1)})
    import io
    import tarfile

    with tarfile.open(tar, "a") as more:
        member = tarfile.TarInfo("1.json")
        member.size = 2
        more.addfile(member, io.BytesIO(b"{}"))
    index = index_shard(tar)
    assert (index.keys, index.faults) == (["0", "1"], ["two files of one name"])


def test_skipped_json_is_written_whole(plain_shards, data, epoch, tmp_path):
    folder = plain_shards([[sample_files(n) for n in range(11)] + [BROKEN["broken JSON"]]])
    module = data(train=folder, max_skip_rate=1.0)
    run(module, epoch)
    path = tmp_path / "run" / "skipped.json"
    module.account.merged().write(path)
    assert json.loads(path.read_text()) == module.account.summary()
    assert [file.name for file in Path(path.parent).iterdir()] == ["skipped.json"]


def test_a_resumed_run_keeps_the_account(plain_shards, data, epoch):
    folder = plain_shards([[sample_files(n) for n in range(11)] + [BROKEN["broken JSON"]]])
    module, resumed = data(train=folder, max_skip_rate=1.0), data(train=folder, max_skip_rate=1.0)
    run(module, epoch, passes=2)
    resumed.load_state_dict(module.state_dict())
    assert resumed.account.summary()["causes"] == module.account.summary()["causes"]
    run(resumed, epoch)
    run(module, epoch)
    assert resumed.account.summary()["causes"] == module.account.summary()["causes"]
    assert resumed.account.rate == module.account.rate
