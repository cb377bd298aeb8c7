"""Texts as grey pixels, for a tower that reads pictures (CLIPPO, Tschannen et al., CVPR 2023)."""

from __future__ import annotations

import json
import unicodedata
import warnings
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datamodules.tokenizers.fonts import PAPER, shaping_font, unifont_file
from datamodules.tokenizers.shaping import ShapedPages
from datamodules.tokenizers.tokenizer import Tokenizer
from datamodules.tokenizers.unifont import SIDE, UnifontPages

UNIFONT = "unifont"


class RenderedText(Tokenizer):
    """Draws texts line by line; a token is a row of pixels.

    `unifont` is GNU Unifont's bitmaps as CLIPPO draws them: every character of the basic plane, none of them shaped,
    and the same pixels on every machine. Other fonts are shaped by HarfBuzz, as Arabic, Indic scripts and Thai need it,
    and laid out from the right where a text begins so; another version of Pillow may draw other pixels. Texts are read
    in NFC, with one blank for each run of white space.

    Args:
        size: Width and greatest height of a page in pixels, what the image tower reads.
        font: "unifont", or names of fonts on this machine, as Noto Sans; a character is drawn in the first that has it.
        font_size: Pixels; 16 for unifont.
        lowercase: Draw lower-case letters alone.
        digest: Of the fonts' files, filled in where it is not given, and kept with the model: one line says so where
            the fonts here are others.

    Raises:
        ValueError: for a font that is not here, naming Debian's package; a page without room for a line.
    """

    vocabulary_size = 256

    def __init__(
        self,
        size: int = 224,
        font: str | list[str] = UNIFONT,
        font_size: int = 16,
        lowercase: bool = True,
        digest: str | None = None,
    ) -> None:
        names = [font] if isinstance(font, str) else list(font)
        if not names or (UNIFONT in names and (len(names) > 1 or font_size != SIDE)):
            raise ValueError(
                f"tokenizer.font: got {font} of {font_size} pixels, expected {UNIFONT} alone, of {SIDE}, or other fonts"
            )
        if size < 2 * SIDE or not 4 <= font_size <= size:
            raise ValueError(f"tokenizer.size: got {size} for letters of {font_size}; at least {2 * SIDE}")
        if names == [UNIFONT]:
            files = [unifont_file()]
            self._pages: UnifontPages | ShapedPages = UnifontPages(files[0], size)
        else:
            fonts = [shaping_font(name, font_size) for name in names]
            files = [Path(str(each.path)) for each in fonts]
            self._pages = ShapedPages(fonts, size)
        found = sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]
        if digest not in (None, found):
            warnings.warn(f"tokenizer.font: {font} here is not of the version with digest {digest}", stacklevel=2)
        self.size, self.font, self.font_size, self.lowercase = size, font, font_size, lowercase
        self.digest = digest or found

    def __call__(self, captions: Sequence[str], languages: Sequence[str]) -> tuple[Tensor, Tensor]:
        """uint8 [N, H, size] grey pixels, 0 ink on 127, and bool [N, H] mask of the rows that each text has."""
        pages = [self._pages.page(self._clean(caption)) for caption in captions]
        self.cut += sum(not whole for _, whole in pages)
        heights = np.array([len(page) for page, _ in pages], np.int64)
        rows = np.full((len(pages), int(heights.max(initial=0)), self.size), PAPER, np.uint8)
        for row, (page, _) in zip(rows, pages, strict=True):
            row[: len(page)] = page
        return torch.from_numpy(rows), torch.from_numpy(np.arange(rows.shape[1]) < heights[:, None])

    def _clean(self, text: str) -> str:
        text = text.encode("utf-8", errors="replace").decode()  # a half of a surrogate pair is no character
        text = " ".join(unicodedata.normalize("NFC", text).split())
        return text.lower() if self.lowercase else text

    def save(self, folder: str | Path) -> None:
        """Writes rendered.json; no font, which is found by its name."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        settings = {name: getattr(self, name) for name in ("size", "font", "font_size", "lowercase", "digest")}
        (Path(folder) / "rendered.json").write_text(json.dumps({"tokenizer": "RenderedText"} | settings))
