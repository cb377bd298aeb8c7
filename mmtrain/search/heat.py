"""Which words of a text found which patches of a picture, to be laid over it."""

import io
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from math import isqrt

import numpy as np
from PIL import Image, ImageColor

from mmtrain.display.html import data_uri
from mmtrain.models.encoder import Encoder
from mmtrain.search.index import SearchIndex
from mmtrain.search.queries import text_tokens
from mmtrain.search.results import Found, FoundWord, Result

MOST_WORDS = 12  # shown of a query
COLOURS = ("#e6194b", "#0a7d2c", "#4363d8", "#f58231", "#911eb4", "#008080")


def with_words(
    encoder: Encoder, index: SearchIndex, text: str, language: str | None, results: Sequence[Result]
) -> list[Result]:
    """Results of a text with what its words found, where the index has token rows of patches."""
    tokens = text_tokens(encoder, index, text, language)
    text = unicodedata.normalize("NFC", text.strip())
    spans = encoder.tokenizer_for("query").spans(text)
    if tokens is None or len(spans) != len(tokens):
        return list(results)
    words = words_of(text, spans)
    return [replace(result, found=_found(encoder, index, result, tokens, words)) for result in results]


def words_of(text: str, spans: Sequence[tuple[int, int]]) -> list[tuple[str, list[int]]]:
    """The first MOST_WORDS words of a text between blanks, each with the numbers of its tokens.

    Args:
        spans: Of each token, where it begins and ends in the text.
    """
    words = text.split()
    tokens: dict[int, list[int]] = {}
    for number, (start, end) in enumerate(spans):
        inner = next((place for place in range(start, end) if not text[place].isspace()), None)
        if inner is not None:
            tokens.setdefault(len(text[: inner + 1].split()) - 1, []).append(number)
    return [(words[place], numbers) for place, numbers in sorted(tokens.items())[:MOST_WORDS]]


def _found(
    encoder: Encoder, index: SearchIndex, result: Result, tokens: np.ndarray, words: list[tuple[str, list[int]]]
) -> Found | None:
    assert index.tokens is not None
    clusters = index.tokens.clusters[result.item.number]
    side = isqrt(len(clusters))
    if not len(clusters) or side * side != len(clusters) or encoder.images is None:
        return None
    products = index.tokens.rows(result.item.number)[clusters] @ tokens.T  # [P, L]
    found = []
    for number, (word, places) in enumerate(words):
        near = products[:, places].mean(1).reshape(side, side)
        row, column = np.unravel_index(near.argmax(), near.shape)
        colour = COLOURS[number % len(COLOURS)]
        score = float(products[:, places].max(0).mean())
        found.append(FoundWord(word, score, (int(column), int(row)), _png(near, colour), colour))
    return Found(side, _place(result.item.thumbnail, encoder.images.resize), found)


def _place(picture: bytes, resize: str) -> tuple[float, float, float, float]:
    """What the model sees of a picture: all of it where both sides are scaled, else the square in the middle."""
    width, height = Image.open(io.BytesIO(picture)).size
    if resize == "squash":
        return 0, 0, 100, 100
    x, y = 100 * min(width, height) / width, 100 * min(width, height) / height
    return (100 - x) / 2, (100 - y) / 2, x, y


def _png(near: np.ndarray, colour: str) -> str:
    """A value a patch [g, g] as a picture of one colour, from clear at the smallest to 0.8 at the largest."""
    share = (near - near.min()) / max(float(np.ptp(near)), 1e-6)
    pixels = np.empty((*near.shape, 4), np.uint8)
    pixels[..., :3] = ImageColor.getrgb(colour)
    pixels[..., 3] = (204 * share**2).round()
    file = io.BytesIO()
    Image.fromarray(pixels, "RGBA").save(file, "PNG")
    return data_uri(file.getvalue(), "image/png")
