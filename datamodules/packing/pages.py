"""Texts and pictures as pictures of pages, so that the search of documents can be tried on anything."""

from __future__ import annotations

import io
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageOps

from datamodules.images import opaque
from datamodules.packing.cells import read_path
from datamodules.packing.fonts import NoFont, check_fonts, opened_font, runs, script
from datamodules.shards.encoding import BadRow, encoded_sample, opened_image

LEADING = 1.5  # height of a line, in font sizes
BREAKABLE = {"CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR"}  # scripts without spaces
TSHEG = "\u0f0b"  # between the syllables of Tibetan
MOST_PAGES = 1000  # of a row


@dataclass(frozen=True)
class PageLayout:
    """How pages look, in pixels: the picture on top, the text below; what does not fit goes to the next page.

    Args:
        width: Of a page.
        height: Of a page.
        margin: On all sides.
        font_size: Of the text.
        picture_share: The most of the height inside the margins that the picture takes.
        fonts: Names of fonts that come before the usual ones.

    Raises:
        ValueError: for a page without room, and a font that is not there.
    """

    width: int = 448
    height: int = 448
    margin: int = 24
    font_size: int = 18
    picture_share: float = 0.5
    fonts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if min(self.width, self.height) - 2 * self.margin < 2 * self._leading or self.margin < 0 or self.font_size < 4:
            raise ValueError(
                f"size: pages of {self.width} x {self.height} with margins of {self.margin} have no room for a font of"
                f" {self.font_size}; two lines at least, of a font of 4 or more"
            )
        if not 0 < self.picture_share < 1:
            raise ValueError(f"picture_share: {self.picture_share} is out of range; between 0 and 1")
        check_fonts(self.fonts)

    @property
    def settings(self) -> dict[str, Any]:
        """What pages depend on besides their rows."""
        return asdict(self) | {"fonts": list(self.fonts)}

    def samples(self, folder: Path, task: dict) -> Iterator[dict | BadRow]:
        """The pages of a shard's rows."""
        for number, record, image in task["rows"]:
            where = f"row {number + 1} ({record['id']})"
            try:
                yield from self._pages(number, record, None if image is None else read_path(folder, image), where)
            except BadRow as bad:
                yield bad
            except OSError:
                yield BadRow("missing image", where, image)
            except NoFont as lacking:
                yield BadRow(str(lacking), where)

    def draw(self, text: str, picture: Image.Image | None = None) -> Iterator[tuple[str, Image.Image]]:
        """The pages of a text, each with what it shows of it. Raises NoFont."""
        left = list(self._wrapped(text))
        while left or picture is not None:
            page = Image.new("RGB", (self.width, self.height), "white")
            top = self.margin
            if picture is not None:
                most = int((self.height - 2 * self.margin) * self.picture_share)
                fitted = ImageOps.contain(picture, (self.width - 2 * self.margin, most))
                page.paste(fitted, ((self.width - fitted.width) // 2, top))
                top += fitted.height + self._leading // 2
                picture = None
            room = (self.height - self.margin - top) // self._leading
            for place, line in enumerate(left[:room]):
                self._draw_line(ImageDraw.Draw(page), line, top + place * self._leading)
            yield "\n".join(left[:room]), page
            left = left[room:]

    @property
    def _leading(self) -> int:
        return round(LEADING * self.font_size)

    def _pages(self, number: int, record: dict, image: bytes | None, where: str) -> list[dict]:
        picture = None
        if image is not None:
            with opened_image(image, where) as opened:
                picture = opaque(ImageOps.exif_transpose(opened))
        samples = []
        for place, (text, page) in enumerate(self.draw(record["text"], picture)):
            if place == MOST_PAGES:
                raise BadRow(f"more than {MOST_PAGES:,} pages", where)
            own = {"row": record["id"], "page": place, "text": text}
            id = f"{record['id']}-{place + 1}" if place else record["id"]
            content = io.BytesIO()
            page.save(content, "PNG")
            samples.append(encoded_sample(number * MOST_PAGES + place, record | own | {"id": id}, content.getvalue()))
        return samples

    def _wrapped(self, text: str) -> Iterator[str]:
        """The lines of a text, none of them wider than the page."""
        most = self.width - 2 * self.margin
        for paragraph in text.splitlines():
            # a tab is a space, other controls are nothing
            paragraph = "".join(each for each in paragraph.replace("\t", " ") if unicodedata.category(each) != "Cc")
            line = ""
            for word in words(paragraph):
                pieces = [word] if self._length(word.rstrip()) <= most else clusters(word)
                for piece in pieces:
                    if line and self._length((line + piece).rstrip()) > most:
                        yield line.rstrip()
                        line = ""
                    line += piece
            if line.strip():
                yield line.rstrip()

    def _length(self, text: str) -> float:
        return sum(opened_font(file, self.font_size).getlength(piece) for file, piece in runs(text, self.fonts))

    def _draw_line(self, draw: ImageDraw.ImageDraw, line: str, top: int) -> None:
        backward = is_right_to_left(line)
        direction = "rtl" if backward else "ltr"
        x = float(self.width - self.margin if backward else self.margin)
        for file, piece in runs(line, self.fonts):
            font = opened_font(file, self.font_size)
            length = font.getlength(piece)
            x -= length if backward else 0
            draw.text((x, top + self.font_size), piece, "black", font, anchor="ls", direction=direction)
            x += 0 if backward else length


def words(text: str) -> Iterator[str]:
    """Pieces of a line behind which it may break: words with their spaces, letters of scripts that have none."""
    for word in re.findall(rf"[^\s{TSHEG}]*(?:{TSHEG}|\s+|$)", text):
        if any(script(character) in BREAKABLE for character in word):
            yield from clusters(word)
        elif word:
            yield word


def clusters(text: str) -> list[str]:
    """Characters with the marks and spaces that belong to them."""
    found: list[str] = []
    for character in text:
        if found and unicodedata.category(character).startswith(("M", "Cf", "Z", "P")):
            found[-1] += character
        else:
            found.append(character)
    return found


def is_right_to_left(text: str) -> bool:
    """Whether the first letter that has a direction runs to the left."""
    directions = (unicodedata.bidirectional(character) for character in text)
    return next((each in ("R", "AL") for each in directions if each in ("L", "R", "AL")), False)
