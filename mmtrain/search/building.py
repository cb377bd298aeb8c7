"""The files of an index folder."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from datamodules import ShardDataModule
from mmtrain.display.tables import print_table
from mmtrain.embedding.parts import EmbeddingParts
from mmtrain.models.foreign import is_foreign
from mmtrain.search.index import DESCRIPTION, FAISS, FORMAT, ROWS, SearchIndex
from mmtrain.search.joining import join
from mmtrain.search.kinds import build_index, describe_kind
from mmtrain.search.recall import Queries, recall_lost, table_rows

MEASURED = 1000  # at most so many pictures, and their captions, ask when an index is measured


def check_target(target: Path) -> None:
    """Raises ValueError when the folder holds something else than an older index."""
    if target.is_file() or (target.is_dir() and any(target.iterdir()) and not (target / DESCRIPTION).is_file()):
        raise ValueError(f"--out: {target} holds other files; give an empty folder, or an older index")


def is_done(target: Path, fingerprint: str, data: str) -> bool:
    path = target / DESCRIPTION
    if not path.is_file():
        return False
    written = json.loads(path.read_text(encoding="utf-8"))
    return (written["fingerprint"], written["data"]) == (fingerprint, data)


def write_index(
    folder: Path, description: dict[str, Any], width: int, shards: ShardDataModule, parts: EmbeddingParts
) -> dict[str, Any]:
    """All files of an index; returns index.json, of which `description` is what is known before."""
    import faiss

    joined = join(parts, folder, shards, width)
    rows = np.load(folder / ROWS, mmap_mode="c")
    kind, similarity = description["kind"], description["similarity"]
    faiss.write_index(build_index(rows, kind, similarity), str(folder / FAISS))
    description = {
        "format": FORMAT,
        **description,
        "faiss": describe_kind(kind, *rows.shape),
        "width": rows.shape[1],
        "images": len(rows),
        "captions": joined.captions,
        "skipped": shards.account.summary()["causes"],
        "recall": None,
    }
    _write_json(folder / DESCRIPTION, description)
    opened = SearchIndex(folder)
    if not opened.exact:
        asking = np.unique(np.linspace(0, len(rows) - 1, min(MEASURED, len(rows))).astype(np.int64))
        description["recall"] = recall_lost(opened, joined.texts, Queries(rows[asking], asking))
        _write_json(folder / DESCRIPTION, description)
    return description


def _write_json(path: Path, description: dict[str, Any]) -> None:
    path.write_text(json.dumps(description, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def lasting(model: str) -> str:
    """MODEL as it can be loaded from another folder."""
    prefix, name = ("", model) if not is_foreign(model) else (model.split(":", 1)[0] + ":", model.split(":", 1)[1])
    path = Path(name).expanduser()
    return f"{prefix}{path.resolve()}" if path.exists() else model


def print_index(folder: Path, description: dict[str, Any]) -> None:
    kind, recall = description["kind"], description["recall"]
    languages = len(description["captions"])
    print(
        f"{folder}: {description['images']:,} pictures, {sum(description['captions'].values()):,} captions in"
        f" {languages} language{'s' * (languages != 1)}, {kind} ({description['faiss']}), {description['similarity']}"
        + ("; exact" if recall is None else "")
    )
    if recall is None:
        return
    scored = f"{description['candidates']} candidates\nscored in full"
    columns = ("queries", "number", f"{kind} alone", scored, "lost", "R@10\nexact", "R@10")
    shares = ("found_alone", "found", "lost", "R@10_exact", "R@10")
    rows = []
    for name, figures in table_rows(recall):
        figures = figures | {"lost": 100 - figures["found"]}
        values = [f"{figures[share]:.1f}" if share in figures else "" for share in shares]
        rows.append([name, f"{figures['queries']:,}", *values])
    print_table("of the ten best by exact search, percent found", columns, rows)
