"""Fonts of this machine, found by name. None comes with this package."""

from __future__ import annotations

import os
import re
from pathlib import Path

from PIL import ImageFont, features

PAPER = 127  # of 255, as CLIPPO has it; ink is 0
# Debian's packages by how a font's name begins, the longer beginnings first
PACKAGES = {
    "unifont": "unifont",
    "notosanscjk": "fonts-noto-cjk",
    "notoserifcjk": "fonts-noto-cjk",
    "noto": "fonts-noto-core",
    "dejavu": "fonts-dejavu-core",
    "liberation": "fonts-liberation",
}


def unifont_file() -> Path:
    """GNU Unifont's bitmaps, one line of hexadecimal digits a character. Raises ValueError where they are missing."""
    folders = [os.environ.get("XDG_DATA_HOME", "~/.local/share"), *os.environ.get("XDG_DATA_DIRS", "").split(":")]
    for folder in (*filter(None, folders), "/usr/local/share", "/usr/share"):
        file = Path(folder, "unifont", "unifont.hex").expanduser()
        if file.is_file():
            return file
    raise ValueError(f"tokenizer.font: 'unifont' is not on this machine; {_package('unifont')}")


def shaping_font(name: str, pixels: int) -> ImageFont.FreeTypeFont:
    """A TrueType or OpenType font, shaped by HarfBuzz.

    Args:
        name: Its file's, without the ending; blanks and "-Regular" may be left out, as in "Noto Sans Thai".
        pixels: Its size.

    Raises:
        ValueError: for a name that is a path, or of no font here; for a Pillow that does not shape.
    """
    if not re.fullmatch(r"[\w +-]+", name):
        raise ValueError(f"tokenizer.font: got {name!r}, expected a font's name, as Noto Sans Thai")
    if not features.check("raqm"):
        raise ValueError("tokenizer.font: this Pillow has no raqm, which shapes text; pip install --upgrade pillow")
    compact = name.replace(" ", "")
    for file in (compact, f"{compact}-Regular"):
        try:
            return ImageFont.truetype(file, pixels, layout_engine=ImageFont.Layout.RAQM)
        except OSError:
            continue
    raise ValueError(f"tokenizer.font: {name!r} is not on this machine; {_package(compact)}")


def _package(name: str) -> str:
    packages = (package for beginning, package in PACKAGES.items() if name.lower().startswith(beginning))
    package = next(packages, None)
    return f"apt-get install {package}" if package else "put its file into ~/.local/share/fonts"
