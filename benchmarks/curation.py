"""How long `mmtrain curate` takes over a million captions and 200,000 entries, in parts at once.

python -m benchmarks.curation --out build/curation      # writes 500 MB of shards there first; minutes
"""

import argparse
import functools
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from string import ascii_lowercase

import numpy as np

from datamodules.shards.writing import write_shards

ENTRIES, SAMPLES = 200_000, 10_000


@functools.cache
def words() -> list[str]:
    """Different words of 3 to 9 letters."""
    rng, found = random.Random(0), dict[str, None]()
    while len(found) < ENTRIES:
        found["".join(rng.choices(ascii_lowercase, k=rng.randint(3, 9)))] = None
    return list(found)


def samples(task: dict) -> Iterator[dict]:
    """Captions of 12 words with Zipf's frequencies, one a sample."""
    every = words()
    chosen = np.random.default_rng(task["first"]).zipf(1.2, size=(SAMPLES, 12)) % ENTRIES
    for number, row in enumerate(chosen.tolist(), start=task["first"]):
        record = {"id": f"s{number}", "captions": {"en": " ".join(every[i] for i in row)}}
        yield {"__key__": f"{number:09d}", "json": json.dumps(record).encode()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--captions", type=int, default=1_000_000)
    parser.add_argument("--parts", type=int, default=2, help="processes at once (default: 2)")
    options = parser.parse_args()
    shards, metadata, kept = (options.out / name for name in ("shards", "metadata.jsonl", "kept"))
    if not metadata.exists():
        write_shards(shards, [{"first": i} for i in range(0, options.captions, SAMPLES)], samples, workers=2)
        lines = (json.dumps({"language": "en", "entry": word}) for word in words())
        metadata.write_text("\n".join(lines), encoding="utf-8")
    for folder in (kept, kept.with_name("kept.parts")):
        shutil.rmtree(folder, ignore_errors=True)
    program = [sys.executable, "-m", "mmtrain.cli", "curate", str(shards), "--metadata", str(metadata)]
    command = [*program, "--out", str(kept)]
    load, used = os.getloadavg()[0], resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    begun = time.perf_counter()
    running = [subprocess.Popen([*command, "--part", f"{i}/{options.parts}"]) for i in range(options.parts)]
    if any(process.wait() for process in running):
        sys.exit(1)
    matched = time.perf_counter()
    subprocess.run([*command, "--join"], check=True)
    ended = time.perf_counter()
    used = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - used
    print(
        f"{options.captions:,} captions, {ENTRIES:,} entries, {options.parts} processes: matched in "
        f"{matched - begun:.0f} s, joined in {ended - matched:.0f} s, {ended - begun:.0f} s in all; "
        f"{used:.0f} s of user time; load {load:.1f} before, {os.getloadavg()[0]:.1f} after"
    )


if __name__ == "__main__":
    main()
