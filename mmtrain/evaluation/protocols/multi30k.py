"""Multi30k (Elliott et al. 2016, 2017; Barrault et al. 2018): Flickr30k images in English, German, French and Czech.

Its first task has one English caption an image and translations of it, its second five independent captions in
English and German. Figures on the two do not compare.
"""

from dataclasses import replace

from datamodules.packing import read_multi30k
from mmtrain.evaluation.protocols.protocol import Protocol, Reference

YEAR_2016 = Protocol(
    name="multi30k",
    variant="2016",
    read=read_multi30k,
    images=1000,
    languages=("en", "de", "fr", "cs"),
    split="test_2016_flickr",
    comparable=(
        Reference(
            "M3P, UC2, CCLM, CCRK",
            "none directly: their mean of six recalls uses five captions in en and de and one in fr and cs, so fr"
            " and cs alone; fine-tuned, and re-ranked with a fusion encoder",
            "recalled",
        ),
    ),
)
FIVE = replace(
    YEAR_2016,
    variant="2016_five",
    languages=("en", "de"),
    split="test_2016",
    comparable=(
        Reference(
            "Gella et al. 2017, table of Multi30k",
            "image to text R@1: PARALLEL-ASYM en 31.5, de 30.2; text to image en 27.1, de 23.9",
            "recalled",
        ),
        Reference(
            "M3P, UC2, CCLM, CCRK",
            "mean of six recalls in en and de: CCLM-3M 90.4 / 89.9, trained in English; after re-ranking",
            "seen",
        ),
    ),
)
PROTOCOLS = (
    YEAR_2016,
    FIVE,
    replace(YEAR_2016, variant="2017", languages=("en", "de", "fr"), split="test_2017_flickr", comparable=()),
    replace(
        YEAR_2016,
        variant="2017_mscoco",
        images=461,
        languages=("en", "de", "fr"),
        split="test_2017_mscoco",
        comparable=(),
    ),
    replace(YEAR_2016, variant="2018", images=1071, split="test_2018_flickr", comparable=()),
)
