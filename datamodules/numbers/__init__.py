"""The embedded corpus: handwritten numbers in many languages, and posts, pairs, scenes and triples made of them."""

from datamodules.numbers.corpus import LANGUAGES, SPLITS, numbers_of, pack_numbers, picture, png, words
from datamodules.numbers.pairs import pack_pairs
from datamodules.numbers.posts import pack_posts, post
from datamodules.numbers.products import pack_products
from datamodules.numbers.scenes import pack_scenes
from datamodules.numbers.spoken import pack_spoken

__all__ = [
    "LANGUAGES",
    "SPLITS",
    "numbers_of",
    "pack_numbers",
    "pack_pairs",
    "pack_posts",
    "pack_products",
    "pack_scenes",
    "pack_spoken",
    "picture",
    "png",
    "post",
    "words",
]
