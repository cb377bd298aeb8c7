"""Reading many samples keeps neither them nor their shards' indexes."""

import resource

import pytest
from tiny_shards import png_bytes, write_tar

from datamodules.shards.reader import ShardReader
from datamodules.stream.order import PassOrder


def peak_kib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def test_a_reader_forgets_what_it_read(tmp_path):
    files = {"png": png_bytes(1), "json": b"x" * 20_000}
    paths = [str(write_tar(tmp_path / f"{n}.tar", {f"{n}-{i}": files for i in range(100)})) for n in range(20)]
    reader = ShardReader(samples=300, files=3)
    for path in paths[:4]:
        for sample in range(100):
            reader.read(path, sample)
    before = peak_kib()
    for _ in range(5):
        for path in paths:
            for sample in range(100):
                reader.read(path, sample)
    assert peak_kib() - before < 5_000  # of 200,000 read
    assert len(reader._shards) == len(reader._open) == 3


@pytest.mark.parametrize("total", [10_000_000])
def test_the_order_needs_memory_for_its_window_only(total):
    order = PassOrder([10_000] * (total // 10_000), seed=0, window=20_000)
    before = peak_kib()
    for position in range(0, 3 * total, total // 50):
        order(position)
    assert peak_kib() - before < 5_000  # a permutation of all would take 80,000
