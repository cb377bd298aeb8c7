"""Captions to token ids. Each tokenizer answers the same call: captions and their languages in, ids and mask out.

Names are imported when first used: a model that encodes tokens needs no reader of shards, which words do.
"""

from typing import TYPE_CHECKING

from datamodules.lazy import lazy

if TYPE_CHECKING:
    from datamodules.tokenizers.tokenizer import ByteTokenizer, Tokenizer, TransformersTokenizer, padded
    from datamodules.tokenizers.words import WordTokenizer

__getattr__, __all__ = lazy(
    __name__,
    {
        "datamodules.tokenizers.tokenizer": ("ByteTokenizer", "Tokenizer", "TransformersTokenizer", "padded"),
        "datamodules.tokenizers.words": ("WordTokenizer",),
    },
)
