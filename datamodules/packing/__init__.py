"""Shards from what people have: each reader turns one kind of source into rows, `pack_rows` packs them all alike.

pack_rows(read_karpathy("dataset_coco.json"), "shards", images="coco", split="train", image_size=512)
"""

from typing import TYPE_CHECKING

from datamodules.lazy import lazy

if TYPE_CHECKING:
    from datamodules.packing.aligned import read_multi30k, read_xtd10
    from datamodules.packing.folders import read_folder
    from datamodules.packing.manifests import read_crossmodal3600, read_jsonl, read_karpathy
    from datamodules.packing.pairs import read_pairs
    from datamodules.packing.relations import read_four_classes, read_tir
    from datamodules.packing.rows import SAMPLES_PER_SHARD, Row, digest_of, pack_once, pack_rows
    from datamodules.packing.stories import read_stories
    from datamodules.packing.tables import read_table
    from datamodules.packing.wit import read_wit

__getattr__, __all__ = lazy(
    __name__,
    {
        "datamodules.packing.aligned": (
            "read_multi30k",
            "read_xtd10",
        ),
        "datamodules.packing.folders": ("read_folder",),
        "datamodules.packing.manifests": (
            "read_crossmodal3600",
            "read_jsonl",
            "read_karpathy",
        ),
        "datamodules.packing.pairs": ("read_pairs",),
        "datamodules.packing.relations": (
            "read_four_classes",
            "read_tir",
        ),
        "datamodules.packing.rows": (
            "SAMPLES_PER_SHARD",
            "Row",
            "digest_of",
            "pack_once",
            "pack_rows",
        ),
        "datamodules.packing.stories": ("read_stories",),
        "datamodules.packing.tables": ("read_table",),
        "datamodules.packing.wit": ("read_wit",),
    },
)
