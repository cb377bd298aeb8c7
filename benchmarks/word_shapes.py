"""Rendered pages as bags of word shapes: an image tower that knows words by their ink, and no letter.

Word spotting (Manmatha et al. 1996) for pages of one font: lines and words are where blank rows and columns part the
ink, and two words are one where their pixels are. A page is how often each known shape comes, weighted by how rare it
is. Which shapes there are is counted on training pages; what they mean is left to the layer behind.
"""

from collections import Counter
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from datamodules.images import opened
from datamodules.reading.whole import WholeSample, WholeSamples
from mmtrain.towers.tower import ImageTower

INK = 128  # darker than this
TALLEST, SPACE = 14, 3  # pixels of a line, what is taller is an illustration; of the narrowest blank between words
SHAPES = "shapes.npz"
NOWHERE = 1e-6  # so that a page of unknown shapes alone has a row too


class WordShapes(ImageTower):
    """forward(pages uint8 [N, 3, H, W]) -> (unit rows [N, K], the same [N, 1, K]).

    Args:
        width: K, how many shapes it knows.
        shapes: The file that `count_shapes` wrote; None where they come with a model.
        frozen: Kept for what reads it; nothing in it trains.
    """

    codes: Tensor
    rarity: Tensor

    def __init__(self, width: int, shapes: str | None = None, frozen: bool = True) -> None:
        super().__init__(frozen)
        self.width, self.shapes = width, None
        known = {"codes": np.arange(width), "rarity": np.zeros(width)} if shapes is None else dict(np.load(shapes))
        self.register_buffer("codes", torch.from_numpy(known["codes"]))  # ascending
        self.register_buffer("rarity", torch.from_numpy(known["rarity"]).float())

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        known, rows = self.codes.cpu().numpy(), np.zeros((len(images), self.width), np.float32)
        for row, page in zip(rows, images[:, 0].cpu().numpy(), strict=True):
            found = np.array(list(codes(page)), np.int64)
            place = np.searchsorted(known, found).clip(max=self.width - 1)
            np.add.at(row, place[known[place] == found], 1)
        often = torch.from_numpy(rows).to(self.rarity.device)
        pooled = functional.normalize(torch.log1p(often) * self.rarity + NOWHERE, dim=-1)
        return pooled, pooled[:, None]


def count_shapes(pages: Path, out: Path) -> int:
    """Writes shapes.npz, codes int64 and rarity float64 [K], of what shards of pages show twice; returns K."""
    samples = WholeSamples.named(str(pages))
    counts, number = Counter[int](), len(samples)
    for place in range(number):
        sample = samples[place]
        assert isinstance(sample, WholeSample)
        counts.update(set(codes(np.asarray(opened(sample.files["png"]).convert("RGB"))[..., 0])))
    known = sorted(code for code, pages_with in counts.items() if pages_with > 1)
    rarity = np.log(number / np.array([counts[code] for code in known]))
    np.savez(out / SHAPES, codes=np.array(known, np.int64), rarity=rarity)
    return len(known)


def codes(page: np.ndarray) -> Iterator[int]:
    """A number of 63 bits for each word of a page uint8 [H, W], line by line; the same for the same pixels."""
    ink = page < INK
    for top, bottom in runs(ink.any(1), 1):
        if bottom - top <= TALLEST:
            line = ink[top:bottom]
            for left, right in runs(line.any(0), SPACE):
                word = line[:, left:right]
                rows = np.flatnonzero(word.any(1))
                word = word[rows[0] : rows[-1] + 1]
                content = bytes(word.shape) + np.packbits(word).tobytes()
                yield int.from_bytes(blake2b(content, digest_size=8).digest(), "big") >> 1


def runs(mask: np.ndarray, gap: int) -> list[tuple[int, int]]:
    """[start, end) of the runs in bool [n], those closer than `gap` together as one."""
    places = np.flatnonzero(mask)
    ends = np.flatnonzero(np.diff(places, append=len(mask) + gap + 1) > gap)
    starts = np.concatenate([[0], ends[:-1] + 1])
    return [(int(places[a]), int(places[b]) + 1) for a, b in zip(starts, ends, strict=True)] if len(places) else []
