"""`mmtrain index`: pictures of SHARDS as an index folder, written whole or not at all."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from datamodules import ShardDataModule
from mmtrain.embedding import open_shards
from mmtrain.embedding_parts import EmbeddingParts, Processes
from mmtrain.encoder import Encoder
from mmtrain.evaluation.nearest import import_faiss
from mmtrain.fingerprint import fingerprint
from mmtrain.foreign import is_foreign
from mmtrain.loading import load
from mmtrain.search.index import DESCRIPTION, FAISS, FORMAT, ROWS, SearchIndex
from mmtrain.search.joining import join
from mmtrain.search.kinds import Kind, build_index, describe_kind
from mmtrain.search.recall import Queries, recall_lost, table_rows

MEASURED = 1000  # at most so many pictures, and their captions, ask when an index is measured


def index(
    model: str,
    data: str,
    out: str | Path,
    *,
    kind: Kind = "flat",
    candidates: int = 100,
    languages: list[str] | None = None,
    batch_size: int = 64,
    part_size: int = 1024,
    workers: int = 2,
    device: str | None = None,
) -> Path:
    """Embeds the pictures of SHARDS and writes the folder `out`: a FAISS index, rows, ids, captions and thumbnails.

    Under torchrun, srun or as a SLURM array every process embeds its share; process 0 joins the parts, which lie in
    `out`.parts until the index is written. An embedding that was stopped goes on with them.

    Args:
        kind: flat (exact), ivf, hnsw or pq; what these lose is measured, printed and written to index.json.
        candidates: Pictures that an index which is not exact proposes, to be scored in full.
        languages: Languages whose captions are shown with a picture; default: all. Samples with none are left out.
        part_size: Samples of a part: what a kill costs each process at most.

    Raises:
        ValueError: when `out` holds something else, nothing can be read, or there are too few pictures for the kind.
    """
    target = Path(out)
    if target.is_file() or (target.is_dir() and any(target.iterdir()) and not (target / DESCRIPTION).is_file()):
        raise ValueError(f"--out: {out} holds other files; give an empty folder, or an older index")
    if candidates < 1 or part_size < 1:
        raise ValueError(f"--candidates and --part_size: got {candidates} and {part_size}, expected at least 1")
    import_faiss()
    processes = Processes.launched()
    encoder = load(model, device=processes.device(device))
    shards = open_shards(encoder, data, languages, batch_size, workers)
    marked = fingerprint(encoder)
    if processes.rank and _is_done(target, marked, data):
        return target  # the others needed no help: this one came late
    exact = kind == "flat" and encoder.metric == "cosine"
    samples = len(shards.test_dataloader().dataset)
    describe_kind(kind, samples, encoder.model.dimension)
    parts = EmbeddingParts(
        target.with_name(target.name + ".parts"),
        encoder,
        shards,
        fingerprint=marked,
        batch_size=batch_size,
        part_size=part_size,
        text_every=None if exact else -(-samples // MEASURED),
    )
    parts.embed(processes, workers)
    if processes.rank:
        return target
    temporary = target.with_name(target.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        description = {"model": _lasting(model), "fingerprint": marked, "similarity": encoder.metric, "data": data}
        description |= {"kind": kind, "candidates": candidates}
        written = _write(temporary, description, encoder, shards, parts)
        if target.exists():
            shutil.rmtree(target)
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    parts.remove(processes)
    _print(target, written)
    return target


def _is_done(target: Path, fingerprint: str, data: str) -> bool:
    path = target / DESCRIPTION
    if not path.is_file():
        return False
    written = json.loads(path.read_text(encoding="utf-8"))
    return (written["fingerprint"], written["data"]) == (fingerprint, data)


def _write(
    folder: Path, description: dict[str, Any], encoder: Encoder, shards: ShardDataModule, parts: EmbeddingParts
) -> dict[str, Any]:
    """All files of an index; returns index.json."""
    import faiss

    joined = join(parts, folder, shards, encoder.model.dimension)
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


def _lasting(model: str) -> str:
    """MODEL as it can be loaded from another folder."""
    prefix, name = ("", model) if not is_foreign(model) else (model.split(":", 1)[0] + ":", model.split(":", 1)[1])
    path = Path(name).expanduser()
    return f"{prefix}{path.resolve()}" if path.exists() else model


def _print(folder: Path, description: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    kind, recall = description["kind"], description["recall"]
    languages = len(description["captions"])
    print(
        f"{folder}: {description['images']:,} pictures, {sum(description['captions'].values()):,} captions in"
        f" {languages} language{'s' * (languages != 1)}, {kind} ({description['faiss']}), {description['similarity']}"
        + ("; exact" if recall is None else "")
    )
    if recall is None:
        return
    table = Table(title="of the ten best by exact search, percent found")
    table.add_column("queries")
    scored = f"{description['candidates']} candidates\nscored in full"
    for name in ("number", f"{kind} alone", scored, "lost", "R@10\nexact", "R@10"):
        table.add_column(name, justify="right")
    for name, figures in table_rows(recall):
        figures = figures | {"lost": 100 - figures["found"]}
        shares = ("found_alone", "found", "lost", "R@10_exact", "R@10")
        values = [f"{figures[share]:.1f}" if share in figures else "" for share in shares]
        table.add_row(name, f"{figures['queries']:,}", *values)
    Console().print(table)
