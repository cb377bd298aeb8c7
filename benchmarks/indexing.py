"""How many images a second does `mmtrain index` embed, beside a plain loop over the same shards?

    python -m benchmarks.indexing           # a minute on one core

1,200 JPEGs of 320 x 256 with three captions each and a tiny model, so that what stands around the model shows. The loop
reads the tars with webdataset, prepares each image as the model does, embeds batches of 64 and adds the rows to FAISS:
no ids, captions, thumbnails, skips or parts that outlive a kill. Both in one process, by CPU time, in turns; the best
of the rounds counts.
"""

import argparse
import contextlib
import io
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
IMAGES, BATCH = 1200, 64


def make_shards(folder: Path) -> Path:
    import numpy as np
    from PIL import Image

    from mmtrain.cli import main

    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    base = Image.fromarray(noise).resize((320, 256), Image.Resampling.BICUBIC)
    rows = []
    for number in range(IMAGES):
        base.rotate(number * 360 / IMAGES).save(folder / f"{number}.jpg", quality=90)
        captions = {"en": f"a picture {number}", "lv": f"attēls numur {number}", "de": f"Bild Nummer {number}"}
        rows.append(json.dumps({"id": f"p{number}", "image": f"{number}.jpg", "captions": captions}))
    (folder / "rows.jsonl").write_text("\n".join(rows), encoding="utf-8")
    arguments = ["pack", "jsonl", str(folder / "rows.jsonl"), "--out", str(folder / "shards"), "--workers", "1"]
    if main(arguments):
        sys.exit(1)
    return folder / "shards"


def make_model(folder: Path) -> Path:
    from datamodules import ByteTokenizer, ImagePipeline
    from mmtrain.export.writing import write
    from mmtrain.models.encoder import Encoder
    from mmtrain.models.image_text import ImageTextModel
    from mmtrain.towers import ByteGRU, TimmTower

    image = TimmTower("resnet10t", options={"channels": [8, 16, 16, 32], "stem_width": 8})
    model = ImageTextModel(image, ByteGRU(32), 32)
    encoder = Encoder(model, ByteTokenizer(), ImagePipeline(size=64), ["en", "lv", "de"], "cosine", "random", 10.0)
    return write(encoder, "random", folder / "model")


def by_index(model: Path, shards: Path, out: Path) -> None:
    from mmtrain.cli import main

    shutil.rmtree(out, ignore_errors=True)
    if main(["index", str(model), "--data", str(shards), "--out", str(out), "--workers", "0"]):
        sys.exit(1)


def by_loop(model: Path, shards: Path) -> None:
    import faiss
    import torch
    import webdataset
    from PIL import Image

    from mmtrain.models.loading import load

    encoder = load(model)
    index = faiss.IndexFlatIP(encoder.model.dimension)
    pixels: list[torch.Tensor] = []

    def add() -> None:
        with torch.inference_mode():
            index.add(encoder.model.encode_image(torch.stack(pixels)).numpy())
        pixels.clear()

    for shard in sorted(shards.glob("*.tar")):
        for sample in webdataset.WebDataset(str(shard), shardshuffle=False):
            pixels.append(encoder.images.evaluate(Image.open(io.BytesIO(sample["jpg"]))))
            if len(pixels) == BATCH:
                add()
    add()
    assert index.ntotal == IMAGES


def seconds(call: Callable[[], None]) -> float:
    started = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        call()
    return time.process_time() - started


def run(rounds: int) -> float:
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, shards = make_model(folder), make_shards(folder)
        both: list[Callable[[], None]] = [
            lambda: by_index(model, shards, folder / "index"),
            lambda: by_loop(model, shards),
        ]
        times = [[seconds(each) for each in both] for _ in range(rounds)]
    ours, loop = (IMAGES / min(each) for each in zip(*times, strict=True))
    print(f"mmtrain index {ours:.0f} images a second, plain loop {loop:.0f}: {ours / loop:.2f}")
    return ours / loop


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    run(parser.parse_args().rounds)
