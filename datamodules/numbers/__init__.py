"""The embedded corpus: handwritten numbers in many languages, and posts made of them."""

from datamodules.numbers.corpus import LANGUAGES, SPLITS, numbers_of, pack_numbers, picture, png, words
from datamodules.numbers.posts import pack_posts, post

__all__ = ["LANGUAGES", "SPLITS", "numbers_of", "pack_numbers", "pack_posts", "picture", "png", "post", "words"]
