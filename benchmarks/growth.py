"""Whether work grows no faster than what is given to it: CPU seconds at n, 2n, 4n and 8n, one row a question.

    python -m benchmarks.growth            # all rows, a few minutes on one core
    python -m benchmarks.growth pack       # rows whose name has the word
    python -m benchmarks.growth --share 4  # a quarter of each n

The last column is what 8n costs over n: 8 is linear, 64 quadratic, less where a fixed cost outweighs both.
"""

import argparse
import contextlib
import io
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

Work = Callable[[], object]  # what is timed, made ready for an n


def shards(n: int, languages: int = 1) -> Path:
    """n shards of one sample in a new folder."""
    with contextlib.redirect_stdout(io.StringIO()):
        return packing(n, languages)()


def packing(n: int, languages: int = 1) -> Callable[[], Path]:
    from datamodules.packing import pack_rows, read_jsonl

    captions = {f"l{number}": "a word" for number in range(languages)}
    source = manifest(n, captions=captions)
    out = source.parent / "shards"

    def pack() -> Path:
        pack_rows(read_jsonl(source), out, images=source.parent, samples_per_shard=1, workers=1)
        return out

    return pack


def manifest(n: int, **keys: object) -> Path:
    """Rows of one picture each; a value of `keys` may have a place for the row's number."""
    from PIL import Image

    folder = Path(tempfile.mkdtemp(dir=os.environ["GROWTH"]))
    Image.new("RGB", (16, 16)).save(folder / "p.png")
    row = json.dumps({"id": "i{n}", "image": "p.png", "captions": {"en": "a word"}} | keys)
    lines = (row.replace("{n}", str(number)) for number in range(n))
    (folder / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder / "rows.jsonl"


def inspecting(n: int) -> Work:
    from datamodules.shards.inspection import inspect_shards

    folder = shards(n)
    return lambda: inspect_shards(str(folder), workers=1)


def stories(n: int) -> Work:
    from datamodules.packing import read_stories

    source = manifest(n, story="s{n}")
    return lambda: sum(1 for _ in read_stories(source))


def summarising(n: int) -> Work:
    from mmtrain.evaluation import rank_retrieval, summarise

    random = np.random.default_rng(0)
    image = random.standard_normal((100, 8))
    own = np.tile(np.arange(100), n)
    text = image[own] + random.standard_normal((100 * n, 8))
    ranks = rank_retrieval(image, text, own, np.repeat([f"l{number:04d}" for number in range(n)], 100))
    return lambda: summarise(ranks, bootstrap=100)


def sources(n: int) -> Work:
    from datamodules import AsWritten, ImagePipeline, Source
    from datamodules.shards.locations import Reading
    from datamodules.stream.mixture import survey_sources

    source = Source(str(shards(100, languages=n)), languages=[f"l{number}" for number in range(n)])
    others = {"images": ImagePipeline(), "text": AsWritten(), "languages": None, "reading": Reading("und", None, False)}
    return lambda: survey_sources([source], field="data.train", **others)  # type: ignore[arg-type]


def drawing(n: int) -> Work:
    from datamodules.stream.streams import Stream

    having = np.arange(n) % 2 == 0
    stream = Stream([int(having.sum())], having=[np.packbits(having)])
    return lambda: [stream.sample(0, number % stream.counts[0]) for number in range(2000)]


def classes(n: int) -> Work:
    from mmtrain.evaluation.measuring.classes import check_labels

    labels = [str(number % n) for number in range(50_000)]
    names = {"en": {str(number): "a word" for number in range(n)}}
    return lambda: check_labels(names, labels, "the shards", "the file")


ROWS: dict[str, tuple[int, Callable[[int], Work]]] = {
    "pack, n shards of one sample": (200, packing),
    "inspect, n shards of one sample": (200, inspecting),
    "pack stories, n stories of one page": (1000, stories),
    "summarise, 100 pictures in n languages": (50, summarising),
    "a source's n languages checked, 100 shards": (25, sources),
    "2,000 draws by language, a shard of n samples": (10_000, drawing),
    "--classes, n classes, 50,000 pictures": (100, classes),
}


def seconds(work: Work) -> float:
    begin = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        work()
    return time.process_time() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("row", nargs="?", default="", help="a word of the rows to run; default: all")
    parser.add_argument("--share", type=int, default=1, metavar="N", help="divide each n by this")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GROWTH"] = folder
        for name, (n, prepare) in ROWS.items():
            if options.row in name:
                sizes = [factor * max(1, n // options.share) for factor in (1, 2, 4, 8)]
                seconds(prepare(sizes[0]))  # imports, caches
                taken = [seconds(prepare(size)) for size in sizes]
                figures = ", ".join(f"{each:.2f}" for each in taken)
                print(f"{name} (n = {sizes[0]:,}): {figures} s; 8n over n {taken[-1] / max(taken[0], 1e-3):.1f}")


if __name__ == "__main__":
    main()
