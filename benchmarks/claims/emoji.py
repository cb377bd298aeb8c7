"""Claims of RS-M-CLIP (Silva et al. 2024) on emoji: one maker's pictures are trained, the other's found by name.

`translations`: names in nine further languages help English, 3 minutes a training. configs/pretrain/tiny.yaml in
English alone, with one name in a random language of ten, and with 1-to-K over all ten.

`crops`: self-distillation helps where a picture is a crop, 6 minutes a training. configs/pretrain/rs_m_clip_tiny.yaml
with and without it; asked are the other maker's pictures whole, and a window of half of each, at a place drawn once.

Both in equal steps on the same pictures in the same order. EMOJI in the environment names the folder that holds
noto.jsonl and twemoji.jsonl with their pictures, else emoji/ here.
"""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.claims.record import Claim, Expected, Figures, Recipe, Runs
from benchmarks.runs import evaluated, fitted, run
from datamodules.files import write_whole

EMOJI = Path(os.environ.get("EMOJI", "emoji"))
LANGUAGES = ["en", "pt", "es", "fr", "de", "nl", "it", "zh", "ko", "ru"]  # RS-M-CLIP's
STEPS = {"translations": 400, "crops": 800}
ENGLISH, ONE, TOGETHER = "English alone", "one of ten languages", "1-to-K of ten languages"
NAMES = {
    ENGLISH: {"data.languages": ["en"]},
    ONE: {"data.languages": LANGUAGES},
    TOGETHER: {"data.languages": LANGUAGES, "data.captions_per_image": "all"},
}
ALONE, DISTILLED = "contrast alone", "+ self-distillation"
FIELDS = {
    ALONE: {"model.objectives": {"contrast": {"class_path": "losses.ClipLoss"}}, "data.fields": {}},
    DISTILLED: {},
}
HALF = 0.5**0.5  # of a side


def packed(folder: Path) -> dict[str, Path]:
    """Shards of the trained maker, of the other one, and of windows of the other one's pictures."""
    shards = {name: folder.parent / "emoji" / name for name in ("noto", "twemoji", "windows")}
    for name, out in shards.items():
        if not (out / "shards.json").is_file():
            manifest = windows(out.parent / "cut") if name == "windows" else EMOJI / f"{name}.jsonl"
            run("pack", "jsonl", manifest, "--out", out)
    return shards


def windows(out: Path) -> Path:
    """A manifest of the other maker's pictures, of each a window that holds half of it."""
    random, lines = np.random.default_rng(0), []
    for line in (EMOJI / "twemoji.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        picture = Image.open(EMOJI / record["image"]).convert("RGBA")
        size = np.array(picture.size)
        left, top = (random.random(2) * (1 - HALF) * size).round().astype(int)
        width, height = (HALF * size).round().astype(int)
        path = out / record["image"]
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.crop((left, top, left + width, top + height)).save(path)
        lines.append(json.dumps(record, ensure_ascii=False))
    write_whole(out / "windows.jsonl", "\n".join(lines) + "\n")
    return out / "windows.jsonl"


def recipes(claim: str, page: str, options: dict[str, dict[str, Any]], runs: Runs) -> dict[str, Recipe]:
    shards = packed(runs.folder)
    settings = {"trainer.max_steps": STEPS[claim]}
    return {
        name: Recipe(partial(measured, runs.folder / f"{place}", page, shards, settings | own))
        for place, (name, own) in enumerate(options.items())
    }


def measured(
    folder: Path, page: str, shards: dict[str, Path], options: dict[str, Any], seed: int, split: str
) -> Figures:
    """In percent of the other maker's pictures, by their English names."""
    out = fitted(page, folder / str(seed), seed, options | {"data.train": str(shards["noto"])})
    figures = {}
    for name in ("twemoji", "windows"):
        found = evaluated(out, shards[name], "--languages", "[en]")
        figures |= {
            f"{name}, {title}": found[way]["en"][rank]
            for rank in ("R@1", "R@10")
            for way, title in (
                ("text_to_image", f"{rank} image from text"),
                ("image_to_text", f"{rank} text from image"),
            )
        }
    return figures


CLAIMS = {
    "translations": Claim(
        "RS-M-CLIP (Silva et al. 2024)",
        "names in nine further languages raise English R@10, one at random or together",
        partial(recipes, "translations", "tiny.yaml", NAMES),
        [(ONE, ENGLISH), (TOGETHER, ENGLISH), (TOGETHER, ONE)],
        [Expected(f"{each} over {ENGLISH}", "twemoji, R@10 image from text", above=0) for each in (ONE, TOGETHER)],
    ),
    "crops": Claim(
        "SILC (Naeem et al. 2024), RS-M-CLIP (Silva et al. 2024)",
        "self-distillation from crops raises R@1 of windows of half a picture; that of whole pictures stays",
        partial(recipes, "crops", "rs_m_clip_tiny.yaml", FIELDS),
        [(DISTILLED, ALONE)],
        [
            Expected(f"{DISTILLED} over {ALONE}", "windows, R@1 text from image", above=0),
            Expected(f"{DISTILLED} over {ALONE}", "twemoji, R@1 text from image", reaches=0),
        ],
    ),
}
