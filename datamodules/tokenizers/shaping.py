"""Text in TrueType fonts, shaped by HarfBuzz and laid out in lines, from the right where it begins so.

A text is read in pieces: words, marks and numbers, and single characters of scripts that put no space between words.
Each piece is shaped as a whole, in the first font that has its characters, and kept: most words come again. Pieces are
ordered by the Unicode bidirectional algorithm (UAX 9) without its embeddings: one level below the paragraph's own.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import accumulate, groupby, islice
from typing import NamedTuple

import numpy as np
from PIL import ImageFont

from datamodules.tokenizers.fonts import PAPER
from datamodules.tokenizers.words import UNSPACED

GREYS = (PAPER - np.arange(256) * PAPER // 255).astype(np.uint8)  # by ink
KEPT = 50_000  # pieces and words
DIRECTIONS = {"L": "L", "R": "R", "AL": "R", "EN": "N", "AN": "N"}  # of letters and numbers; others are neutral
# A character that belongs to the one before: Thai and Lao AM; and what takes the next one in: stacking in Myanmar and
# Khmer, the joiner.
JOINED, JOINING = "\u0e33\u0eb3", "\u1039\u17d2\u200d"
NOBODY = "\U0010ffff"  # a code point that no font has


class Piece(NamedTuple):
    """What is shaped as a whole."""

    text: str
    font: int
    direction: str


class Directed(NamedTuple):
    """A piece whose direction is known."""

    text: str
    font: int
    from_right: bool


class Drawn(NamedTuple):
    """A piece's grey pixels uint8 [h, w], their left upper corner from the pen on the base line, and the pen's way."""

    greys: np.ndarray
    left: int
    top: int
    advance: int


class ShapedPages:
    """Draws texts with shaping fonts.

    Args:
        fonts: A character is drawn in the first that has it; one that none has as the first draws what it lacks.
        size: Width and height of a page in pixels.

    Raises:
        ValueError: where a page has no room for a line.
    """

    def __init__(self, fonts: Sequence[ImageFont.FreeTypeFont], size: int) -> None:
        self.fonts, self.size = list(fonts), size
        ascents, descents = zip(*(font.getmetrics() for font in fonts), strict=True)
        self.ascent, self.height = max(ascents), max(ascents) + max(descents)
        if self.height > size:
            raise ValueError(f"tokenizer.size: {size} pixels have no room for a line of {self.height}")
        self._pieces: dict[str, list[Piece]] = {}
        self._drawn: dict[tuple[str, int, bool], Drawn] = {}
        self._font_of: dict[str, int] = {}
        self._had: dict[tuple[int, str], bool] = {}
        self._lacking = [_ink(font, NOBODY) for font in fonts]

    def page(self, text: str) -> tuple[np.ndarray, bool]:
        """Grey pixels uint8 [rows, size] of the rows that are used, and whether all of the text is there."""
        pieces, from_right = _directed([piece for word in re.split("( )", text) for piece in self._read(word)])
        room = self.size // self.height
        lines = list(islice(self._lines(pieces), room + 1))
        page = np.full((min(max(len(lines), 1), room), self.height, self.size), PAPER, np.uint8)
        for line, rows in zip(lines, page, strict=False):
            drawn = [self._draw(*each) for each in _seen(line, from_right)]
            pen = self.size - sum(each.advance for each in drawn) if from_right else 0
            for each in drawn:
                if each.greys.size:
                    _put(each.greys, rows, pen + each.left, self.ascent + each.top)
                pen += each.advance
        return page.reshape(-1, self.size), len(lines) <= room

    def _lines(self, pieces: Sequence[Directed]) -> Iterator[list[Directed]]:
        """The pieces by line, broken before what has no room; no line begins or ends with a blank."""
        line: list[Directed] = []
        pen = 0
        waiting = list(reversed(pieces))
        while waiting:
            piece = waiting.pop()
            advance = self._draw(*piece).advance
            if pen + advance > self.size and piece.text != " ":
                if advance > self.size and len(parts := list(_clusters(piece.text))) > 1:
                    waiting += [piece._replace(text=part) for part in reversed(parts)]
                    continue
                if line:
                    yield _stripped(line)
                    line, pen = [], 0
            if line or piece.text != " ":
                line.append(piece)
                pen += advance
        if line:
            yield _stripped(line)

    def _read(self, word: str) -> list[Piece]:
        """The pieces of a word, or of a blank."""
        if word not in self._pieces:
            _make_room(self._pieces)
            whole = list(_clusters(word))
            letters = [(DIRECTIONS.get(unicodedata.bidirectional(each[0]), ""), self._font(each)) for each in whole]
            pieces = self._pieces[word] = list[Piece]()
            for cluster, (direction, font) in zip(whole, letters, strict=True):
                before = pieces[-1] if pieces else None
                alone = re.match(UNSPACED, cluster) or (before and re.match(UNSPACED, before.text))
                if before and not alone and before[1:] == (font, direction):
                    pieces[-1] = before._replace(text=before.text + cluster)
                else:
                    pieces.append(Piece(cluster, font, direction))
        return self._pieces[word]

    def _font(self, cluster: str) -> int:
        """The first font that has all of a cluster."""
        if cluster not in self._font_of:
            _make_room(self._font_of)
            having = (i for i in range(len(self.fonts)) if all(self._has(i, each) for each in cluster))
            self._font_of[cluster] = next(having, 0)
        return self._font_of[cluster]

    def _has(self, font: int, character: str) -> bool:
        """Whether a font has a character: Pillow does not tell, but what is lacking looks like what nobody has."""
        if (key := (font, character)) not in self._had:
            _make_room(self._had)
            nothing = unicodedata.category(character) in ("Cf", "Zs")  # to draw
            self._had[key] = nothing or _ink(self.fonts[font], character) != self._lacking[font]
        return self._had[key]

    def _draw(self, text: str, font: int, from_right: bool) -> Drawn:
        key = text, font, from_right
        if key not in self._drawn:
            _make_room(self._drawn)
            direction = "rtl" if from_right else "ltr"
            mask, (left, top) = self.fonts[font].getmask2(text, "L", direction=direction, anchor="ls")
            greys = GREYS[np.frombuffer(bytes(mask), np.uint8).reshape(mask.size[::-1])]
            advance = round(self.fonts[font].getlength(text, direction=direction))
            self._drawn[key] = Drawn(greys, int(left), int(top), advance)
        return self._drawn[key]


def _ink(font: ImageFont.FreeTypeFont, character: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(character)
    return mask.size, bytes(mask)


def _clusters(word: str) -> Iterator[str]:
    """Characters with the marks that belong to them."""
    start = 0
    for i in range(1, len(word)):
        marks = unicodedata.category(word[i])[0] == "M" or unicodedata.category(word[i]) == "Cf"
        if not (marks or word[i] in JOINED or word[i - 1] in JOINING):
            yield word[start:i]
            start = i
    if word:
        yield word[start:]


def _directed(pieces: Sequence[Piece]) -> tuple[list[Directed], bool]:
    """The pieces, each with whether it runs from the right, and whether the text does.

    A text runs as its first letter does, a number as the letters before it; what is neutral runs as both its
    neighbours do, or as the text where they differ.
    """
    if not any(piece.direction == "R" for piece in pieces):
        return [Directed(piece.text, piece.font, False) for piece in pieces], False
    base = next((piece.direction for piece in pieces if piece.direction in ("L", "R")), "L")
    letters, known = base, []
    for piece in pieces:
        if piece.direction in ("L", "R"):
            letters = piece.direction
        known.append(letters if piece.direction else "")
    before = list(accumulate([base, *known], _latest))[1:]
    after = list(accumulate([base, *known[::-1]], _latest))[:0:-1]
    sides = [one if one == other else base for one, other in zip(before, after, strict=True)]
    return [Directed(*piece[:2], side == "R") for piece, side in zip(pieces, sides, strict=True)], base == "R"


def _latest(before: str, now: str) -> str:
    return now or before


def _seen(line: Sequence[Directed], from_right: bool) -> Iterator[Directed]:
    """The pieces of a line from left to right."""
    runs = [list(run) for _, run in groupby(line, key=lambda piece: piece.from_right)]
    for run in reversed(runs) if from_right else runs:
        yield from reversed(run) if run[0].from_right else run


def _stripped(line: list[Directed]) -> list[Directed]:
    while line[-1].text == " ":
        line.pop()
    return line


def _put(greys: np.ndarray, page: np.ndarray, x: int, y: int) -> None:
    """Lays greys [h, w] with their left upper corner at x, y of a page, whatever of it is inside."""
    height, width = page.shape
    if x >= 0 <= y and x + greys.shape[1] <= width and y + greys.shape[0] <= height:  # nearly all, and twice as fast
        place = page[y : y + greys.shape[0], x : x + greys.shape[1]]
        np.minimum(place, greys, out=place)
        return
    part = greys[max(-y, 0) : max(height - y, 0), max(-x, 0) : max(width - x, 0)]
    place = page[max(y, 0) : max(y, 0) + part.shape[0], max(x, 0) : max(x, 0) + part.shape[1]]
    np.minimum(place, part, out=place)


def _make_room(kept: dict) -> None:
    if len(kept) >= KEPT:
        kept.clear()
