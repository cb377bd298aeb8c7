"""Bytes in, batches out: shards of image-text samples in many languages, read by index.

Knows nothing of losses or networks.
"""

from datamodules.account import SkipAccount
from datamodules.batch import Batch, Skip
from datamodules.drawing import Drawing, InOrder, Pivot, Uniform, Weighted
from datamodules.images import ImagePipeline
from datamodules.manifests import Manifest
from datamodules.mixture import Source
from datamodules.module import ShardDataModule
from datamodules.relation import RelationDataModule
from datamodules.texts import AsWritten, CodeSwitch, TextTransform
from datamodules.tokenizers import ByteTokenizer, Tokenizer, TransformersTokenizer
from datamodules.words import WordTokenizer

__all__ = [
    "AsWritten",
    "Batch",
    "ByteTokenizer",
    "CodeSwitch",
    "Drawing",
    "ImagePipeline",
    "InOrder",
    "Manifest",
    "Pivot",
    "RelationDataModule",
    "ShardDataModule",
    "Skip",
    "SkipAccount",
    "Source",
    "TextTransform",
    "Tokenizer",
    "TransformersTokenizer",
    "Uniform",
    "Weighted",
    "WordTokenizer",
]
