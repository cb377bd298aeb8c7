"""A small model and its index, for the tests of an index folder."""

import json
import sqlite3
from pathlib import Path

import pytest

from mmtrain.cli import main
from tests.mmtrain.small import fit

SIZES = ["--batch_size", "4", "--part_size", "8", "--workers", "0", "--device", "cpu"]  # four parts of 32 samples


@pytest.fixture(scope="module")
def model(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model, trained for one step and exported."""
    folder = tmp_path_factory.mktemp("model")
    assert fit(shards, folder / "run", "--trainer.max_steps=1") == 0
    assert main(["export", str(folder / "run"), "--out", str(folder / "export")]) == 0
    return folder / "export"


@pytest.fixture(scope="module")
def built(model: Path, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A flat index that one process made."""
    out = tmp_path_factory.mktemp("index") / "built"
    assert main(["index", str(model), "--data", str(shards), "--out", str(out), *SIZES]) == 0
    return out


def contents(folder: Path) -> tuple[bytes, bytes, list, dict]:
    """Rows, FAISS index, ids with captions and thumbnails, and the description of an index."""
    with sqlite3.connect(folder / "items.sqlite") as file:
        items = file.execute("SELECT * FROM items ORDER BY number").fetchall()
        captions = file.execute("SELECT * FROM captions").fetchall()
    files = [(folder / name).read_bytes() for name in ("rows.npy", "index.faiss")]
    return *files, [items, captions], json.loads((folder / "index.json").read_text())
