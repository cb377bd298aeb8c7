"""Posts whose relations are known, and a run that was fine-tuned on them."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmtrain.cli import main
from tests.mmtrain.small import ROOT, SMALL

WORDS = {"en": ["red", "green", "blue"], "lv": ["sarkans", "zaļš", "zils"]}
COLOURS = [(220, 30, 30), (30, 200, 30), (30, 30, 220)]
CONFIG = str(ROOT / "configs" / "finetune" / "relation_head.yaml")


@pytest.fixture(scope="session")
def posts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 pictures of a colour beside a colour's name: `match` is whether they agree, `mood` the name's own class."""
    folder = tmp_path_factory.mktemp("posts")
    generator, rows = np.random.default_rng(0), []
    for index in range(48):
        shown, said = index % 3, (index % 3 + (index // 3) % 2 * (1 + index % 2)) % 3
        pixels = (np.array(COLOURS[shown]) + generator.integers(-20, 20, (40, 48, 3))).clip(0, 255).astype("uint8")
        Image.fromarray(pixels).save(folder / f"{index}.png")
        labels = {"match": int(shown == said), "mood": ["angry", "calm", "sad"][said]}
        if index % 8 == 7:
            labels.pop("mood")
        captions = {language: words[said] for language, words in WORDS.items()}
        rows.append({"id": f"p{index}", "image": f"{index}.png", "captions": captions, "labels": labels})
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    assert main(["pack", "jsonl", str(folder / "rows.jsonl"), "--out", str(folder / "shards"), "--workers", "1"]) == 0
    return folder / "shards"


def finetuning(shards: Path, run: Path, *options: str) -> list[str]:
    places = [f"--data.train={shards}", f"--data.val={shards}", f"--trainer.default_root_dir={run}"]
    return ["fit", "--config", CONFIG, *places, *SMALL, *options]


def finetune(shards: Path, run: Path, *options: str) -> int:
    return main(finetuning(shards, run, *options))


@pytest.fixture(scope="session")
def trained(posts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on both tasks in English."""
    run = tmp_path_factory.mktemp("relation")
    options = ["--trainer.max_steps=120", "--trainer.val_check_interval=40", "--data.train_languages=[en]"]
    options += ["--data.val_languages=[en]", "--model.learning_rate=0.003", "--model.warmup_steps=5"]
    assert finetune(posts, run, *options, "--data.batch_size=16", "--model.negatives=hard") == 0
    return run
