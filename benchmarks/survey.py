"""The start of a run on a million samples: what their shards hold is read, or looked up in the cache.

    python -m benchmarks.survey                                # in 100 tars and 100 parquet files; 3 GB of disk
    python -m benchmarks.survey --samples 100000 --shards 1

Pictures of 8 x 8 pixels with captions in three languages, no shards.json. Each line is a process of its own that
imports what reading needs, then surveys all shards and reads the index of each. Its peak is what it takes beyond the
imports, of all its processes; CPU seconds say what it costs where other jobs run.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

FORMATS = ("tar", "parquet")


def pictures() -> list[bytes]:
    rng, encoded = np.random.default_rng(0), []
    for _ in range(100):
        file = BytesIO()
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).save(file, "PNG")
        encoded.append(file.getvalue())
    return encoded


def write(folder: Path, shard: int, first: int, end: int, images: list[bytes]) -> None:
    """The same samples as a tar and as a parquet file."""
    rows = []
    with open(folder / "tar" / f"{shard:05d}.tar", "wb") as file:
        for number in range(first, end):
            captions = {"en": f"picture {number}", "lv": f"attēls {number}", "ja": f"写真 {number}"}
            record, image = {"id": str(number), "captions": captions}, images[number % len(images)]
            rows.append({"image": image, **record})
            encoded = json.dumps(record, ensure_ascii=False).encode()
            for suffix, content in (("png", image), ("json", encoded)):
                member = tarfile.TarInfo(f"{number:09d}.{suffix}")
                member.size = len(content)
                file.write(member.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % tarfile.BLOCKSIZE))
        file.write(bytes(2 * tarfile.BLOCKSIZE))
    pq.write_table(pa.Table.from_pylist(rows), folder / "parquet" / f"{shard:05d}.parquet", row_group_size=1000)


def measure(folder: Path, cache: Path) -> None:
    """Surveys the shards of a folder and reads each index; prints the figures of a line."""
    from benchmarks.loader import peak_mib
    from datamodules.shards import tables  # noqa: F401, an import that tars would not need
    from datamodules.shards.index_cache import IndexCache
    from datamodules.shards.locations import Reading, expand
    from datamodules.shards.reader import ShardReader
    from datamodules.shards.survey import survey

    (part,) = expand(str(folder))
    imported, begun, processor = peak_mib("self"), time.perf_counter(), time.process_time()
    surveys = survey(part.shards, None, Reading(cache_dir=str(cache)))
    surveyed = time.perf_counter()
    reader = ShardReader(cache=IndexCache(cache))
    indexed = sum(len(reader.index(shard.shard)) for shard in surveys)
    figures = {"samples": sum(map(len, surveys)), "indexed": indexed, "peak": peak_mib("self") - imported}
    figures |= {"survey": surveyed - begun, "index": time.perf_counter() - surveyed}
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    if children.ru_maxrss:  # of the largest; each core may have one
        figures["peak"] += len(os.sched_getaffinity(0)) * max(0.0, children.ru_maxrss / 1024 - imported)
    own = time.process_time() - processor
    print(json.dumps(figures | {"processor": own + children.ru_utime + children.ru_stime}))


def main(folder: Path, samples: int, shards: int) -> None:
    images, bounds = pictures(), [samples * shard // shards for shard in range(shards + 1)]
    for name in FORMATS:
        (folder / name).mkdir(parents=True, exist_ok=True)
    for shard in range(shards):
        if not (folder / "parquet" / f"{shard:05d}.parquet").exists():
            write(folder, shard, bounds[shard], bounds[shard + 1], images)
    time.sleep(3)  # a file that changed more recently is not remembered
    print(f"| {samples:,} samples in {shards} shards | survey, s | indexes, s | CPU s of both | peak, MiB |")
    print("|---|---|---|---|---|")
    for name in FORMATS:
        with tempfile.TemporaryDirectory(dir=folder) as cache:
            for what in ("without a cache", "with the cache"):
                command = [sys.executable, "-m", "benchmarks.survey", "--measure", folder / name, "--cache", cache]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                found = json.loads(done.stdout.splitlines()[-1])
                assert found["samples"] == found["indexed"] == samples
                seconds = [f"{found[key]:.1f}" for key in ("survey", "index", "processor")]
                print(f"| {name}, {what} | {' | '.join(seconds)} | {found['peak']:.0f} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--shards", type=int, default=100)
    parser.add_argument("--work", type=Path, help="folder to keep the shards in; default: a temporary one")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--cache", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure, options.cache)
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(options.work or Path(temporary), options.samples, options.shards)
