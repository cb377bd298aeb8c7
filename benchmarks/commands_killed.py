"""Do the verbs that write leave a whole result whenever they are killed, alone and two at once?

    python -m benchmarks.commands_killed --kills 12

Each command has written its result once before. Then it runs again and again over that result, and is killed (SIGKILL)
at a random moment of its work; afterwards again, two processes of one command at once, one of them killed. After every
kill the result must be whole: the older one or the new one. In the end each command runs undisturbed, once alone and
twice at once: the result must be that of the beginning, every process must end with 0 or one line, and nothing may lie
beside it (a killed `evaluate` leaves the hidden file that it was writing). Prints a row for each command.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

os.environ["OMP_NUM_THREADS"] = "1"
ROWS = 48
GOING_ON = ("pack", "embed", "mine", "curate")  # have nothing to do where their result is there


def make_material(folder: Path) -> None:
    """Pictures with a manifest, and a small model with random weights."""
    from datamodules import ByteTokenizer, ImagePipeline
    from mmtrain.export.writing import write
    from mmtrain.models.encoder import Encoder
    from mmtrain.models.image_text import ImageTextModel
    from mmtrain.towers import ByteGRU, TimmTower

    random_pixels = np.random.default_rng(0)
    rows = []
    for number in range(ROWS):
        pixels = random_pixels.integers(0, 255, (48, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        captions = {"en": f"picture {number}", "lv": f"attēls {number}"}
        rows.append(json.dumps({"id": f"p{number}", "image": f"{number}.png", "captions": captions}))
    (folder / "rows.jsonl").write_text("\n".join(rows), encoding="utf-8")
    entries = [{"language": "en", "entry": str(number)} for number in range(ROWS)]
    (folder / "entries.jsonl").write_text("\n".join(map(json.dumps, entries)), encoding="utf-8")
    image = TimmTower("resnet10t", options={"channels": [8, 16, 16, 32], "stem_width": 8})
    model = ImageTextModel(image, ByteGRU(32), 32)
    encoder = Encoder(model, ByteTokenizer(), ImagePipeline(size=32), ["en", "lv"], "cosine", "random", 10.0)
    write(encoder, "random", folder / "model")


def commands(folder: Path) -> dict[str, list[str]]:
    shards, model = str(folder / "shards"), str(folder / "model")
    measured = ["--data", shards, "--workers", "0"]
    return {
        "pack": ["pack", "jsonl", str(folder / "rows.jsonl"), "--samples_per_shard", "8", "--workers", "1"],
        "index": ["index", model, *measured, "--batch_size", "4", "--part_size", "8"],
        "embed": ["embed", model, *measured, "--batch_size", "4", "--samples_per_shard", "8"],
        "mine": ["mine", model, *measured, "--batch_size", "4", "--samples_per_shard", "8"],
        "curate": ["curate", shards, "--metadata", str(folder / "entries.jsonl")],
        "export": ["export", model, "--format", "safetensors"],
        "evaluate": ["evaluate", model, *measured],
    }


def start(arguments: list[str], log: Path) -> int:
    """A process of its own, forked so that the imports are paid once."""
    process = os.fork()
    if process:
        return process
    code = 99
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        from mmtrain.cli import main

        code = main(arguments)
        sys.stdout.flush()
    finally:
        os._exit(code)


def end_of(process: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def result(out: Path) -> dict[str, str]:
    """What a folder holds, by name: whatever differs between two undisturbed runs is left out."""
    contents = {}
    for path in sorted(out.rglob("*")):
        if path.is_dir() or path.name.startswith("."):
            continue
        if path.suffix == ".sqlite":
            with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as file:
                content = "\n".join(file.iterdump()).encode()
        else:
            content = path.read_bytes()
        contents[str(path.relative_to(out))] = hashlib.sha256(content).hexdigest()[:16]
    return contents


def try_command(name: str, arguments: list[str], out: Path, kills: int, moments: random.Random) -> str:
    """Kills, repeats and compares; a row of the table. Raises AssertionError where a result is not whole."""
    arguments = [*arguments, "--out", str(out)]
    logs = out.with_name("logs") / name
    logs.mkdir(parents=True)
    began = time.monotonic()
    assert end_of(start(arguments, logs / "first")) == 0, (logs / "first").read_text()
    whole, seconds = result(out), time.monotonic() - began
    rounds = {1: 0, 2: 0}
    for at_once in (1, 2):
        while rounds[at_once] < kills:
            if name in GOING_ON:
                shutil.rmtree(out, ignore_errors=True)
            began = time.monotonic()
            processes = [start(arguments, logs / f"{at_once}-{each}") for each in range(at_once)]
            time.sleep(moments.uniform(0, seconds))
            os.kill(processes[0], signal.SIGKILL)
            ends = [end_of(process) for process in processes]
            rounds[at_once] += ends[0] == -signal.SIGKILL
            if ends[0] == 0:  # it came to its end before the kill
                seconds = 0.9 * min(seconds, time.monotonic() - began)
            for each, code in enumerate(ends[1:], start=1):
                said = (logs / f"{at_once}-{each}").read_text()
                assert code in (0, 1) and "Traceback" not in said, said
            now = result(out)
            if name in GOING_ON:  # what is there is whole, shards.json apart
                now = {file: digest for file, digest in now.items() if file != "shards.json"}
                assert all(whole[file] == digest for file, digest in now.items()), f"{name}: half a shard after a kill"
            else:
                assert now == whole, f"{name}: another result after a kill"
    codes = [end_of(process) for process in [start(arguments, logs / f"two-{each}") for each in range(2)]]
    assert 0 in codes, [(logs / f"two-{each}").read_text() for each in range(2)]
    assert end_of(start(arguments, logs / "last")) == 0, (logs / "last").read_text()
    assert result(out) == whole, f"{name}: another result after the kills"
    left = [path.name for path in out.parent.iterdir() if out.name in path.name and path != out]
    left += [path.name for path in out.rglob(".*")]
    assert not left or name == "evaluate", f"{name} leaves {left}"
    return f"| {name} | {rounds[1]} | {rounds[2]} | {codes} | {len(left)} |"


def run(kills: int, seed: int, report: Callable[[str], None] = print, only: tuple[str, ...] = ()) -> None:
    import faiss  # noqa: F401  imported before the forks
    import torch

    import mmtrain.evaluation.report.report
    import mmtrain.search.building  # noqa: F401

    torch.set_num_threads(1)
    moments = random.Random(seed)
    report("| command | killed alone | killed beside another | two at once end with | hidden files left |")
    report("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_material(folder)
        pack, *_ = commands(folder).values()
        process = start([*pack, "--out", str(folder / "shards")], folder / "packed")
        assert end_of(process) == 0, (folder / "packed").read_text()
        for command, arguments in commands(folder).items():
            if not only or command in only:
                report(try_command(command, arguments, folder / "results" / command, kills, moments))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    run(options.kills, options.seed)
