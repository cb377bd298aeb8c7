"""SHARDS: folders, tars, brace patterns, lists with weights, remote names, pipes."""

import functools
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from tiny_shards import sample_files

from datamodules.shards.locations import expand


@pytest.fixture
def shards(tmp_path):
    for name in ("a/00", "a/01", "a/02", "b/x"):
        (tmp_path / f"{name}.tar").parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.tar").touch()
    (tmp_path / "a" / "notes.txt").touch()
    (tmp_path / "empty").mkdir()
    return tmp_path


def names(root, spec):
    return [
        [shard.removeprefix(f"{root}/") for shard in source.shards] for source in expand(spec.replace("~", str(root)))
    ]


def test_a_folder_a_tar_a_pattern_and_a_list(shards):
    assert names(shards, "~/a") == [["a/00.tar", "a/01.tar", "a/02.tar"]]
    assert names(shards, "~/b/x.tar") == [["b/x.tar"]]
    assert names(shards, "~/a/{01..02}.tar") == [["a/01.tar", "a/02.tar"]]
    assert names(shards, "~/{a,b}") == [["a/00.tar", "a/01.tar", "a/02.tar", "b/x.tar"]]
    assert names(shards, "~/b::~/a/{00,02}.tar") == [["b/x.tar", "a/00.tar", "a/02.tar"]]
    assert names(shards, "file://~/b") == [["b/x.tar"]]


def test_weights_make_sources(shards):
    sources = expand(f"0.7@{shards}/a::.3@{shards}/b")
    assert [(source.weight, len(source.shards)) for source in sources] == [(0.7, 3), (0.3, 1)]
    assert [source.weight for source in expand(f"2@{shards}/a::{shards}/b")] == [2, 1]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("~/empty", "holds no .tar"),
        ("~/none", "does not exist"),
        ("~/a/{00..05}.tar", "(3 of the 6 files of"),
        ("~/a/{00..", "data.train"),
        ("~/a::~/a/01.tar", "is named twice"),
        ("0@~/a", "has weight 0"),
        ("", "names no shards"),
        ("~/a::", "data.train"),
        ("pipe:cat ~/b/x.tar", "switch that on with allow_pipe"),
    ],
)
def test_what_names_no_shards_is_one_line(shards, spec, said):
    with pytest.raises(ValueError) as error:
        expand(spec.replace("~", str(shards)), field="data.train")
    assert said in str(error.value) and str(error.value).startswith("data.train: ") and "\n" not in str(error.value)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *words):
        pass


@pytest.fixture
def web(tmp_path):
    """The address of a server of tmp_path."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_remote_shards_are_fetched_once_into_the_cache(listed_shards, data, epoch, web, tmp_path):
    local = data(train=listed_shards(12, 6))
    options = {"train": f"{web}/shards/shard-{{000000..000001}}.tar", "cache_dir": str(tmp_path / "cache")}
    module = data(**options)
    assert epoch(module) == epoch(local)
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}
    names = sorted(name.split("-", 1)[1] for name in kept if not name.endswith(".facts"))
    assert names == ["shard-000000.tar", "shard-000001.tar", "shards.json"]
    epoch(data(**options))
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()} == kept


def test_a_remote_folder_is_listed(listed_shards, data, web, tmp_path):
    listed_shards(12, 6)
    assert data(train=f"{web}/shards/", cache_dir=str(tmp_path / "cache")).epoch_length == 12


def test_a_pipe_runs_once_when_it_is_allowed(plain_shards, data, epoch, tmp_path):
    tar = plain_shards([[sample_files(n) for n in range(8)]]) / "part-00.tar"
    options = {"train": f"pipe:cat {tar}", "cache_dir": str(tmp_path / "cache")}
    with pytest.raises(ValueError, match="allow_pipe"):
        data(**options)
    assert len(epoch(data(**options, allow_pipe=True))) == 2
    tar.unlink()
    assert len(epoch(data(**options, allow_pipe=True))) == 2
