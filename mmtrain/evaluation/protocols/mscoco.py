"""MSCOCO's 5,000 test images (Karpathy and Fei-Fei 2015), five captions each: one pool, or five folds of 1,000.

Folds are consecutive in the order of the split, as order embeddings and VSE++ take them. Recall in a fold is the higher
one: its pool is a fifth. Captions in other languages than English come from shards.
"""

from dataclasses import replace

from datamodules.packing import read_karpathy
from mmtrain.evaluation.protocols.protocol import Protocol, Reference, file_in
from mmtrain.evaluation.ranking.pools import folds

FOLD = 1000


FIVE_FOLDS = Protocol(
    name="mscoco",
    variant="1k",
    read=lambda source: read_karpathy(file_in(source, "dataset_coco.json")),
    images=5000,
    languages=None,
    split="test",
    pools=lambda split: folds(len(split.ids), FOLD),
    over_pools="mean",
    comparable=(
        Reference(
            "VSE, its README, which does not state the folds",
            "R@1 / R@5 / R@10: image to text 43.4 / 75.7 / 85.8, text to image 31.0 / 66.7 / 79.9",
            "seen",
        ),
        Reference(
            "M3P, UC2, CCLM, CCRK",
            "mean of six recalls, English; their Chinese is COCO-CN's 1,000 pictures, their Japanese not one set",
            "seen",
        ),
    ),
)
ONE_POOL = replace(
    FIVE_FOLDS,
    variant="5k",
    pools=None,
    over_pools="queries",
    comparable=(Reference("CLIP_benchmark, in open_clip's tables", "mscoco_captions, R@5 by default", "recalled"),),
)
PROTOCOLS = (FIVE_FOLDS, ONE_POOL)
