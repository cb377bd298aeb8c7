"""XTD10 (Aggarwal and Kale 2020): 1,000 COCO images with one caption in each of eleven languages.

800 of them are COCO training images, which models trained on COCO have seen. The second variant leaves them out; among
the other 200 recall is higher for every model.
"""

from dataclasses import replace

import numpy as np

from datamodules.packing import read_xtd10
from datamodules.packing.aligned import COCO_TRAINING
from mmtrain.evaluation.protocols.protocol import Protocol, Reference, Split
from mmtrain.evaluation.ranking.pools import Pool


def unseen_images(split: Split) -> list[Pool]:
    """The images that are not from COCO's training set. Raises ValueError when there is none."""
    unseen = [number for number, name in enumerate(split.ids) if not name.startswith(COCO_TRAINING)]
    if not unseen:
        raise ValueError(f"--protocol: xtd10/val2014: all {len(split.ids)} pictures are COCO training pictures")
    return [Pool("val2014", np.array(unseen))]


ALL = Protocol(
    name="xtd10",
    variant="all",
    read=read_xtd10,
    images=1000,
    languages=("en", "de", "es", "fr", "it", "ja", "ko", "pl", "ru", "tr", "zh"),
    comparable=(
        Reference(
            "Multilingual-CLIP, larger_mclip.md",
            "R@10 text to image, en / de / ja: LaBSE ViT-L/14 91.6 / 89.6 / 73.9, XLM-R-L ViT-B/16+ 95.0 / 93.0 / 84.2",
            "seen",
        ),
        Reference(
            "Babel-ImageNet, released result files",
            "R@1 text to image / image to text, mean of 11: XLM-R-base 52.7 / 56.4, ViT-H/14 64.6 / 64.5",
            "seen",
        ),
        Reference("Aggarwal and Kale 2020", "R@10 text to image; mUSE with M3L, en 85.3, de 73.5", "recalled"),
        Reference("CLIP_benchmark", "R@5, its default", "seen"),
    ),
)
UNSEEN = replace(ALL, variant="val2014", pools=unseen_images, comparable=())
PROTOCOLS = (ALL, UNSEEN)
