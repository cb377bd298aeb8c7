"""Our loader beside open_clip's webdataset pipeline and `datasets`, and a million samples packed and read.

    python -m benchmarks.loader                         # crops of two photographs; ten minutes on two cores
    python -m benchmarks.loader --tables                # the same samples as tars, parquet and a folder of `datasets`
    python -m benchmarks.loader --manifest rows.jsonl   # the pictures of a manifest, enlarged where they are smaller
    python -m benchmarks.loader --million               # pack and read once; forty minutes and 4 GB of disk

JPEG of 512 x 512 pixels to 224 pixels and CLIP's tokens, in batches of 64, pictures as uint8 from ours and as
normalised floats from the peer. The two run in turn, the best of the rounds counts. "A core": no reading processes,
torch with one thread, samples by CPU seconds, which other jobs on the machine disturb less than the clock. The peer
runs with the webdataset it asks for (0.2.86 at most) in a virtual environment that this script makes with pip, in
--work if given; everything else it imports from the environment that runs this script. With --tables `datasets` reads
parquet by its cache and as a stream, with open_clip's transforms and tokenizer too, and the row groups that a process
of ours keeps are limited to a quarter of the pictures, as with a data set that no memory holds; each figure is of the
second epoch, when caches are there.
"""

import argparse
import io
import json
import logging
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator, Sequence
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datamodules import ImagePipeline, ShardDataModule, Tokenizer
from datamodules.batch import Batch
from datamodules.shards.encoding import encoded_sample
from datamodules.shards.reader import ShardReader
from datamodules.shards.samples import read_sample
from datamodules.shards.writing import write_shards

SIDE, SIZE, BATCH, SHARDS = 512, 224, 64, 8
PEER = Path(__file__).with_name("loader_peer.py")
PEER_NEEDS = ("webdataset==0.2.86", "pandas")
CROPS = {"peer": (0.9, 1.0), "ours": (0.6, 1.0)}  # default share of the area that a training crop keeps
MEAN = torch.tensor((0.48145466, 0.4578275, 0.40821073)).view(3, 1, 1)
DEVIATION = torch.tensor((0.26862954, 0.26130258, 0.27577711)).view(3, 1, 1)
WORDS = "a red yellow old small large flower temple roof garden sky stone under behind the with and of two in".split()


class ClipTokens(Tokenizer):
    """The tokenizer that the peer uses."""

    vocabulary_size = 49_408

    def __init__(self) -> None:
        from open_clip import get_tokenizer

        self.tokenize = get_tokenizer("ViT-B-32")

    def __call__(self, captions: Sequence[str], languages: Sequence[str]) -> tuple[Tensor, Tensor]:
        ids = self.tokenize(list(captions))
        return ids, ids != 0

    def save(self, folder: str | Path) -> None:
        raise NotImplementedError("a benchmark saves nothing")


# -- the shards


def photographs(count: int) -> Iterator[tuple[Image.Image, str]]:
    """Squares of scikit-learn's two photographs (640 x 427), each somewhere else and enlarged by 1.2 to 1.3."""
    from sklearn.datasets import load_sample_images

    photos = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    rng = random.Random(0)
    for number in range(count):
        photo, side = photos[number % 2], rng.randint(390, 427)
        left, top = rng.randint(0, photo.width - side), rng.randint(0, photo.height - side)
        yield photo.crop((left, top, left + side, top + side)), " ".join(rng.choices(WORDS, k=12))


def pictures_of(manifest: Path, count: int) -> Iterator[tuple[Image.Image, str]]:
    """The pictures of a manifest with the first caption of each, again and again."""
    rows = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
    for number in range(count):
        row = rows[number % len(rows)]
        texts = row["captions"].get("en") or next(iter(row["captions"].values()))
        image = Image.open(manifest.parent / row["image"])
        yield image.convert("RGB"), texts if isinstance(texts, str) else texts[0]


def write(folder: Path, manifest: Path | None, count: int, workers: int = 1) -> None:
    """Shards that both read: .jpg, our .json, and the peer's .txt."""

    def samples(task: dict) -> Iterator[dict]:
        pictures = pictures_of(manifest, count) if manifest else photographs(count)
        for number, (picture, text) in enumerate(pictures):
            if number % SHARDS == task["shard"]:
                jpeg = io.BytesIO()
                picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS).save(jpeg, "JPEG", quality=90)
                record = {"id": str(number), "captions": {"en": text}}
                yield encoded_sample(number, record, jpeg.getvalue()) | {"txt": text.encode()}

    write_shards(folder, [{"shard": shard} for shard in range(SHARDS)], samples, workers=workers, title="making shards")


# -- ours and the peer's


def module(
    shards: Path | str, workers: int, scale: tuple[float, float] = CROPS["peer"], cache: Path | None = None
) -> ShardDataModule:
    made = ShardDataModule(
        train=str(shards),
        val=str(shards),
        batch_size=BATCH,
        workers=workers,
        tokenizer=ClipTokens(),
        images=ImagePipeline(SIZE, scale=scale),
        cache_dir=str(cache or Path(shards) / "cache"),
    )
    made.setup("fit")
    return made


def ours(
    shards: Path | str,
    mode: str,
    workers: int,
    scale: tuple[float, float],
    normalised: bool = False,
    epochs: int = 1,
    cache: Path | None = None,
) -> dict:
    """The figures of the last epoch."""
    data = module(shards, workers, scale, cache)
    for _ in range(epochs - 1):
        for batch in data.train_dataloader():
            data.trained(batch)
    loader = data.train_dataloader() if mode == "train" else data.val_dataloader()
    wall, processor, seen = time.perf_counter(), time.process_time(), 0
    for batch in loader:
        if normalised:
            batch.images.float().div_(255).sub_(MEAN).div_(DEVIATION)
        seen += len(batch.images)
    return {
        "samples": seen,
        "seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - processor,
    }


def environment(folder: Path) -> Path:
    """The peer's python: a virtual environment with its own webdataset, all else from the one that runs this."""
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        venv.create(folder, with_pip=True, clear=True)
        mine = next(path for path in sys.path if path.endswith("site-packages"))
        (theirs,) = folder.glob("lib/python*/site-packages")
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*install, *PEER_NEEDS, f"numpy=={np.__version__}"], check=True)
        (theirs / "shared.pth").write_text(mine + "\n")
        (folder / "ready").touch()
    return python


def peer(python: Path, folder: Path, mode: str, workers: int, scale: tuple[float, float], samples: int, *more) -> dict:
    shards = f"{folder}/shard-{{000000..{SHARDS - 1:06d}}}.tar" if mode != "tables" else folder
    options = {"mode": mode, "samples": samples, "size": SIZE, "batch_size": BATCH, "workers": workers}
    command = [python, PEER, shards, *(f"--{name}={value}" for name, value in options.items())]
    done = subprocess.run(
        [*map(str, command), "--scale", *map(str, scale), *map(str, more)],
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    return json.loads(done.stdout.splitlines()[-1]) if done.stdout.strip() else {}


# -- tables


def write_tables(folder: Path, tables: Path) -> None:
    """What the tars hold as parquet files of some hundred rows a group, and as `datasets` saves it."""
    from datasets import Dataset, Features, Image, Value

    features, reader = Features({"image": Image(), "id": Value("string"), "en": Value("string")}), ShardReader()
    for number, path in enumerate(sorted(map(str, folder.glob("*.tar")))):
        samples = [read_sample(*reader.read(path, sample)) for sample in range(len(reader.index(path)))]
        rows = [
            {"image": {"bytes": each.image, "path": None}, "id": each.id, "en": each.captions["en"][0]}
            for each in samples
        ]
        made = Dataset.from_list(rows, features)
        (tables / "parquet").mkdir(parents=True, exist_ok=True)
        made.to_parquet(tables / "parquet" / f"{number:06d}.parquet", batch_size=len(rows) // 4)
        made.save_to_disk(tables / "saved" / f"{number:06d}")


def table_speed(folder: Path, tables: Path, python: Path, samples: int, rounds: int) -> None:
    """Training, crops of 0.9 to 1, no reading processes, CPU seconds of the second epoch."""
    from datamodules.shards import cache_room, row_groups
    from datamodules.shards import tables as module_of_tables

    room = sum(path.stat().st_size for path in folder.glob("*.tar")) // 4
    saved = "::".join(str(path) for path in sorted((tables / "saved").iterdir()))
    places = {"tars": str(folder), "parquet": str(tables / "parquet"), "folders of datasets": saved}
    readers = {f"ours, {name}": place for name, place in places.items()}
    readers |= {
        "ours, parquet, without room for copies": places["parquet"],
        "open_clip (webdataset), tars": None,
        "datasets, parquet": "map",
        "datasets as a stream, parquet": "stream",
    }
    best = dict.fromkeys(readers, 0.0)
    for _ in range(rounds):
        for name, place in readers.items():
            if name.startswith("ours"):
                module_of_tables.RECENT = row_groups.RowGroups(room)
                cache_room.FREE = 1.1 if "without" in name else 0.1
                run = ours(place, "train", 0, CROPS["peer"], epochs=2, cache=tables / f"cache of {name}")
            elif place is None:
                run = peer(python, folder, "train", 0, CROPS["peer"], samples, "--epochs=2")
            else:
                run = peer(
                    python, tables / "parquet", "tables", 0, CROPS["peer"], samples, "--epochs=2", f"--reading={place}"
                )
            best[name] = max(best[name], run["samples"] / run["cpu_seconds"])
    print("| reader | samples/s and core | of ours from tars |\n|---|---|---|")
    for name, rate in best.items():
        print(f"| {name} | {rate:.0f} | {rate / best['ours, tars']:.2f} |")


# -- the figures


CASES = [  # name, mode, crops, whether ours is normalised too, reading processes
    ("training, crops of 0.9 to 1", "train", "peer", False, 0),
    ("the same, ours normalised in the batch", "train", "peer", True, 0),
    ("training, crops of 0.6 to 1", "train", "ours", False, 0),
    ("evaluation", "evaluate", "peer", False, 0),
    ("training, crops of 0.9 to 1, two readers, by the clock", "train", "peer", False, 2),
]


def speed(folder: Path, python: Path, samples: int, rounds: int) -> None:
    mine, theirs = {case: 0.0 for case in CASES}, {}
    for _ in range(rounds):
        for case in CASES:
            _, mode, crops, normalised, workers = case
            seconds = "seconds" if workers else "cpu_seconds"
            run = ours(folder, mode, workers, CROPS[crops], normalised)
            mine[case] = max(mine[case], run["samples"] / run[seconds])
            if not normalised:
                run = peer(python, folder, mode, workers, CROPS[crops], samples)
                key = mode, crops, workers
                theirs[key] = max(theirs.get(key, 0.0), run["samples"] / run[seconds])
    print("| case | ours, samples/s and core | open_clip | factor |\n|---|---|---|---|")
    for case, best in mine.items():
        name, mode, crops, _, workers = case
        other = theirs[mode, crops, workers]
        print(f"| {name} | {best:.0f} | {other:.0f} | {best / other:.2f} |")


def differences(folder: Path, python: Path) -> None:
    """Reduced decoding beside full decoding of the same crops; our evaluation view beside the peer's."""
    encoded, reader = [], ShardReader()
    for path in sorted(map(str, folder.glob("*.tar"))):
        encoded += [read_sample(*reader.read(path, number)).image for number in range(len(reader.index(path)))]
    for scale in CROPS.values():
        pipeline, apart = ImagePipeline(SIZE, scale=scale), []
        for number, content in enumerate(encoded[:500]):
            reduced = pipeline.train(pipeline.open(content), random.Random(number))
            # a copy is no JPEG any more, so it is decoded in full
            full = pipeline.train(pipeline.open(content).convert("RGB").copy(), random.Random(number))
            apart.append((reduced.int() - full.int()).abs().float().mean().item())
        print(
            f"reduced and full decoding, crops of {scale[0]} to {scale[1]:.0f}: {np.mean(apart):.2f} of 255 apart on "
            f"average, the worst picture {max(apart):.2f}"
        )
    theirs = folder / "evaluation.pt"
    peer(python, folder, "evaluate", 0, CROPS["peer"], BATCH, "--save", theirs)
    batch: Batch = next(iter(module(folder, 0).val_dataloader()))
    distance = (batch.images.int() - torch.load(theirs, weights_only=True).int()).abs()
    print(f"evaluation, ours and the peer's pixels: {int(distance.max())} of 255 apart at most, over {BATCH} pictures")


# -- a million


def peak_mib(process: int | str) -> float:
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def million(folder: Path, count: int) -> None:
    """Packs a generated manifest with the command line and reads every sample once, with two processes each."""
    rng = np.random.default_rng(0)
    for number in range(1000):
        pixels = rng.integers(0, 255, (4, 4, 3), np.uint8)
        Image.fromarray(pixels).resize((32, 32)).save(folder / f"{number}.jpg")
    with open(folder / "rows.jsonl", "w", encoding="utf-8") as file:
        for number in range(count):
            captions = {"en": f"picture {number}", "lv": f"attēls {number}", "ja": f"写真 {number}"}
            row = {"id": str(number), "image": f"{number % 1000}.jpg", "captions": captions}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    command = ["pack", "jsonl", folder / "rows.jsonl", "--out", folder / "shards", "--workers", 2]
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-m", "mmtrain.cli", *map(str, command)], check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - begun
    most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"| {count:,} generated samples | minutes | samples/s | peak memory of a process, MiB |\n|---|---|---|---|")
    print(f"| pack jsonl, 2 processes | {seconds / 60:.1f} | {count / seconds:.0f} | {most:.0f} |", flush=True)
    begun = time.perf_counter()
    data = ShardDataModule(
        train=str(folder / "shards"),
        batch_size=250,
        captions_per_image=2,
        workers=2,
        images=ImagePipeline(32),
        cache_dir=str(folder / "cache"),
    )
    data.setup("fit")
    seen, early = np.zeros(count, bool), {}
    for batch in data.train_dataloader():
        data.trained(batch)
        seen[[int(name) for name in batch.ids]] = True
        if data.position >= count // 10:
            late = {"trainer": peak_mib("self")} | {"reader": max(peak_mib(child.pid) for child in active_children())}
            early = early or late
    seconds = time.perf_counter() - begun
    print(
        f"| read once, 2 readers: {seen.sum():,} different | {seconds / 60:.1f} | {count / seconds:.0f} | reader "
        f"{early['reader']:.0f} after a tenth, {late['reader']:.0f} at the end; trainer {early['trainer']:.0f}, "
        f"{late['trainer']:.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--manifest", type=Path, help="JSON Lines as `mmtrain pack jsonl` reads them")
    parser.add_argument("--samples", type=int, help="default: 640 a round, with --million 1,000,000")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--million", action="store_true")
    parser.add_argument("--tables", action="store_true")
    parser.add_argument("--work", type=Path, help="folder to keep the peer's environment in; default: a temporary one")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as temporary:
        if options.million:
            million(Path(temporary), options.samples or 1_000_000)
        else:
            samples = options.samples or 640
            python = environment((options.work or Path(temporary)) / "peer")
            write(Path(temporary) / "shards", options.manifest, samples)
            size = sum(tar.stat().st_size for tar in Path(temporary).glob("shards/*.tar")) / samples
            print(f"{samples} samples of {size / 1024:.0f} KiB, best of {options.rounds}\n")
            if options.tables:
                write_tables(Path(temporary) / "shards", Path(temporary) / "tables")
                table_speed(*(Path(temporary) / name for name in ("shards", "tables")), python, samples, options.rounds)
                return
            speed(Path(temporary) / "shards", python, samples, options.rounds)
            print()
            differences(Path(temporary) / "shards", python)


if __name__ == "__main__":
    main()
