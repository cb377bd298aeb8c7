"""GNU Unifont as CLIPPO draws it (Tschannen et al., CVPR 2023; big_vision, pp/proj/clippo/pp_ops.py).

Each character is a bitmap of 16 rows, put behind the one before in the order of the text: nothing is shaped or turned
round. It is cut to its ink and one blank column on the left, and is 4 columns wide at least.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from datamodules.tokenizers.fonts import PAPER

SIDE = 16
SPACING, LEAST_WIDTH = 1, 4


class UnifontPages:
    """Draws texts with the bitmaps of one file. Characters that it lacks are blank.

    Args:
        file: unifont.hex.
        size: Width and height of a page in pixels.
    """

    def __init__(self, file: Path, size: int) -> None:
        self.size, self.lines = size, size // SIDE
        rows = np.zeros((2**16 + 1, SIDE), ">u2")  # the last is what other planes' characters get
        for line in file.read_text(encoding="ascii").splitlines():
            code, _, digits = line.partition(":")
            bitmap = bytes.fromhex(digits)
            rows[int(code, 16)] = np.frombuffer(bitmap, ">u2" if len(bitmap) == 2 * SIDE else "u1")
            if len(bitmap) == SIDE:
                rows[int(code, 16)] <<= 8
        inked = np.unpackbits(np.bitwise_or.reduce(rows.view(np.uint8).reshape(-1, SIDE, 2), axis=1), axis=1)
        any_ink = inked.any(1)
        first = np.where(any_ink, np.maximum(inked.argmax(1) - SPACING, 0), 0)
        end = np.where(any_ink, SIDE - inked[:, ::-1].argmax(1), SPACING)
        self.first = first
        self.widths = np.minimum(np.maximum(end, first + LEAST_WIDTH), SIDE) - first
        bits = np.unpackbits(rows.view(np.uint8).reshape(len(rows), SIDE, 2), axis=2)
        self.columns = np.packbits(bits.transpose(0, 2, 1), axis=2)  # uint8 [characters, 16 columns, 2]

    def page(self, text: str) -> tuple[np.ndarray, bool]:
        """Grey pixels uint8 [rows, size] of the rows that are used, and whether all of the text is there."""
        codes = np.frombuffer(text.encode("utf-32-le", errors="replace"), np.uint32)
        codes = np.minimum(codes, len(self.columns) - 1)
        widths = self.widths[codes]
        ends = widths.cumsum()
        line = ends // (self.size - widths.max(initial=LEAST_WIDTH))  # where a letter's end falls
        kept = int(np.searchsorted(line, self.lines))
        codes, widths, line, starts = codes[:kept], widths[:kept], line[:kept], (ends - widths)[:kept]
        lines = 1 + int(line.max(initial=0))
        places = starts - starts[np.searchsorted(line, line)]  # of each letter in its line
        within = np.arange(widths.sum()) - starts.repeat(widths)
        page = np.zeros((lines, self.size, 2), np.uint8)
        drawn = self.columns[codes.repeat(widths), self.first[codes].repeat(widths) + within]
        page[line.repeat(widths), places.repeat(widths) + within] = drawn
        ink = np.unpackbits(page, axis=2).transpose(0, 2, 1).reshape(lines * SIDE, self.size)
        return (1 - ink) * np.uint8(PAPER), kept == len(ends)
