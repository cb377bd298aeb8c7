"""Bytes in, batches out: shards of image-text samples in many languages, read by index.

Knows nothing of losses or networks. Names are imported when first used: a tokenizer alone needs no Lightning.
"""

from typing import TYPE_CHECKING

from datamodules.lazy import lazy

if TYPE_CHECKING:
    from datamodules.account import SkipAccount
    from datamodules.batch import Batch, Batches, Field, Skip
    from datamodules.captions.drawing import Drawing, InOrder, Pivot, Uniform, Weighted
    from datamodules.captions.rewriting import AsWritten, CodeSwitch, TextTransform
    from datamodules.images import ImagePipeline
    from datamodules.module import ShardDataModule
    from datamodules.naflex import NaFlexPipeline
    from datamodules.packing.as_shards import Manifest
    from datamodules.reading.fields import Crops, Features, FieldReader, Pictures, Pieces, Texts
    from datamodules.reading.parts import Part
    from datamodules.relation import RelationDataModule
    from datamodules.stream.mixture import Source
    from datamodules.tokenizers.rendered import RenderedText
    from datamodules.tokenizers.tokenizer import ByteTokenizer, Tokenizer, TransformersTokenizer
    from datamodules.tokenizers.words import WordTokenizer

__getattr__, __all__ = lazy(
    __name__,
    {
        "datamodules.account": ("SkipAccount",),
        "datamodules.batch": ("Batch", "Batches", "Field", "Skip"),
        "datamodules.captions.drawing": ("Drawing", "InOrder", "Pivot", "Uniform", "Weighted"),
        "datamodules.captions.rewriting": ("AsWritten", "CodeSwitch", "TextTransform"),
        "datamodules.images": ("ImagePipeline",),
        "datamodules.module": ("ShardDataModule",),
        "datamodules.naflex": ("NaFlexPipeline",),
        "datamodules.packing.as_shards": ("Manifest",),
        "datamodules.reading.fields": ("Crops", "Features", "FieldReader", "Pictures", "Pieces", "Texts"),
        "datamodules.reading.parts": ("Part",),
        "datamodules.relation": ("RelationDataModule",),
        "datamodules.stream.mixture": ("Source",),
        "datamodules.tokenizers.rendered": ("RenderedText",),
        "datamodules.tokenizers.tokenizer": ("ByteTokenizer", "Tokenizer", "TransformersTokenizer"),
        "datamodules.tokenizers.words": ("WordTokenizer",),
    },
)
