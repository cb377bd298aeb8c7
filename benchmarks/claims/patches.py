"""What patches know when a decoder reads them, and when an average of the tower teaches them; 20 minutes a training.

SigLIP 2 (Tschannen et al. 2025) adds a captioner, self-distillation and masked patches to the sigmoid loss, for
features that know what lies where. Scenes of two or three handwritten numbers at places of a page of 96 pixels,
captions that name number and quarter in three languages, configs/pretrain/siglip2_tiny.yaml with some of its
objectives. A linear probe of the patch in which a digit's middle lies says which digit it is, learnt from validation
scenes and asked about test scenes; beside it R@1 from text to picture, the mean over languages. The splits share
neither numbers nor scans.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.claims.record import Claim, Expected, Figures, Recipe, Runs
from benchmarks.runs import CONFIGS, QUIET, evaluated, run
from datamodules.files import write_whole
from datamodules.numbers.scenes import SCENES, pack_scenes
from mmtrain.models.yaml12 import read_yaml

ALONE, CAPTIONS, ALL = "contrast alone", "+ captioner", "+ self-distillation, masked patches"
OBJECTIVES = {
    ALONE: ("contrast",),
    CAPTIONS: ("contrast", "captioner"),
    ALL: ("contrast", "captioner", "crops", "patches"),
}


def recipes(runs: Runs) -> dict[str, Recipe]:
    scenes = {split: runs.folder / "scenes" / split for split in SCENES}
    for split, folder in scenes.items():
        if not (folder / "shards.json").is_file():
            pack_scenes(folder, split)
    return {name: Recipe(partial(measured, runs.folder, scenes, name)) for name in OBJECTIVES}


def page(name: str, scenes: dict[str, Path], seed: int) -> dict[str, Any]:
    """siglip2_tiny.yaml with the objectives of a recipe that it has."""
    config = read_yaml((CONFIGS / "pretrain" / "siglip2_tiny.yaml").read_text(encoding="utf-8"))
    model, data = config["model"]["init_args"], config["data"]["init_args"]
    for of in (model["objectives"], model["weights"]):
        for other in of.keys() - set(OBJECTIVES[name]):
            del of[other]
    if "crops" not in model["objectives"]:
        del data["fields"]
    data |= {"train": str(scenes["train"]), "val": str(scenes["val"]), "seed": seed}
    return config | {"seed_everything": seed}


def measured(folder: Path, scenes: dict[str, Path], name: str, seed: int, split: str) -> Figures:
    """Accuracy of the probe and R@1, in percent."""
    place = folder / f"{list(OBJECTIVES).index(name)}-{seed}"
    place.mkdir(parents=True, exist_ok=True)
    write_whole(place / "page.json", json.dumps(page(name, scenes, seed)))
    run("fit", "--config", place / "page.json", *QUIET, f"--trainer.default_root_dir={place}", "--ckpt_path=last")
    found = evaluated(place, scenes[split], "--probe", "digit", "--patches", "--train", scenes["val"])
    return {
        "digit by its patch": found["probe"]["digit"]["accuracy"],
        "image from text, R@1": found["text_to_image"]["mean"]["R@1"],
    }


CLAIM = Claim(
    "SigLIP 2 (Tschannen et al. 2025)",
    "a captioner, then self-distillation and masked patches tell patches which digit lies where; R@1 stays",
    recipes,
    [(CAPTIONS, ALONE), (ALL, CAPTIONS), (ALL, ALONE)],
    [
        Expected(f"{CAPTIONS} over {ALONE}", "digit by its patch", above=5),
        Expected(f"{ALL} over {CAPTIONS}", "digit by its patch", above=0),
        Expected(f"{ALL} over {ALONE}", "image from text, R@1", reaches=0),
    ],
)
