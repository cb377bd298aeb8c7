"""The networks on either side: pixels or features in, captions in, pooled vectors and tokens out."""

from mmtrain.towers.image import FeatureTower, TimmTower
from mmtrain.towers.pooling import Pooling
from mmtrain.towers.text import ByteGRU, SharedText, TransformersTower, WordGRU
from mmtrain.towers.tower import ImageTower, TextTower, Tower
from mmtrain.towers.vision_language import VisionLanguageText, VisionLanguageTower

__all__ = [
    "ByteGRU",
    "FeatureTower",
    "ImageTower",
    "Pooling",
    "SharedText",
    "TextTower",
    "TimmTower",
    "Tower",
    "TransformersTower",
    "VisionLanguageText",
    "VisionLanguageTower",
    "WordGRU",
]
