"""Fonts by name, each character from the first that has it: DejaVu, then Noto's font of its script."""

from __future__ import annotations

import shutil
import subprocess
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache

from PIL import ImageFont, features

USUAL = ("DejaVuSans.ttf", "NotoSans-Regular.ttf")
LAST = ("NotoSansCJK-Regular.ttc", "NotoSansSymbols2-Regular.ttf", "unifont.otf")
# scripts whose font is not spelt like the first word of their letters' names
SPELT = {"NKO": "NKo", "OL": "OlChiki", "MEETEI": "MeeteiMayek", "CANADIAN": "CanadianAboriginal"}
EAST_ASIAN = {"CJK", "IDEOGRAPHIC", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO"}
DRAWN_WITH_OTHERS = ("M", "Cf", "Z")  # categories of marks, joiners, spaces: in the font of what is before them


class NoFont(Exception):
    """A character that no font has; the text says of what script, and which package of Debian helps."""


def check_fonts(names: Sequence[str]) -> None:
    """Raises ValueError, one line, for a font that is not there, or a Pillow that cannot join letters."""
    if not features.check("raqm"):
        raise ValueError("fonts: this Pillow joins no letters of Arabic or Indic scripts; one with libraqm and fribidi")
    for name in names:
        if font_file(name) is None:
            raise ValueError(f"fonts: {name!r} is not there; a font's file or family, as `fc-list` names them")


@cache
def font_file(name: str) -> str | None:
    """The file of a font, by its path, its file's name or its family; None where there is none."""
    try:
        return str(ImageFont.truetype(name, 10).path)
    except OSError:
        pass
    if shutil.which("fc-match") is None:
        return None
    said = subprocess.run(["fc-match", "-f", "%{family}\n%{file}", name], capture_output=True, text=True).stdout
    families, _, file = said.partition("\n")  # fontconfig always finds some font
    return file if name.casefold() in families.casefold().split(",") else None


def script(character: str) -> str:
    """The first word of its name, which tells the script of a letter: LATIN, THAI, CJK."""
    return unicodedata.name(character, "").partition(" ")[0].partition("-")[0]


@lru_cache(maxsize=100_000)
def font_for(character: str, names: tuple[str, ...]) -> str:
    """The file of the font that draws a character. Raises NoFont."""
    own = SPELT.get(script(character), script(character).capitalize())
    for name in (*names, *USUAL, f"NotoSans{own}-Regular.ttf", f"NotoSerif{own}-Regular.ttf", *LAST):
        file = font_file(name)
        if file is not None and ord(character) in _characters(file):
            return file
    if not unicodedata.category(character).startswith("L"):
        raise NoFont(f"no font for a symbol such as U+{ord(character):04X} (Debian: fonts-unifont)")
    package = "fonts-noto-cjk" if own.upper() in EAST_ASIAN else "fonts-noto-core"
    raise NoFont(f"no font for {own} (Debian: {package})")


def runs(text: str, names: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """(file of the font, piece) of a line, in its order. Raises NoFont."""
    font, piece = "", ""
    for character in text:
        joined = unicodedata.category(character).startswith(DRAWN_WITH_OTHERS)
        needed = font if joined and font else font_for(character if not joined else " ", names)
        if needed != font and piece:
            yield font, piece
            piece = ""
        font, piece = needed, piece + character
    if piece:
        yield font, piece


@cache
def opened_font(file: str, size: int) -> ImageFont.FreeTypeFont:
    """A font in a size of pixels."""
    return ImageFont.truetype(file, size)


@cache
def _characters(file: str) -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(file).get_charmap())
