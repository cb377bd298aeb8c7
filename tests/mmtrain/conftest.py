"""Small shards and small towers that the tests of this folder share."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmtrain.cli import main
from tests.mmtrain.posts import posts, trained

__all__ = ["posts", "trained"]

WORDS = {
    "en": ["red", "green", "blue", "grey"],
    "lv": ["sarkans", "zaļš", "zils", "pelēks"],
    "ar": ["أحمر", "أخضر", "أزرق", "رمادي"],
}
COLOURS = [(220, 30, 30), (30, 200, 30), (30, 30, 220), (128, 128, 128)]


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """32 pictures of four colours in two shards, with captions in three languages, Arabic on every second one only."""
    folder = tmp_path_factory.mktemp("colours")
    rows = []
    generator = np.random.default_rng(0)
    for index in range(32):
        noise = generator.integers(-20, 20, (40, 48, 3))
        pixels = (np.array(COLOURS[index % 4]) + noise).clip(0, 255).astype("uint8")
        Image.fromarray(pixels).save(folder / f"{index}.png")
        captions = {language: words[index % 4] for language, words in WORDS.items() if language != "ar" or index % 2}
        rows.append({"id": f"c{index}", "image": f"{index}.png", "captions": captions})
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    arguments = ["--out", str(folder / "shards"), "--samples_per_shard", "20", "--workers", "1"]
    assert main(["pack", "jsonl", str(folder / "rows.jsonl"), *arguments]) == 0
    return folder / "shards"
