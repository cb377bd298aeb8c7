"""How fast are exported graphs beside eager PyTorch, at batches of 1 and 32?

    python -m benchmarks.export                 # two minutes on two cores
    python -m benchmarks.export runs/quickstart # the same of a model of yours

Exports to ONNX, then encodes the same pixels and tokens by onnxruntime and by the model itself, in alternating blocks;
the minimum of the repetitions counts. Without a model: the quickstart's towers, and a ViT-S/16 of 224 pixels, both with
random weights. Prints milliseconds for a batch.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from datamodules import ByteTokenizer, ImagePipeline
from datamodules.numbers.corpus import words
from mmtrain.export import onnx_folder
from mmtrain.models.encoder import Encoder
from mmtrain.models.image_text import ImageTextModel
from mmtrain.models.loading import load, load_onnx
from mmtrain.towers import ByteGRU, TimmTower

BATCHES, ROUNDS = (1, 32), 2


def models(names: list[str]) -> dict[str, Encoder]:
    if names:
        return {name: load(name) for name in names}
    small = TimmTower("resnet10t", options={"channels": [24, 48, 96, 192], "stem_width": 16})
    towers = {"quickstart's towers, 64 px": (small, 64), "ViT-S/16, 224 px": (TimmTower("vit_small_patch16_224"), 224)}
    return {
        name: Encoder(
            ImageTextModel(image, ByteGRU(width=256), 128),
            ByteTokenizer(),
            ImagePipeline(size=size),
            [],
            "cosine",
            name,
        )
        for name, (image, size) in towers.items()
    }


def fastest(calls: list[Callable[[], object]], seconds: float) -> list[float]:
    """The least milliseconds of each, in blocks that alternate: threads of the one still spin after its last call."""
    best = [float("inf")] * len(calls)
    for _ in range(ROUNDS):
        for index, call in enumerate(calls):
            time.sleep(0.3)
            call()
            end = time.perf_counter() + seconds / ROUNDS / len(calls)
            while time.perf_counter() < end:
                started = time.perf_counter()
                call()
                best[index] = min(best[index], time.perf_counter() - started)
    return [1000 * value for value in best]


def run(options: argparse.Namespace) -> None:
    print("| model | side | batch | onnxruntime, ms | PyTorch, ms | ratio |\n|---|---|---|---|---|---|")
    for name, encoder in models(options.models).items():
        with tempfile.TemporaryDirectory() as folder:
            onnx_folder.write(encoder, Path(folder))
            graphs = load_onnx(Path(folder)).model
            for batch in BATCHES:
                size = encoder.images.size
                pixels = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8)
                tokens, mask = encoder.tokenizer([words("en")[number] for number in range(batch)], ["en"] * batch)
                for side, inputs in (("image", (pixels,)), ("text", (tokens, mask))):
                    ours, theirs = (getattr(model, f"encode_{side}") for model in (graphs, encoder.model))
                    with torch.inference_mode():
                        exported, eager = fastest(
                            [
                                lambda ours=ours, inputs=inputs: ours(*inputs),
                                lambda theirs=theirs, inputs=inputs: theirs(*inputs),
                            ],
                            options.seconds,
                        )
                    print(f"| {name} | {side} | {batch} | {exported:.2f} | {eager:.2f} | {exported / eager:.2f} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", metavar="MODEL")
    parser.add_argument("--seconds", type=float, default=5, help="of measuring for each row")
    run(parser.parse_args())
