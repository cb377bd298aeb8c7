"""Do other libraries give an exported model's rows, and how fast are exported graphs beside eager PyTorch?

    python -m benchmarks.export                 # ten minutes on two cores; node and npm for transformers.js
    python -m benchmarks.export runs/quickstart # the same of a model of yours

Rows: exports to each format that holds the model and reads it by a program of benchmarks/readers, which never imports
mmtrain, with the 100 pictures and 104 captions of `mmtrain export`. Prints the largest difference of a coordinate of
the unit rows, or the line by which the format refuses the model. Captions for open_clip are compared as it cleans them.
transformers.js gets the pictures twice: cut to the model's size by Pillow before, and whole, since it resizes in
another way.

Speed: encodes the same pixels and tokens by onnxruntime and by the model itself, in alternating blocks; the minimum of
the repetitions counts. Without a model: the quickstart's towers, and a ViT-S/16 of 224 pixels, with random weights.
Prints milliseconds for a batch.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, pre_tokenizers, processors, trainers
from tokenizers import models as tokenizer_models
from transformers import PreTrainedTokenizerFast

from benchmarks.readers import NODE, PACKAGE, PYTHON, install, rows_of
from datamodules import ByteTokenizer, ImagePipeline, TransformersTokenizer
from datamodules.numbers.corpus import words
from mmtrain.export import onnx_folder, open_clip_folder
from mmtrain.export.parity import captions, images
from mmtrain.export.writing import write
from mmtrain.models.encoder import Encoder
from mmtrain.models.image_text import ImageTextModel
from mmtrain.models.loading import load, load_onnx
from mmtrain.towers import ByteGRU, TimmTower, TransformersTower

BATCHES, ROUNDS = (1, 32), 2
XLM_R = {"model_type": "xlm-roberta", "hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 6}
XLM_R |= {"num_attention_heads": 6, "max_position_embeddings": 130, "pad_token_id": 1, "type_vocab_size": 1}


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


def xlm_r(folder: Path) -> Encoder:
    """A ViT-S/16 and a small XLM-R of random weights, which every format holds."""
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    pieces = Tokenizer(tokenizer_models.BPE())
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel()
    pieces.train_from_iterator(
        [text for language in ("en", "lv", "ru", "ar", "ja") for text in words(language)], trainer
    )
    pieces.post_processor = processors.TemplateProcessing("<s> $A </s>", None, [("<s>", 0), ("</s>", 2)])
    named = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=pieces, **named).save_pretrained(folder)
    tokenizer = TransformersTokenizer(str(folder), max_length=128)
    text = TransformersTower(config=XLM_R | {"vocab_size": tokenizer.vocabulary_size}, pooling="cls")
    network = ImageTextModel(TimmTower("vit_small_patch16_224"), text, 256)
    return Encoder(network, tokenizer, ImagePipeline(size=224), [], "cosine", "XLM-R", scale=20.0)


def print_rows(name: str, encoder: Encoder, place: Path) -> None:
    """A line of the table for each format and program that reads it."""
    pictures, texts = images(encoder), [text for part in captions(encoder).values() for text in part]
    assert isinstance(pictures, list)
    cut = [Image.fromarray(encoder.images.evaluate(picture).permute(1, 2, 0).numpy()) for picture in pictures]
    image = encoder.encode_image(pictures)
    missing = install(place)
    for format, program in PYTHON.items():
        folder = place / format
        try:
            with redirect_stdout(sys.stderr):  # what it says is no line of the table
                write(encoder, name, folder, format)
        except ValueError as error:
            print(f"| {name} | {format} | {error} | | |")
            continue
        read = [open_clip_folder.cleaned(encoder, text) for text in texts] if format == "open_clip" else texts
        text = encoder.encode_text(read)
        reader = program.removeprefix("with_").removesuffix(".py").replace("_and_", ", ")
        runs = [(reader, program, pictures, ())]
        if format == "transformers_js" and not missing:
            runs += [(f"{PACKAGE}, {kind}", NODE, cut, (kind,)) for kind in ("fp32", "fp16", "q8")]
            runs.append((f"{PACKAGE}, fp32, its own resizing", NODE, pictures, ("fp32",)))
        for reader, reading, probes, options in runs:
            theirs = rows_of(reading, folder, probes, texts, place, *options)
            figures = f"{compared(image, theirs['image'])} | {compared(text, theirs['text'])}"
            print(f"| {name} | {format} | {reader} | {figures} |", flush=True)
    if missing:
        print(f"| {name} | transformers_js | {PACKAGE} | {missing} | |")


def compared(ours: np.ndarray, theirs: np.ndarray) -> str:
    """The largest difference of a coordinate; beyond 1e-4 the least cosine too."""
    difference = np.abs(ours - theirs).max()
    cosine = ((ours * theirs).sum(1) / np.linalg.norm(theirs, axis=1)).min()
    return f"{difference:.1e}" + (f", cosine {cosine:.4f}" if difference > 1e-4 else "")


def run(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        chosen = models(options.models)
        if not options.models:
            name, encoder = next(iter(chosen.items()))
            chosen = {name: encoder, "ViT-S/16 and XLM-R, 6 layers": xlm_r(place / "tokenizer")}
        print("| model | format | read by | pictures | captions |\n|---|---|---|---|---|")
        for name, encoder in chosen.items():
            print_rows(name, encoder, place)
    print("\n| model | side | batch | onnxruntime, ms | PyTorch, ms | ratio |\n|---|---|---|---|---|---|")
    for name, encoder in models(options.models).items():
        print_speed(name, encoder, options.seconds)


def print_speed(name: str, encoder: Encoder, seconds: float) -> None:
    """Lines for both sides at each batch size."""
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
                        seconds,
                    )
                print(f"| {name} | {side} | {batch} | {exported:.2f} | {eager:.2f} | {exported / eager:.2f} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", metavar="MODEL")
    parser.add_argument("--seconds", type=float, default=5, help="of measuring for each row")
    run(parser.parse_args())
