"""The start of a run on a million samples: what their shards hold is read, or looked up in the cache.

    python -m benchmarks.survey                     # a million in 100 tars and in 100 parquet files; 3 GB of disk
    python -m benchmarks.survey --samples 100000 --shards 1

Tiny pictures with captions in three languages, no shards.json. Each line is a process of its own that imports what
reading needs, then surveys all shards and reads the index of each; its peak is what it takes on top of the imports.
"""

import argparse
import json
import subprocess
import sys
import tarfile
import tempfile
import time
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

FORMATS = ("tar",)


def samples_of(shard: int, count: int, pictures: list[bytes]) -> list[tuple[bytes, dict]]:
    first = shard * count
    return [
        (
            pictures[n % len(pictures)],
            {"id": str(n), "captions": {"en": f"picture {n}", "lv": f"attēls {n}", "ja": f"写真 {n}"}},
        )
        for n in range(first, first + count)
    ]


def write(folder: Path, shard: int, samples: list[tuple[bytes, dict]]) -> None:
    """The same samples in each format."""

    with open(folder / "tar" / f"{shard:05d}.tar", "wb") as file:
        for number, (picture, record) in enumerate(samples):
            for suffix, content in (("png", picture), ("json", json.dumps(record).encode())):
                member = tarfile.TarInfo(f"{shard:05d}{number:07d}.{suffix}")
                member.size = len(content)
                file.write(member.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % 512))
        file.write(bytes(1024))


def measure(folder: Path, cache: Path) -> None:
    """Surveys the shards of a folder and reads each index; prints samples, seconds and the peak beyond the imports."""
    from benchmarks.loader import peak_mib
    from datamodules.shards.index_cache import IndexCache
    from datamodules.shards.locations import Reading, expand
    from datamodules.shards.reader import ShardReader
    from datamodules.shards.survey import survey

    imported, begun = peak_mib("self"), time.perf_counter()
    (part,) = expand(str(folder))
    surveys = survey(part.shards, None, Reading(cache_dir=str(cache)))
    surveyed = time.perf_counter()
    reader = ShardReader(cache=IndexCache(cache))
    indexed = sum(len(reader.index(shard.shard)) for shard in surveys)
    print(
        json.dumps(
            {
                "samples": sum(map(len, surveys)),
                "indexed": indexed,
                "survey": surveyed - begun,
                "index": time.perf_counter() - surveyed,
                "peak": peak_mib("self") - imported,
            }
        )
    )


def main(folder: Path, samples: int, shards: int) -> None:
    rng = np.random.default_rng(0)
    pictures = []
    for _ in range(100):
        file = BytesIO()
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).save(file, "PNG")
        pictures.append(file.getvalue())
    for name in FORMATS:
        (folder / name).mkdir(parents=True, exist_ok=True)
    for shard in range(shards):
        if not (folder / "tar" / f"{shard:05d}.tar").exists():
            write(folder, shard, samples_of(shard, samples // shards, pictures))
    time.sleep(2)  # a file changed more recently is not remembered
    print(
        "| a million | survey, s | indexes, s | peak beyond the imports, MiB |\n|---|---|---|---|".replace(
            "a million", f"{samples:,} samples in {shards} shards"
        )
    )
    for name in FORMATS:
        with tempfile.TemporaryDirectory(dir=folder) as cache:
            for what in ("without a cache", "with the cache"):
                command = [sys.executable, "-m", "benchmarks.survey", "--measure", folder / name, "--cache", cache]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                found = json.loads(done.stdout.splitlines()[-1])
                assert found["samples"] == found["indexed"] == samples
                print(
                    f"| {name}, {what} | {found['survey']:.1f} | {found['index']:.1f} | {found['peak']:.0f} |",
                    flush=True,
                )


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
