"""Crossmodal-3600 (Thapliyal et al. 2022): 3,600 images from where 36 languages are spoken, captions in all of them.

261,375 captions, two an image and language on average (bn 1.0, mi 1.31). Two protocols are in use and differ by seven
points R@1 from image to text: all captions, where any of an image's captions is right and all are in the pool, and the
first caption only. Text to image hardly moves.
"""

from dataclasses import replace

from datamodules.packing import read_crossmodal3600
from mmtrain.evaluation.protocols.protocol import Protocol, Reference, file_in

LANGUAGES = (
    *("ar", "bn", "cs", "da", "de", "el", "en", "es", "fa", "fi", "fil", "fr", "he", "hi", "hr", "hu", "id", "it"),
    *("ja", "ko", "mi", "nl", "no", "pl", "pt", "quz", "ro", "ru", "sv", "sw", "te", "th", "tr", "uk", "vi", "zh"),
)


ALL = Protocol(
    name="xm3600",
    variant="all",
    read=lambda source: read_crossmodal3600(file_in(source, "captions.jsonl")),
    images=3600,
    languages=LANGUAGES,
    comparable=(
        Reference(
            "Babel-ImageNet, released result files",
            "R@1 text to image / image to text, mean of 36: XLM-R-base ViT-B/32 42.6 / 52.7, XLM-R-large ViT-H/14"
            " 50.5 / 60.4, SigLIP B/16 i18n 44.5 / 56.6",
            "seen",
        ),
        Reference("SigLIP 2, table 1", "R@1: So/16 48.1 / 57.5, mSigLIP 50.0 / 62.8", "seen"),
        Reference("MetaCLIP 2", "R@1: ViT-H/14 51.5 / 64.3", "reported"),
    ),
)
FIRST = replace(
    ALL,
    variant="first",
    captions="first",
    comparable=(
        Reference(
            "CLIP_benchmark, in open_clip's tables",
            "R@1 text to image / image to text, mean of 36: XLM-R-base ViT-B/32 42.56 / 45.86, XLM-R-large ViT-H/14"
            " 50.22 / 53.38, SigLIP B/16 i18n 44.07 / 48.94",
            "seen",
        ),
        Reference("Jina and NLLB-CLIP", "R@5 where they use CLIP_benchmark's default", "reported"),
    ),
)
PROTOCOLS = (ALL, FIRST)
