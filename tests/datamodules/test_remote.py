"""Shards on a server that answers badly: tried again, checked, never kept half, never lost without a word."""

import os
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tiny_shards import sample_files

from datamodules.packing.rows import LISTING
from datamodules.reading.prefetch import Prefetch
from datamodules.shards.cache_room import Holds, make_room
from datamodules.shards.locations import Reading, read_listing
from datamodules.shards.remote import cached_path, local_path
from datamodules.shards.servers import Patience
from datamodules.shards.survey import ShardSurvey

AT_ONCE = Patience((0, 0), 0.2)


class Server(ThreadingHTTPServer):
    """Serves a folder; `answers` says by name what is done instead, once for each, and for ever for the last."""

    daemon_threads = True

    def __init__(self, folder):
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.answers, self.asked = folder, {}, Counter()
        self.over = threading.Event()
        self.address = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *words):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.partition("?")[0].strip("/")
        self.server.asked[self.command, path] += 1
        answers = self.server.answers.get(path, [None])
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        file = self.server.folder / path
        if answer == "stall":
            self.server.over.wait(60)
            return
        if isinstance(answer, int) or not file.is_file():
            self.send_error(answer or 404)
            return
        content = b"<html>please log in</html>" if answer == "html" else file.read_bytes()
        self.send_response(200)
        if answer != "no length":
            self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", str(hash(content)))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content[: len(content) // 2] if answer in ("cut", "no length") else content)


@pytest.fixture
def server(tmp_path):
    """A server of tmp_path."""
    server = Server(tmp_path)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.over.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def shards(plain_shards):
    """s/part-00.tar and s/part-01.tar of 12 samples each, without shards.json."""
    return plain_shards([[sample_files(n + 12 * part) for n in range(12)] for part in range(2)], "s")


@pytest.fixture
def reading(tmp_path):
    return Reading(cache_dir=str(tmp_path / "cache"), patience=AT_ONCE)


@pytest.fixture
def remote(data, server, tmp_path):
    """remote(name, ...): a data module of shards on the server, which waits for nothing."""

    def build(*names, **options):
        options = {"cache_dir": str(tmp_path / "cache"), "retry_seconds": [0, 0], "timeout_seconds": 0.2} | options
        return data(train="::".join(f"{server.address}/{name}" for name in names), **options)

    return build


def kept(tmp_path, ending=".tar"):
    return sorted(path.name.split("-", 1)[1] for path in (tmp_path / "cache").glob(f"*{ending}"))


BAD = {500: "500 Internal Server Error", "stall": "time-out", "html": "it is no tar", "cut": "", "no length": "cut off"}


@pytest.mark.parametrize("answer", BAD)
def test_a_bad_moment_of_the_server_is_waited_out(shards, server, reading, answer, tmp_path):
    server.answers["s/part-00.tar"] = [answer, None]
    with pytest.warns(UserWarning, match=f"s/part-00.tar: .*{BAD[answer]}.*; trying again in 0 s"):
        path = local_path(f"{server.address}/s/part-00.tar", reading)
    assert Path(path).read_bytes() == (shards / "part-00.tar").read_bytes()
    assert kept(tmp_path) == ["part-00.tar"] and not list((tmp_path / "cache").glob(".*"))


@pytest.mark.filterwarnings("ignore:http")
@pytest.mark.parametrize("answer", BAD)
def test_a_shard_that_cannot_be_fetched_at_the_start_stops_the_run(shards, server, remote, answer, tmp_path):
    server.answers["s/part-01.tar"] = [answer]
    with pytest.raises(
        ValueError, match=f"data.train: .*part-01.tar cannot be fetched: .*{BAD[answer]}.*tried 3 times"
    ):
        remote("s/part-{00..01}.tar")
    assert kept(tmp_path) == ["part-00.tar"]
    server.answers.clear()
    assert remote("s/part-{00..01}.tar").epoch_length == 24


@pytest.mark.parametrize(("answer", "reason"), [(None, "404"), (403, "403"), (410, "410 Gone")])
def test_what_is_not_there_is_asked_for_once(server, remote, answer, reason):
    server.answers["none.tar"] = [answer]
    with pytest.raises(ValueError, match=f"data.train: .*/none.tar cannot be fetched: {reason}"):
        remote("none.tar")
    assert server.asked["GET", "none.tar"] == 1
    with pytest.raises(ValueError, match="data.train: a folder cannot be listed: .*/none/ cannot be fetched: 404"):
        remote("none/")


def test_a_signed_address_is_a_file_and_its_signature_is_not_told(shards, server, remote, tmp_path):
    module = remote("s/part-00.tar?X-Amz-Signature=SECRET")
    again = remote("s/part-00.tar?X-Amz-Signature=OTHER")
    assert server.asked["GET", "s/part-00.tar"] == 1
    assert module.state_dict()["data"] == again.state_dict()["data"]
    with pytest.raises(ValueError) as error:
        remote("s/none.tar?X-Amz-Signature=SECRET")
    assert "SECRET" not in str(error.value) and not any("SECRET" in name for name in kept(tmp_path, ""))


def test_what_changed_on_the_server_is_fetched_again_at_the_start(plain_shards, shards, server, remote):
    assert remote("s/part-00.tar").epoch_length == 12
    (shards / "part-01.tar").replace(shards / "part-00.tar")  # of the same size
    with pytest.warns(UserWarning, match="part-00.tar has changed since it was fetched"):
        module = remote("s/part-00.tar")
    assert {name for batch in module.train_dataloader() for name in batch.ids} == {f"s{n:03d}" for n in range(12, 24)}


def test_a_copy_serves_while_the_server_cannot_be_asked(shards, server, remote):
    remote("s/part-00.tar")
    server.answers["s/part-00.tar"] = [503]
    with pytest.warns(UserWarning, match="cannot be asked for changes .503"):
        assert remote("s/part-00.tar").epoch_length == 12


def test_another_file_in_the_middle_of_a_run_is_refused(shards, server, reading):
    address = f"{server.address}/s/part-00.tar"
    os.unlink(local_path(address, reading))  # as when the cache is full
    (shards / "part-01.tar").replace(shards / "part-00.tar")
    with pytest.raises(OSError, match="it has changed on the server"):
        local_path(address, reading)


@pytest.mark.filterwarnings("ignore:http")
def test_a_listing_that_cannot_be_read_stops_the_start(listed_shards, server, remote):
    listed_shards(12, 6)
    for answer, reason in ((500, "500"), ("html", "it is no JSON")):
        server.answers["shards/shards.json"] = [answer]
        with pytest.raises(ValueError, match=f"data.train: .*shards.json cannot be fetched: .*{reason}"):
            remote("shards/shard-000000.tar")


@pytest.mark.filterwarnings("ignore:http")
def test_a_shard_lost_later_counts_for_what_it_holds(listed_shards, server, remote, epoch):
    listed_shards(24, 6)
    server.answers["shards/shard-000001.tar"] = [500]
    module = remote("shards/shard-{000000..000003}.tar", max_skip_rate=1.0)
    assert module.epoch_length == 24
    epoch(module)
    lost = f"{server.address}/shards/shard-000001.tar"
    assert module.account.summary()["shards"][lost]["missing shard"] >= 6  # it may be drawn again in its own place
    assert server.asked["GET", "shards/shard-000001.tar"] <= 6  # and not at each of its samples


@pytest.mark.filterwarnings("ignore:http")
def test_bytes_that_the_listing_does_not_know_are_not_read(listed_shards, server, remote, epoch):
    folder = listed_shards(24, 6)
    (folder / "shard-000002.tar").write_bytes((folder / "shard-000001.tar").read_bytes())
    module = remote("shards/shard-{000000..000003}.tar", max_skip_rate=1.0)
    with pytest.warns(UserWarning, match="not those that shards.json lists"):
        epoch(module)
    assert module.account.summary()["causes"]["missing shard"] >= 6


def test_a_listing_cannot_promise_more_than_the_bytes_hold(listed_shards):
    listing = listed_shards(6, 6) / LISTING
    assert read_listing(listing)
    for claim in ("1000000000", '"many"'):
        listing.write_text(listing.read_text().replace('"samples": 6', f'"samples": {claim}'))
        assert read_listing(listing) is None


def test_one_process_fetches_and_the_others_wait(shards, server, reading):
    address, paths = f"{server.address}/s/part-00.tar", []
    threads = [threading.Thread(target=lambda: paths.append(local_path(address, reading))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(paths) == 6 and server.asked["GET", "s/part-00.tar"] == 1


def test_the_least_recently_used_shards_go_and_none_in_use(plain_shards, server, tmp_path):
    folder = plain_shards([[sample_files(n + part) for n in range(4)] for part in range(8)], "many")
    size = (folder / "part-00.tar").stat().st_size
    limited = Reading(cache_dir=str(tmp_path / "cache"), cache_gb=6.5 * size / 1e9, patience=AT_ONCE)
    holds = Holds(1)
    for part in range(8):
        path = local_path(f"{server.address}/many/part-{part:02d}.tar", limited)
        if part == 0:
            holds.take(Path(path))
    assert kept(tmp_path) == [f"part-{part:02d}.tar" for part in (0, 3, 4, 5, 6, 7)]
    holds.keep([])
    tight = Reading(cache_dir=str(tmp_path / "cache"), cache_gb=size / 1e9)
    with pytest.warns(UserWarning, match="data.cache_gb: the shards in use take"):
        make_room(Path(path), tight)  # this process read the last four
    assert kept(tmp_path) == [f"part-{part:02d}.tar" for part in (4, 5, 6, 7)]


def test_training_on_more_than_the_cache_holds(listed_shards, data, server, remote, epoch, tmp_path):
    folder = listed_shards(48, 4)
    size = (folder / "shard-000000.tar").stat().st_size
    module = remote("shards/shard-{000000..000011}.tar", shuffle_window=8, cache_gb=7 * size / 1e9, batch_size=4)
    local = data(train=folder, shuffle_window=8)
    assert [epoch(module) for _ in range(2)] == [epoch(local) for _ in range(2)]
    assert len(kept(tmp_path)) <= 8 and module.account.summary()["causes"] == {}


def test_shards_that_made_room_are_not_fetched_to_be_counted_again(plain_shards, server, remote):
    folder = plain_shards([[sample_files(n + part) for n in range(4)] for part in range(8)], "many")
    options = {"cache_gb": 2 * (folder / "part-00.tar").stat().st_size / 1e9}
    first = remote("many/part-{00..07}.tar", **options)
    asked = Counter(server.asked)
    again = remote("many/part-{00..07}.tar", **options)
    assert again.state_dict()["data"] == first.state_dict()["data"]
    gets = {path: n - asked["GET", path] for (command, path), n in server.asked.items() if command == "GET"}
    assert sum(gets.values()) <= 2  # of what the first batch needs


def test_the_next_shards_are_fetched_before_their_turn(listed_shards, server, reading):
    listed_shards(48, 4)
    addresses = [f"{server.address}/shards/shard-{number:06d}.tar" for number in range(12)]
    prefetch = Prefetch([ShardSurvey(address, 4) for address in addresses], reading)
    prefetch.want([3, 1], [2, 0])
    thread = prefetch._thread
    while not cached_path(addresses[0], reading).exists():
        assert thread.is_alive()
    prefetch.close()
    thread.join()
    there = [number for number, address in enumerate(addresses) if cached_path(address, reading).exists()]
    assert there == [0, 1, 2, 3]


@pytest.mark.parametrize("options", [{"cache_gb": 0}, {"timeout_seconds": 0}, {"retry_seconds": [-1]}])
def test_wrong_options_are_one_line(data, options):
    with pytest.raises(ValueError, match=f"data.{next(iter(options))}: "):
        data("test", **options)
