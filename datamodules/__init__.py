"""Bytes in, batches out: shards of image-text samples in many languages, read by index.

Knows nothing of losses or networks.
"""

from datamodules.account import SkipAccount
from datamodules.batch import Batch, Skip
from datamodules.images import ImagePipeline
from datamodules.module import ShardDataModule
from datamodules.tokenizers import ByteTokenizer, Tokenizer, TransformersTokenizer
from datamodules.words import WordTokenizer

__all__ = [
    "Batch",
    "ByteTokenizer",
    "ImagePipeline",
    "ShardDataModule",
    "Skip",
    "SkipAccount",
    "Tokenizer",
    "TransformersTokenizer",
    "WordTokenizer",
]
