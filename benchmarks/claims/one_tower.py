"""CLIPPO (Tschannen et al. 2023): one tower reads pictures, and texts as pictures.

`one_tower`: on emoji it comes to 0.85 of what two towers do, with fewer weights; 4 minutes a training.
configs/pretrain/clippo_tiny.yaml with names in four languages, and the same with a second transformer of its size, over
bytes, in place of `text: shared`. One maker's pictures are trained, the other's found by name.

`related_languages`: read as pixels, languages that are not trained are found as well as read as bytes, 8 minutes a
training. Handwritten numbers with captions in twelve languages in Latin script; asked are unseen numbers in four others
whose number words are related to some of them. Words, beside both, are unknown there. The picture side is the same.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.claims.emoji import packed
from benchmarks.claims.record import Claim, Expected, Figures, Recipe, Runs
from benchmarks.runs import evaluated, fitted, run
from datamodules import ByteTokenizer, WordTokenizer

PAGE = "clippo_tiny.yaml"
TRAINED = ["cs", "da", "de", "en", "es", "fi", "fr", "hu", "it", "lv", "nl", "pl"]
RELATED = ["no", "pt", "sk", "sv"]
STEPS = {"one_tower": 800, "related_languages": 1500}
SHARED, TWO = "one tower", "two towers"
PIXELS, BYTES, WORDS = "pixels, one tower", "bytes, two towers", "words, two towers"
# a text tower of the size of clippo_tiny.yaml's one tower
SIZE = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 512}


def text_tower(tokenizer: dict[str, Any], vocabulary_size: int) -> dict[str, Any]:
    config = {"model_type": "bert", "vocab_size": vocabulary_size, **SIZE}
    tower = {"class_path": "mmtrain.towers.TransformersTower", "init_args": {"config": config, "pooling": "attention"}}
    return {"data.tokenizer": tokenizer, "model.text": tower}


BYTE_TOWER = text_tower({"class_path": "datamodules.ByteTokenizer"}, ByteTokenizer.vocabulary_size)
SHARE = 0.85
ENOUGH = f"R@10, of two towers {SHARE:.2f} times"


def weights(out: Path) -> float:
    """Of a run's towers and projections, in thousands."""
    state = torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return sum(each.numel() for name, each in state.items() if name.startswith("model.")) / 1000


def on_emoji(runs: Runs) -> dict[str, Recipe]:
    shards = packed(runs.folder)

    def measured(name: str, options: dict[str, Any], seed: int, split: str) -> Figures:
        given = {"trainer.max_steps": STEPS["one_tower"], **options}
        out = fitted(PAGE, runs.folder / name.replace(" ", "_") / str(seed), seed, given)
        found = evaluated(out, shards["twemoji"])["text_to_image"]["mean"]
        share = SHARE if name == TWO else 1
        figures = {"R@1": found["R@1"], "R@10": found["R@10"], ENOUGH: share * found["R@10"]}
        return figures | {"weights in thousands": weights(out)}

    given = {"data.train": str(shards["noto"])}
    return {name: Recipe(partial(measured, name, given | own)) for name, own in {SHARED: {}, TWO: BYTE_TOWER}.items()}


def on_numbers(runs: Runs) -> dict[str, Recipe]:
    shards = {split: runs.folder / "shards" / split for split in ("train", "test")}
    for split, out in shards.items():
        if not (out / "shards.json").is_file():
            languages = TRAINED + RELATED * (split == "test")
            run("pack", "numbers", "--split", split, "--languages", json.dumps(languages), "--out", out)
    vocabulary = runs.folder / "words.json"
    size = WordTokenizer.build(str(shards["train"]), vocabulary, shared=True).vocabulary_size
    tokenizer = {"class_path": "datamodules.WordTokenizer", "init_args": {"vocabulary": str(vocabulary)}}

    def measured(name: str, options: dict[str, Any], seed: int, split: str) -> Figures:
        given = {"trainer.max_steps": STEPS["related_languages"], "data.train": str(shards["train"])}
        given |= {"data.languages": TRAINED}
        out = fitted(PAGE, runs.folder / name.partition(",")[0] / str(seed), seed, given | options)
        found = evaluated(out, shards["test"], "--languages", json.dumps(TRAINED + RELATED))["text_to_image"]
        groups = {"trained languages": TRAINED, "related languages": RELATED}
        figures = {
            f"{rank}, {title}": sum(found[each][rank] for each in group) / len(group)
            for rank in ("R@1", "R@10")
            for title, group in groups.items()
        }
        return figures | {f"R@10, {each}": found[each]["R@10"] for each in RELATED}

    options = {PIXELS: {}, BYTES: BYTE_TOWER, WORDS: text_tower(tokenizer, size)}
    return {name: Recipe(partial(measured, name, own)) for name, own in options.items()}


CLAIMS = {
    "one_tower": Claim(
        "CLIPPO (Tschannen et al. 2023)",
        f"one tower for pictures and rendered names has at least {SHARE:.2f} of the R@10 of two, with fewer weights",
        on_emoji,
        [(SHARED, TWO)],
        [
            Expected(SHARED, "R@10", above=5 * 1000 / 1309),  # five times chance among the other maker's pictures
            Expected(f"{SHARED} over {TWO}", ENOUGH, reaches=0),
            Expected(f"{SHARED} over {TWO}", "weights in thousands", below=0),
        ],
    ),
    "related_languages": Claim(
        "CLIPPO (Tschannen et al. 2023)",
        "languages that are not trained are read as pixels no worse than as bytes, and better than as words",
        on_numbers,
        [(PIXELS, BYTES), (PIXELS, WORDS), (BYTES, WORDS)],
        [
            Expected(f"{PIXELS} over {BYTES}", "R@10, related languages", reaches=0),
            Expected(f"{PIXELS} over {WORDS}", "R@10, related languages", above=0),
        ],
    ),
}
