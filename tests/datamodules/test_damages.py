"""Two hundred random damages of one shard: nothing hangs, nothing ends a reading, what is lost is counted."""

import re
import subprocess
import sys

import pytest

from benchmarks.damages import damaged, good_shard
from datamodules.shards.inspection import inspect_shards
from datamodules.shards.samples import BrokenSample
from datamodules.shards.tars import index_shard
from tests.mmtrain.small import ENVIRONMENT, ROOT

SAMPLES = 12
GOOD = good_shard(0, SAMPLES)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Where each sample of the good shard ends."""
    path = tmp_path_factory.mktemp("good") / "a.tar"
    path.write_bytes(GOOD)
    index = index_shard(path)
    return {key: max(at + size for _, at, size in index.members(n)) for n, key in enumerate(index.keys)}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("seeds", [range(start, start + 25) for start in range(0, 200, 25)], ids=str)
def test_a_damage_costs_what_it_hits_and_is_counted(tmp_path, data, whole, seeds):
    for seed in seeds:
        damage = damaged(GOOD, seed)
        path = tmp_path / f"{seed}.tar"
        path.write_bytes(damage.content)
        facts = inspect_shards(str(path), workers=1).facts
        missing = SAMPLES - facts["images"]
        assert missing <= 0 or facts["broken"] or facts.get("without a picture"), (seed, damage.kind)
        before = [key for key, end in whole.items() if end <= damage.first]
        try:
            index = index_shard(path)
        except BrokenSample as error:
            assert not before and error.cause == "unreadable shard", (seed, damage.kind)
            continue
        assert index.keys[: len(before)] == before, (seed, damage.kind)
        try:
            module = data("test", test=path, max_skip_rate=1.0)
        except ValueError as error:
            assert "\n" not in str(error) and not facts["images"], (seed, damage.kind)
            continue
        rows = 0
        for batch in module.test_dataloader():
            module.evaluated(batch)
            rows += (batch.rows >= 0).sum().item()
        # inspect and evaluation agree on what is whole
        assert rows == facts["images"], (seed, damage.kind)
        assert (module.account.summary()["skipped"] > 0) == bool(facts["broken"]), (seed, damage.kind)


@pytest.mark.system
def test_damages_through_the_commands(tmp_path):
    # in a process of its own: its forks inherit no threads of the tests that ran here before
    command = [sys.executable, "-m", "benchmarks.damages", "--damages", "4", "--first", "1000"]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = re.findall(r"^(?:inspect|fit|evaluate|index) +(?:0|one line) +(\d+)$", done.stdout, re.MULTILINE)
    assert sum(map(int, counts)) == 4 * 4
