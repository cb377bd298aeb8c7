"""Shards from what people have: each reader turns one kind of source into rows, `pack_rows` packs them all alike.

pack_rows(read_karpathy("dataset_coco.json"), "shards", images="coco", split="train", image_size=512)
"""

from pathlib import Path
from typing import Unpack

from datamodules.packing.aligned import read_multi30k, read_xtd10
from datamodules.packing.folders import read_folder
from datamodules.packing.manifests import read_crossmodal3600, read_jsonl, read_karpathy
from datamodules.packing.relations import read_four_classes, read_tir
from datamodules.packing.rows import SAMPLES_PER_SHARD, Options, Row, pack_once, pack_rows
from datamodules.packing.stories import read_stories
from datamodules.packing.tables import read_table
from datamodules.packing.wit import read_wit

__all__ = [
    "SAMPLES_PER_SHARD",
    "Options",
    "Row",
    "pack_jsonl",
    "pack_once",
    "pack_rows",
    "read_crossmodal3600",
    "read_folder",
    "read_four_classes",
    "read_jsonl",
    "read_karpathy",
    "read_multi30k",
    "read_stories",
    "read_table",
    "read_tir",
    "read_wit",
    "read_xtd10",
]


def pack_jsonl(manifest: str | Path, out: str | Path, **options: Unpack[Options]) -> dict:
    """`pack_rows` of a JSON Lines manifest whose pictures lie beside it, or in the folder `images`."""
    options.setdefault("images", Path(manifest).parent)
    options.setdefault("title", f"packing {Path(manifest).name}")
    return pack_rows(read_jsonl(manifest), out, **options)
