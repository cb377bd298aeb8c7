"""Pictures and captions that repeat what was packed before, exactly or nearly."""

from __future__ import annotations

import hashlib
import unicodedata
import zlib
from collections.abc import Callable, Hashable, Iterable
from itertools import pairwise
from typing import Generic, TypeVar

import numpy as np
from PIL import Image, ImageOps

from datamodules.curation.filters import CaptionFilter, PictureFilter
from datamodules.images import opaque
from datamodules.shards.encoding import opened_image

SIDE, LOW = 32, 8  # pixels of a picture that is hashed, and frequencies of each side
COSINES = np.cos(np.pi / SIDE * np.outer(np.arange(LOW), np.arange(SIDE) + 0.5))  # the lowest of a DCT-II
LETTERS, HASHES, FOUND = 3, 128, 0.95  # of a shingle; of a signature; of the pairs that are just as near as asked
FACTORS = np.random.default_rng(0).integers(0, 1 << 63, (2, HASHES), np.uint64) | np.uint64(1)
FEATURES = b"\x93NUMPY"
T = TypeVar("T")


class Kept(Generic[T]):
    """What was kept so far, found by bands of which two that are near share one."""

    def __init__(self) -> None:
        self._kept: dict[tuple[int, Hashable], list[T]] = {}

    def repeats(self, value: T, bands: Iterable[Hashable], near: Callable[[T], bool]) -> bool:
        """Whether a value is near one that was kept; if it is not, it is kept."""
        places = list(enumerate(bands))
        if any(near(other) for place in places for other in self._kept.get(place, ())):
            return True
        for place in places:
            self._kept.setdefault(place, []).append(value)
        return False


class SamePicture(PictureFilter):
    """Files of equal bytes."""

    cause = "duplicate image"
    remembers = True

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        self._seen: set[bytes] = set()

    def repeats(self, content: bytes, where: str) -> bool:
        digest = hashlib.blake2b(content, digest_size=16).digest()
        found = digest in self._seen
        self._seen.add(digest)
        return found


class NearPicture(PictureFilter):
    """Pictures whose perceptual hash differs in few of its 64 bits from one that was kept. Features are none.

    Args:
        bits: The most that differ, 0 to 8. A picture takes 150 bytes of memory for each band, one more than bits.

    Raises:
        ValueError: for a number out of range.
    """

    cause = "near-duplicate image"
    remembers = True

    def __init__(self, bits: int = 4) -> None:
        if not 0 <= bits <= 8:
            raise ValueError(f"near_pictures: got {bits}, expected 0 to 8 of 64 bits")
        self.bits = bits
        self.begin()

    def begin(self) -> None:
        self._kept = Kept[int]()

    def repeats(self, content: bytes, where: str) -> bool:
        if content.startswith(FEATURES):
            return False
        number = perceptual_hash(content, where)
        edges = [64 * band // (self.bits + 1) for band in range(self.bits + 2)]
        bands = [(number >> low) % (1 << high - low) for low, high in pairwise(edges)]
        return self._kept.repeats(number, bands, lambda other: (number ^ other).bit_count() <= self.bits)


class NearCaption(CaptionFilter):
    """Captions that share most runs of three letters with one of their language that was kept, as MinHash estimates
    (Broder 1997): lower case, NFKC, 128 hashes, which err by 0.04. A caption takes 4 kilobytes of memory.

    Args:
        similarity: Shared runs among those of either, 0.5 to 1, from which on a caption is left out.

    Raises:
        ValueError: for a number out of range.
    """

    cause = "near-duplicate caption"
    remembers = True

    def __init__(self, similarity: float = 0.8) -> None:
        if not 0.5 <= similarity <= 1:
            raise ValueError(f"near_captions: got {similarity}, expected 0.5 to 1")
        self.similarity = similarity
        # the more hashes in a band, the fewer pairs are compared in vain
        found = (1 - (1 - similarity**rows) ** (HASHES // rows) for rows in range(1, HASHES + 1))
        self._rows = max(rows for rows, share in enumerate(found, 1) if share >= FOUND)
        self.begin()

    def begin(self) -> None:
        self._kept = Kept[np.ndarray]()

    def keeps(self, text: str, language: str) -> bool:
        own = signature(text)
        starts = range(0, HASHES - self._rows + 1, self._rows)
        bands = [(language, own[start : start + self._rows].tobytes()) for start in starts]
        return not self._kept.repeats(own, bands, lambda other: (own == other).mean() >= self.similarity)


def perceptual_hash(content: bytes, where: str) -> int:
    """64 bits of an encoded picture: which of the lowest 8 x 8 frequencies of 32 x 32 grey pixels are above their
    median. Raises BadRow for a picture that cannot be read.
    """
    with opened_image(content, where) as image:
        grey = opaque(ImageOps.exif_transpose(image)).convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        low = COSINES @ np.asarray(grey, np.float64) @ COSINES.T
    low = low.round(6)  # of even pixels nothing is left but rounding
    return int.from_bytes(np.packbits(low > np.median(low)).tobytes())


def signature(text: str) -> np.ndarray:
    """uint32 [128]: of each hash the least over the runs of letters."""
    letters = unicodedata.normalize("NFKC", text).casefold().strip()
    runs = {letters[start : start + LETTERS] for start in range(max(len(letters) - LETTERS + 1, 1))}
    numbers = np.array([zlib.crc32(run.encode(errors="surrogatepass")) for run in sorted(runs)], np.uint64)
    with np.errstate(over="ignore"):
        return ((numbers[:, None] * FACTORS[0] + FACTORS[1]) >> np.uint64(32)).min(0).astype(np.uint32)
