"""How long does `mmtrain serve` take for an answer?

    python -m benchmarks.serving            # two minutes on one core
    python -m benchmarks.serving --tokens   # with 196 token rows of width 128 a picture, 2.4 GiB; four minutes

An index of 100,000 random rows of width 256 with captions and a picture each, a model that was not trained (a byte GRU
of width 256 reads the text), and a server process of its own on this machine. 100 different texts one after the other,
k = 10, each on a connection of its own, after five to warm up; then as many over /v1/embeddings and as pages. Token
rows are random, in 8 bits; those of 100 candidates are read for each text, which ranks them by late interaction.
"""

import argparse
import http.client
import io
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path

ROWS, WIDTH, REQUESTS, WARM = 100_000, 256, 100, 5
PATCHES, TOKEN_WIDTH = 196, 128


def make_model(folder: Path, tokens: bool) -> Path:
    from datamodules import ByteTokenizer, ImagePipeline
    from mmtrain.export.writing import write
    from mmtrain.models.encoder import Encoder
    from mmtrain.models.image_text import ImageTextModel
    from mmtrain.towers import ByteGRU, TimmTower

    image = TimmTower("resnet10t", options={"channels": [8, 16, 16, 32], "stem_width": 8})
    model = ImageTextModel(image, ByteGRU(256), WIDTH, multi={"dimension": TOKEN_WIDTH} if tokens else None)
    encoder = Encoder(model, ByteTokenizer(), ImagePipeline(size=64), ["en", "lv"], "cosine", "random", 10.0)
    return write(encoder, "random", folder / "model")


def make_index(folder: Path, model: Path, tokens: bool) -> Path:
    import faiss
    import numpy as np
    from PIL import Image

    from mmtrain.models.fingerprint import fingerprint, stamp
    from mmtrain.models.loading import load
    from mmtrain.search.items import ItemWriter
    from mmtrain.search.kinds import build_index

    out = folder / "index"
    out.mkdir()
    rows = np.random.default_rng(0).standard_normal((ROWS, WIDTH), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    np.save(out / "rows.npy", rows)
    faiss.write_index(build_index(rows, "flat", "cosine"), str(out / "index.faiss"))
    picture = io.BytesIO()
    Image.effect_noise((96, 96), 60).convert("RGB").save(picture, "JPEG")
    writer = ItemWriter(out / "items.sqlite")
    names = [(number, f"p{number}", picture.getvalue()) for number in range(ROWS)]
    captions = [(number, language, f"picture {number}") for number in range(ROWS) for language in ("en", "lv")]
    writer.add(names, captions)
    writer.close()
    description = {
        "format": 1,
        "model": str(model),
        "fingerprint": fingerprint(load(model)),
        "weights": stamp(str(model)),
    }
    description |= {"similarity": "cosine", "data": "random", "kind": "flat", "candidates": 100, "faiss": "Flat"}
    description |= {"width": WIDTH, "images": ROWS, "captions": {"en": ROWS, "lv": ROWS}, "skipped": {}, "recall": None}
    if tokens:
        write_tokens(out)
        description["tokens"] = {"dtype": "int8", "budget": None, "width": TOKEN_WIDTH, "rows": ROWS * PATCHES}
    (out / "index.json").write_text(json.dumps(description), encoding="utf-8")
    return out


def write_tokens(out: Path) -> None:
    import numpy as np

    from mmtrain.search.tokens import CLUSTERS, STARTS, TOKENS

    shape = ROWS * PATCHES, TOKEN_WIDTH
    rows = np.lib.format.open_memmap(out / TOKENS, "w+", np.int8, shape)
    generator = np.random.default_rng(0)
    for start in range(0, len(rows), 2**20):
        part = rows[start : start + 2**20]
        part[:] = generator.integers(-127, 128, part.shape, np.int8)
    rows.flush()
    np.save(out / STARTS, np.arange(ROWS + 1) * PATCHES)
    np.save(out / CLUSTERS, np.tile(np.arange(PATCHES, dtype=np.int16), (ROWS, 1)))


def seconds(port: int, request: Callable[[str], tuple[str, str, str | None]]) -> list[float]:
    """Of each answer, by what a text asks: method, address, body."""
    taken = []
    for number in range(-WARM, REQUESTS):
        method, address, body = request(f"a picture of the number {number} in the old town")
        started = time.perf_counter()
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request(method, address, body, {"Content-Type": "application/json"} if body else {})
        answer = connection.getresponse()
        answer.read()
        taken.append(time.perf_counter() - started)
        connection.close()
        assert answer.status == 200, answer.status
    return sorted(taken[WARM:])


def processor_seconds(process: int) -> float:
    """What a process has taken so far, on all cores."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def run(tokens: bool) -> float:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = make_model(folder, tokens)
        command = ["serve", str(make_index(folder, model, tokens)), "--port", "0", "--device", "cpu"]
        server = subprocess.Popen([sys.executable, "-m", "mmtrain.cli", *command], stderr=subprocess.PIPE, text=True)
        assert server.stderr is not None
        line = next(line for line in server.stderr if "http://" in line)
        port = int(line.strip().rstrip("/").rpartition(":")[2])
        asked: dict[str, Callable[[str], tuple[str, str, str | None]]] = {
            "/search": lambda text: ("GET", f"/search?k=10&{urllib.parse.urlencode({'text': text})}", None),
            "the page": lambda text: ("GET", f"/?k=10&{urllib.parse.urlencode({'text': text})}", None),
            "/v1/embeddings": lambda text: ("POST", "/v1/embeddings", json.dumps({"input": text})),
        }
        try:
            medians = {}
            for what, request in asked.items():
                started = processor_seconds(server.pid)
                taken = seconds(port, request)
                used = 1000 * (processor_seconds(server.pid) - started) / (WARM + REQUESTS)
                medians[what] = 1000 * taken[REQUESTS // 2]
                spread = f"95 of 100 within {1000 * taken[94]:.1f} ms"
                print(f"{what}: median {medians[what]:.1f} ms, {spread}, {used:.1f} ms of processors each")
        finally:
            server.terminate()
            server.wait()
    return medians["/search"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", action="store_true")
    run(parser.parse_args().tokens)
