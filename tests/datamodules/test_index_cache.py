"""Shards without shards.json are read through once; the next run looks up what was found."""

import os

import pytest
from tiny_shards import aged, png_bytes, sample_files, write_tar

import datamodules.shards.survey
from datamodules.shards.index_cache import IndexCache
from datamodules.shards.locations import Reading
from datamodules.shards.reader import ShardReader
from datamodules.shards.survey import survey
from datamodules.shards.tars import index_shard


def shard(path, samples=120, **options):
    """A shard large and old enough to be remembered, with every kind of sample a survey tells apart."""
    picture = png_bytes(0, (32, 32))
    files = {f"{n:04d}": sample_files(n, **options) | {"png": picture} for n in range(samples)}
    files["0003"]["json"] = b"{"
    files["0004"] = {"png": picture, "json": b'{"captions": {"de": "x"}, "labels": {"mood": "sad", "stars": 3}}'}
    files["0005"] = {"png": picture, "txt": b"a text"}
    files["0006"] = {"png": picture}
    return aged(write_tar(path, files))


@pytest.fixture
def read(monkeypatch):
    """The paths that surveys read through, in order."""
    paths, really = [], datamodules.shards.survey._found
    monkeypatch.setattr(
        datamodules.shards.survey, "_found", lambda path, *more: paths.append(path) or really(path, *more)
    )
    return paths


def facts(found):
    return [
        (one.samples, None if one.usable is None else one.usable.tolist(), one.languages, one.labels, one.lost)
        for one in found
    ]


@pytest.mark.parametrize("languages", [None, ["lv"], ["de", "und"]])
def test_the_second_survey_says_the_same_without_reading(tmp_path, read, languages):
    paths = [str(shard(tmp_path / "a.tar")), str(shard(tmp_path / "b.tar"))]
    first = survey(paths, languages, Reading(cache_dir=str(tmp_path / "cache")))
    assert sorted(read) == paths
    again = survey(paths, languages, Reading(cache_dir=str(tmp_path / "cache")))
    assert sorted(read) == paths
    assert facts(first) == facts(again)
    kept = {None: 120, ("lv",): 118, ("de", "und"): 4}[languages and tuple(languages)]  # the two broken ones stay in
    assert (len(again[0]), again[0].left_out) == (kept, 120 - kept)
    assert again[0].languages == {"en": 116, "lv": 116, "de": 1, "und": 1}
    assert again[0].labels == {"mood": {"sad": 1}, "stars": {3: 1}}


def test_other_languages_need_no_reading_and_another_text_language_does(tmp_path, read):
    path = str(shard(tmp_path / "a.tar"))
    for languages, text_language in ((["en"], "und"), (["lv"], "und"), (None, "und"), (None, "sv")):
        (found,) = survey([path], languages, Reading(text_language, str(tmp_path / "cache")))
    assert len(read) == 2
    assert (found.languages["sv"], found.languages["und"]) == (1, 0)


def test_a_shard_that_changed_is_read_again(tmp_path, read):
    path, cache = shard(tmp_path / "a.tar"), str(tmp_path / "cache")
    survey([str(path)], None, Reading(cache_dir=cache))
    shard(path, 130)
    assert len(survey([str(path)], None, Reading(cache_dir=cache))[0]) == 130
    aged(path)  # the same size, another time
    assert len(survey([str(path)], None, Reading(cache_dir=cache))[0]) == 130
    assert len(read) == 3
    path.unlink()
    assert survey([str(path)], None, Reading(cache_dir=cache))[0].lost == {"missing shard": 1}


def test_a_shard_that_was_just_written_is_not_kept(tmp_path):
    path, cache = shard(tmp_path / "a.tar"), tmp_path / "cache"
    os.utime(path)
    survey([str(path)], None, Reading(cache_dir=str(cache)))
    assert not cache.exists()


def test_damage_to_what_is_kept_costs_time_only(tmp_path, read):
    path, cache = str(shard(tmp_path / "a.tar")), tmp_path / "cache"
    first = survey([path], None, Reading(cache_dir=str(cache)))
    whole = next((cache / "indexes").iterdir()).read_bytes()
    middle = len(whole) // 2
    changed = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    for content in (b"", b"[]", whole[:middle], changed, bytes(500)):
        for file in (cache / "indexes").iterdir():
            file.write_bytes(content)
        assert facts(survey([path], None, Reading(cache_dir=str(cache)))) == facts(first)
    assert len(read) == 6


def test_what_an_older_version_kept_makes_room(tmp_path, read):
    path, cache = str(shard(tmp_path / "a.tar")), tmp_path / "cache"
    survey([path], None, Reading(cache_dir=str(cache)))
    for file in (cache / "indexes").iterdir():
        file.with_suffix(".json").write_text('{"of": {}}')
        file.unlink()
    survey([path], None, Reading(cache_dir=str(cache)))
    assert {file.suffix for file in (cache / "indexes").iterdir()} == {".npz"}
    assert len(read) == 2


@pytest.mark.parametrize("folder", ["file in the way", "/proc/mmtrain", "full"])
def test_a_folder_that_cannot_be_written_is_a_warning(tmp_path, read, folder):
    """Root may write anywhere, so the folder is a file, or lies where no file can be made, or on a full device."""
    path = str(shard(tmp_path / "a.tar"))
    (tmp_path / "file in the way").write_bytes(b"")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "indexes").symlink_to("/dev/full")
    for _ in range(2):
        with pytest.warns(UserWarning, match="indexes cannot be written .*: shards without shards.json are read"):
            assert len(survey([path], None, Reading(cache_dir=str(tmp_path / folder)))[0]) == 120
    assert len(read) == 2


def test_a_damaged_shard_is_counted_every_time(tmp_path):
    path = shard(tmp_path / "a.tar")
    path.write_bytes(path.read_bytes()[:400_000])
    aged(path)
    for _ in range(2):
        (found,) = survey([str(path)], None, Reading(cache_dir=str(tmp_path / "cache")))
        assert found.lost == {"truncated shard": 1}
        assert len(found) == len(index_shard(path)) < 120


def test_a_reader_takes_the_kept_index(tmp_path, monkeypatch):
    path = str(shard(tmp_path / "a.tar"))
    plain = ShardReader()
    ShardReader(cache=IndexCache(tmp_path / "cache")).index(path)
    expected = [plain.read(path, number) for number in range(120)]
    monkeypatch.setattr("datamodules.shards.tars.index_shard", None)  # would be called to read the headers
    later = ShardReader(cache=IndexCache(tmp_path / "cache"))
    assert [later.read(path, number) for number in range(120)] == expected
    assert later.index(path).faults == plain.index(path).faults


def test_the_index_takes_few_bytes_a_sample(tmp_path):
    picture = png_bytes(0, (4, 4))
    files = {f"{n:07d}": {"png": picture, "json": b"{}"} for n in range(2000)}
    aged(write_tar(tmp_path / "a.tar", files))
    ShardReader(cache=IndexCache(tmp_path / "cache")).index(str(tmp_path / "a.tar"))
    (kept,) = (tmp_path / "cache" / "indexes").iterdir()
    assert kept.stat().st_size < 70 * 2000


def test_a_sample_is_read_at_once(tmp_path, monkeypatch):
    files = sample_files(0) | {"photo.png": png_bytes(9), "audio.npy": bytes(200)}
    path, reads = str(write_tar(tmp_path / "a.tar", {"0": files, "1": sample_files(1)})), []
    reader, really = ShardReader(), os.pread
    reader.index(path)
    monkeypatch.setattr("os.pread", lambda *where: reads.append(where) or really(*where))
    assert reader.read(path, 0) == ("0", files)
    assert reader.read(path, 1)[1].keys() == {"png", "json"}
    assert len(reads) == 2
    assert reader.read(path, 0, frozenset(("json",)))[1].keys() == {"json"}
    assert (len(reads), reads[-1][1]) == (3, len(files["json"]))


def test_another_shard_of_the_same_size_and_time_is_noticed(tmp_path):
    path, cache = shard(tmp_path / "a.tar"), str(tmp_path / "cache")
    before = path.stat()
    assert survey([str(path)], None, Reading(cache_dir=cache))[0].languages["lv"] == 116
    path.write_bytes(path.read_bytes().replace(b'"lv"', b'"sv"'))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert survey([str(path)], None, Reading(cache_dir=cache))[0].languages["sv"] == 116


def test_processes_find_what_threads_find(tmp_path, monkeypatch):
    shards = [str(shard(tmp_path / name)) for name in ("a.tar", "b.tar", "c.tar")] + [str(tmp_path / "none.tar")]
    readings = [Reading(cache_dir=str(tmp_path / name)) for name in ("threads", "processes")]
    threads = survey(shards, ["lv"], readings[0])
    monkeypatch.setattr(datamodules.shards.survey, "PARALLEL_BYTES", 0)
    assert facts(survey(shards, ["lv"], readings[1])) == facts(threads)
    assert threads[3].lost == {"missing shard": 1}


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core reads with threads")
def test_a_killed_process_is_one_line(tmp_path, monkeypatch):
    shards = [str(shard(tmp_path / name)) for name in ("a.tar", "b.tar")]
    monkeypatch.setattr(datamodules.shards.survey, "PARALLEL_BYTES", 0)
    monkeypatch.setattr(datamodules.shards.survey, "_found", lambda *arguments: os._exit(9))
    with pytest.raises(OSError, match="a process that read shards was killed"):
        survey(shards, None, Reading(cache_dir=str(tmp_path / "cache")))
