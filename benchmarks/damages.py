"""Does any damage to a shard end a verb in another way than with exit code 0 or one line?

    python -m benchmarks.damages --damages 2000

One good shard is damaged at random (bytes flipped, lost, added, zeroed, the file cut, headers changed with the right
checksum), each time anew from the same seed. Then inspect, fit, evaluate and index read it, each in a process of its
own. Each must end within a minute, with 0 or one line, and count what it left out.
"""

import argparse
import contextlib
import io
import json
import multiprocessing
import os
import random
import shutil
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from datamodules.shards.inspection import inspect_shards
from mmtrain.cli import main

SAMPLES, OTHERS = 24, 100  # of the damaged shard, of a good one beside it: one loss among them all is no reason to stop
LIMIT = 60  # seconds for one verb
CONFIG = Path(__file__).parents[1] / "configs" / "pretrain" / "tiny.yaml"
SIZES = (-1, -512, -(10**6), 0, 511, 5000, 50_000, 2**31, 2**33, 2**62, 2**87)


class Damage(NamedTuple):
    kind: str
    content: bytes  # the damaged tar
    first: int  # what lies before this byte is as it was


def damaged(tar: bytes, seed: int) -> Damage:
    """One random damage."""
    rng = random.Random(seed)
    kind = rng.choice(list(DAMAGES))
    content = bytearray(tar)
    first = DAMAGES[kind](content, rng)
    return Damage(kind, bytes(content), first)


def _flipped(content: bytearray, rng: random.Random) -> int:
    places = [rng.randrange(len(content)) for _ in range(rng.randint(1, 30))]
    for place in places:
        content[place] ^= rng.randint(1, 255)
    return min(places)


def _run(content: bytearray, rng: random.Random) -> slice:
    start = rng.randrange(len(content))
    return slice(start, start + rng.choice((1, 100, 512, 3000, 20_000)))


def _foreign(content: bytearray, rng: random.Random) -> int:
    run = _run(content, rng)
    content[run] = rng.randbytes(len(content[run]))
    return run.start


def _zeroed(content: bytearray, rng: random.Random) -> int:
    run = _run(content, rng)
    content[run] = bytes(len(content[run]))
    return run.start


def _lost(content: bytearray, rng: random.Random) -> int:
    run = _run(content, rng)
    del content[run]
    return run.start


def _added(content: bytearray, rng: random.Random) -> int:
    run = _run(content, rng)
    content[run.start : run.start] = rng.randbytes(run.stop - run.start)
    return run.start


def _cut(content: bytearray, rng: random.Random) -> int:
    run = _run(content, rng)
    del content[run.start :]
    return run.start


def _header(content: bytearray, rng: random.Random) -> int:
    """Changes a size, a type or a name, and makes the checksum right again."""
    start = rng.choice([at for at in range(0, len(content), 512) if content[at + 257 : at + 262] == b"ustar"])
    size = rng.choice(SIZES)
    field, value = rng.choice(
        (
            (124, (b"\xff" if size < 0 else b"\x80") + (size % 2**88).to_bytes(11, "big")),
            (156, rng.choice(b"0123456789gxLKSXVDM\0\xff").to_bytes(1, "big")),
            (0, rng.randbytes(rng.randint(1, 12))),
        )
    )
    content[start + field : start + field + len(value)] = value
    content[start + 148 : start + 156] = b" " * 8
    content[start + 148 : start + 156] = b"%06o\0 " % sum(content[start : start + 512])
    return start


DAMAGES: dict[str, Callable[[bytearray, random.Random], int]] = {
    "bytes flipped": _flipped,
    "foreign bytes": _foreign,
    "bytes zeroed": _zeroed,
    "bytes lost": _lost,
    "bytes added": _added,
    "cut": _cut,
    "header changed": _header,
}


def good_shard(start: int, end: int) -> bytes:
    """A tar of small JPEGs with captions in two languages and a label."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for number in range(start, end):
            picture = io.BytesIO()
            noise = np.random.RandomState(number).randint(0, 255, (6, 6, 3)).astype(np.uint8)
            Image.fromarray(noise).resize((48, 48)).save(picture, "JPEG")
            captions = {"en": f"picture {number}", "lv": f"attēls {number}"}
            record = {"id": f"s{number:03d}", "captions": captions, "labels": {"parity": number % 2}}
            for suffix, part in (("jpg", picture.getvalue()), ("json", json.dumps(record).encode())):
                header = tarfile.TarInfo(f"{number:04d}.{suffix}")
                header.size = len(part)
                tar.addfile(header, io.BytesIO(part))
    return content.getvalue()


class Outcome(NamedTuple):
    ended: str  # "0", "one line", or what should not be
    seconds: float


def verbs(shard: Path, model: Path, out: Path) -> dict[str, list[str]]:
    """The commands, by verb."""
    options = {
        "data.train": shard,
        "data.workers": 0,
        "data.batch_size": 24,
        "data.max_skip_rate": 1,
        "data.captions_per_image": 1,
        "data.images": "{class_path: datamodules.ImagePipeline, init_args: {size: 32}}",
        "trainer.max_steps": 6,  # all samples once
        "trainer.val_check_interval": 6,
        "trainer.accelerator": "cpu",
        "trainer.enable_progress_bar": "false",
        "trainer.enable_model_summary": "false",
        "trainer.default_root_dir": out / "fit",
        "model.image": "{class_path: mmtrain.towers.TimmTower, init_args: {name: resnet10t, "
        "options: {channels: [8, 16, 16, 32], stem_width: 8}}}",
        "model.text.width": 32,
        "model.dimension": 32,
    }
    reading = ["--data", str(shard), "--workers", "0", "--device", "cpu", "--out"]
    return {
        "inspect": ["inspect", str(shard)],
        "fit": ["fit", "--config", str(CONFIG), *(f"--{name}={value}" for name, value in options.items())],
        "evaluate": ["evaluate", str(model), *reading, str(out / "evaluate")],
        "index": ["index", str(model), *reading, str(out / "index")],
    }


def in_a_process(command: list[str], out: Path) -> Outcome:
    """Runs a command in a fork of this process, where everything is imported already."""
    started = time.monotonic()
    process = multiprocessing.get_context("fork").Process(target=_command, args=(command, out))
    process.start()
    process.join(LIMIT)
    seconds = time.monotonic() - started
    if process.is_alive():
        process.kill()
        return Outcome("a hang", seconds)
    said = out.read_text(encoding="utf-8", errors="replace")
    errors = [line for line in said.splitlines() if line.startswith("mmtrain ") and ": error: " in line]
    if process.exitcode == 0:
        return Outcome("0" if "Traceback" not in said else "0 with a traceback", seconds)
    expected = process.exitcode == 1 and len(errors) == 1 and "Traceback" not in said and "--debug" not in errors[0]
    return Outcome("one line" if expected else f"exit {process.exitcode}: {said.strip()[-300:]}", seconds)


def _command(command: list[str], out: Path) -> None:
    descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.exit(main(command))


def uncounted(shard: Path, out: Path) -> list[str]:
    """The verbs that left samples out without counting them; a shard that is whole to the eye has none to count."""
    facts = inspect_shards(str(shard), workers=1).facts
    missing = SAMPLES + OTHERS - facts["images"]
    counted = {"inspect": sum(facts["broken"].values())}
    with contextlib.suppress(OSError):
        counted["fit"] = json.loads((out / "fit" / "skipped.json").read_text(encoding="utf-8"))["skipped"]
    with contextlib.suppress(OSError):
        metrics = json.loads((out / "evaluate" / "metrics.json").read_text(encoding="utf-8"))
        counted["evaluate"] = metrics["protocol"]["skipped"]["skipped"]
    with contextlib.suppress(OSError):
        description = json.loads((out / "index" / "index.json").read_text(encoding="utf-8"))
        counted["index"] = sum(description["skipped"].values())
    return [verb for verb, count in counted.items() if missing > 0 and not count]


def outcomes(folder: Path, seeds: range) -> Counter[tuple[str, str]]:
    """How often each verb ended how, by (verb, end); prints what should not be."""
    good, model = folder / "good", folder / "model" / "fit"
    good.mkdir(parents=True)
    (good / "a.tar").write_bytes(good_shard(0, SAMPLES))
    (good / "b.tar").write_bytes(good_shard(SAMPLES, SAMPLES + OTHERS))
    # in this process, which then has imported whatever the others need
    assert not any([main(command) for command in verbs(good, model, model.parent).values()])
    counts: Counter[tuple[str, str]] = Counter()
    for seed in seeds:
        damage, shard, out = damaged((good / "a.tar").read_bytes(), seed), folder / "shard", folder / "out"
        for path in (shard, out):
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir()
        (shard / "a.tar").write_bytes(damage.content)
        (shard / "b.tar").symlink_to(good / "b.tar")
        for verb, command in verbs(shard, model, out).items():
            outcome = in_a_process(command, folder / "said.txt")
            counts[verb, outcome.ended if outcome.ended in ("0", "one line") else "WRONG"] += 1
            if outcome.ended not in ("0", "one line"):
                print(f"damage {seed} ({damage.kind}), {verb}: {outcome.ended}", flush=True)
        for verb in uncounted(shard, out):
            counts[verb, "UNCOUNTED"] += 1
            print(f"damage {seed} ({damage.kind}), {verb}: samples are missing and not counted", flush=True)
    return counts


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--damages", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0, help="the seed of the first")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # a fork of a process with OpenMP threads may crash
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        counts = outcomes(Path(name), range(options.first, options.first + options.damages))
    for (verb, end), count in sorted(counts.items()):
        print(f"{verb:10} {end:10} {count:6}")
    print(f"{options.damages} damages in {time.monotonic() - started:.0f} s")
    sys.exit(any(end in ("WRONG", "UNCOUNTED") for _, end in counts))
