"""Captions to token ids. Each tokenizer answers the same call: captions and their languages in, ids and mask out."""

from datamodules.tokenizers.tokenizer import ByteTokenizer, Tokenizer, TransformersTokenizer, padded
from datamodules.tokenizers.words import WordTokenizer

__all__ = ["ByteTokenizer", "Tokenizer", "TransformersTokenizer", "WordTokenizer", "padded"]
