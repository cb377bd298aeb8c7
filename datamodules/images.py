"""Encoded images to uint8 pixels.

Decoding is where a loader spends its time, so training decodes JPEG at a reduced scale (libjpeg's "draft") and resizes
the crop once; evaluation decodes in full. Neither normalises: that is the tower's, on the device.
"""

from __future__ import annotations

import contextlib
import functools
import io
import math
import random
import warnings
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

# Formats of the web and of cameras. Pillow knows more: EPS is given to another program, others are hardly ever tried.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
LONGEST = 16  # a picture is cut to so many times its shorter side before that is resized
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")
# A crop may come out of libjpeg with this share of the pixels it needs, each way, and be enlarged: some two of 255 away
# from full decoding on average, in two thirds of the time (benchmarks/loader.py).
REDUCED = 0.8


class ImageTooLarge(ValueError):
    """The header promises more pixels than the cap allows; nothing was decoded."""

    cause = "image too large"


class BrokenImage(ValueError):
    """The bytes are no image, or one that cannot be decoded."""

    cause = "broken image"


@functools.cache
def _there(formats: tuple[str, ...]) -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in formats if name in Image.OPEN)  # AVIF is not in every Pillow


def opened(content: bytes, formats: tuple[str, ...] = FORMATS) -> Image.Image:
    """An encoded image of one of the formats, its header read. Raises ImageTooLarge or BrokenImage."""
    with _decoding(), warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(io.BytesIO(content), formats=_there(formats))


@contextlib.contextmanager
def _decoding() -> Iterator[None]:
    # Pillow's readers raise whatever a damaged file makes them stumble over (SyntaxError, struct.error, IndexError...)
    try:
        yield
    except Image.DecompressionBombError as error:
        raise ImageTooLarge(str(error)) from None
    except Exception as error:
        raise BrokenImage(f"{type(error).__name__}: {error}") from None


def resizing() -> ModuleType:
    """torchvision's functions, imported when an image is resized: that takes seconds, and a text query has none."""
    from torchvision.transforms.v2 import functional

    return functional


class ImagePipeline:
    """From an encoded image to uint8 [3, size, size].

    Args:
        size: Side of the square the towers see, in pixels.
        augment: Crop at random while training; False trains on the evaluation view.
        scale: Smallest and largest share of the area that a training crop keeps, in (0, 1].
        ratio: Narrowest and widest training crop, width over height.
        flip: Mirror half of the training images. Off, because text, digits and flags must not be mirrored.
        resize: How evaluation reaches the square: "shortest" scales the shorter side and cuts the centre, "squash"
            scales both sides.
        interpolation: nearest, bilinear, bicubic or lanczos.
        max_pixels: Images whose header says more than this are refused before decoding; at most Pillow's own limit
            of 178,956,970.
        transform: A torchvision v2 transform on uint8 [3, size, size], training only, seeded by the sample.

    Raises:
        ValueError: for an option out of range.
    """

    def __init__(
        self,
        size: int = 224,
        augment: bool = True,
        scale: tuple[float, float] = (0.6, 1.0),
        ratio: tuple[float, float] = (0.75, 4 / 3),
        flip: bool = False,
        resize: Literal["shortest", "squash"] = "shortest",
        interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bicubic",
        max_pixels: int = 89_478_485,
        transform: nn.Module | None = None,
    ) -> None:
        if not 1 <= size <= 10_000:
            raise ValueError(f"images.size: {size} is not a number of pixels; 1 to 10,000")
        if not 0 < scale[0] <= scale[1] <= 1:
            raise ValueError(f"images.scale: {tuple(scale)} is no range of shares; 0 < low <= high <= 1")
        if not 0 < ratio[0] <= ratio[1]:
            raise ValueError(f"images.ratio: {tuple(ratio)} is no range of ratios; 0 < low <= high")
        if resize not in ("shortest", "squash"):
            raise ValueError(f"images.resize: {resize!r} is unknown; shortest or squash")
        if interpolation not in INTERPOLATIONS:
            raise ValueError(f"images.interpolation: {interpolation!r} is unknown; {', '.join(INTERPOLATIONS)}")
        self.size, self.augment, self.scale, self.ratio = size, augment, tuple(scale), tuple(ratio)
        self.flip, self.resize, self.interpolation = flip, resize, interpolation
        self.max_pixels, self.transform = max_pixels, transform

    def arguments(self) -> dict[str, object]:
        """What describes the evaluation view; the transform is of training alone."""
        names = ("size", "augment", "scale", "ratio", "flip", "resize", "interpolation", "max_pixels")
        return {name: getattr(self, name) for name in names} | {"transform": None}

    @property
    def shape(self) -> tuple[int, ...]:
        """Of every view: channels, height, width."""
        return 3, self.size, self.size

    def of_batch(self, rng: random.Random) -> ImagePipeline:
        """The pipeline of one training batch of all processes, which share the `rng`."""
        return self

    def open(self, content: bytes) -> Image.Image:
        """The image, its header read and its pixels not yet. Raises ImageTooLarge or BrokenImage."""
        image = opened(content)
        width, height = image.size
        if width * height > self.max_pixels:
            raise ImageTooLarge(f"{width} x {height} pixels, more than images.max_pixels = {self.max_pixels}")
        return image

    def train(self, image: Image.Image, rng: random.Random | None = None) -> Tensor:
        """A training view, uint8 [3, size, size]; the same `rng` state gives the same view. Raises BrokenImage."""
        return self.views(image, [rng or random.Random()])[0]

    def views(self, image: Image.Image, rngs: Sequence[random.Random]) -> list[Tensor]:
        """A training view for each `rng`, each uint8 [3, size, size]; decoded once. Raises BrokenImage."""
        views = self._training_views(image, rngs) if self.augment else [self.evaluate(image)] * len(rngs)
        if self.transform is None:
            return views
        return [self._transformed(view, rng) for view, rng in zip(views, rngs, strict=True)]

    def _transformed(self, view: Tensor, rng: random.Random) -> Tensor:
        assert self.transform is not None
        # torchvision draws from torch's global generator, which belongs to the model when there are no workers
        with torch.random.fork_rng(devices=[]):
            # torch.manual_seed would also note for CUDA, for each view, from where it was called: a millisecond
            torch.default_generator.manual_seed(rng.getrandbits(63))
            return self.transform(view)

    @_decoding()
    def _training_views(self, image: Image.Image, rngs: Sequence[random.Random]) -> list[Tensor]:
        if image.format != "JPEG":
            image.load()  # which turns a TIFF upright
        orientation, full = image.getexif().get(0x0112, 1), image.size
        crops = [self._crop(full, rng) for rng in rngs]
        shortest = min(edge for crop in crops for edge in crop[2:])
        # what libjpeg can decode at: 1/8, 1/4 or 1/2, the smallest that gives every crop enough pixels
        reduced = next((part for part in (8, 4, 2) if shortest >= part * REDUCED * self.size), 1)
        if image.format == "JPEG":
            image.draft("RGB", (full[0] // reduced, full[1] // reduced))
        enlarged = reduced if image.size == full else 1  # the same crops however it is decoded
        cuts = [tuple(enlarged * round(edge / reduced) for edge in crop) for crop in crops]
        whole: Image.Image | Tensor = opaque(image)
        if self.interpolation != "lanczos":  # torch has none; the others it does in half of Pillow's time
            whole = torch.from_numpy(np.array(whole)).permute(2, 0, 1)
        return [self._cut(whole, image.size, cut, orientation, rng) for cut, rng in zip(cuts, rngs, strict=True)]

    def _cut(
        self,
        whole: Image.Image | Tensor,
        size: tuple[int, int],
        crop: tuple[int, ...],
        orientation: int,
        rng: random.Random,
    ) -> Tensor:
        left, top = min(crop[0], size[0] - 1), min(crop[1], size[1] - 1)
        width, height = max(1, min(crop[2], size[0] - left)), max(1, min(crop[3], size[1] - top))
        functional = resizing()
        method = functional.InterpolationMode(self.interpolation)
        view = functional.resized_crop(whole, top, left, height, width, [self.size, self.size], method)
        if orientation != 1:
            view = functional.to_pil_image(view) if isinstance(view, Tensor) else view
            view.getexif()[0x0112] = orientation
            view = ImageOps.exif_transpose(view)
        view = view.contiguous() if isinstance(view, Tensor) else pixels(view)
        return view.flip(-1) if self.flip and rng.random() < 0.5 else view

    def evaluate(self, image: Image.Image) -> Tensor:
        """The evaluation view, uint8 of `shape`: decoded in full, resized like torchvision. Raises BrokenImage."""
        with _decoding():
            return self.view(central(opaque(ImageOps.exif_transpose(image))))

    def view(self, image: Image.Image) -> Tensor:
        """The evaluation view uint8 [3, size, size] of an upright RGB image."""
        functional = resizing()
        method = functional.InterpolationMode(self.interpolation)
        if self.resize == "squash":
            return pixels(functional.resize(image, [self.size, self.size], interpolation=method))
        image = functional.resize(image, [self.size], interpolation=method)
        return pixels(functional.center_crop(image, [self.size, self.size]))

    def in_view(self, image: Image.Image, x: float, y: float) -> tuple[float, float]:
        """Where a place of an upright image lies in its evaluation view, both as shares of width and height from the
        left and the top; what is not within 0 to 1 is cut off.
        """
        if self.resize == "squash":
            return x, y
        turned = image.getexif().get(0x0112, 1) > 4
        width, height = image.size[::-1] if turned else image.size
        return 0.5 + (x - 0.5) * width / min(width, height), 0.5 + (y - 0.5) * height / min(width, height)

    def _crop(self, size: tuple[int, int], rng: random.Random) -> tuple[float, ...]:
        """left, top, width, height of a crop of random area and shape, cut to what the image holds."""
        area = size[0] * size[1] * rng.uniform(*self.scale)
        shape = math.exp(rng.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
        width = min(float(size[0]), max(1.0, math.sqrt(area * shape)))
        height = min(float(size[1]), max(1.0, math.sqrt(area / shape)))
        return rng.uniform(0, size[0] - width), rng.uniform(0, size[1] - height), width, height


def central(image: Image.Image) -> Image.Image:
    """The middle of an image that is more than LONGEST times as long as wide; else the image.

    With its shorter side at a tower's size the whole of it might not fit into memory.
    """
    width, height = (min(side, LONGEST * min(image.size)) for side in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image if image.size == (width, height) else image.crop((left, top, left + width, top + height))


def preview(image: Image.Image, content: bytes, side: int) -> bytes:
    """A JPEG of the whole picture, upright, at most `side` pixels on the longer side and never enlarged.

    Args:
        image: The picture, opened.
        content: What it was opened from; a JPEG that is small enough, upright and without EXIF is kept as it is.
        side: Pixels.

    Raises:
        BrokenImage: when it cannot be decoded.
    """
    small = max(image.size) <= side and len(content) <= side**2
    if image.format == "JPEG" and small and image.mode in ("RGB", "L") and "exif" not in image.info:
        return content
    file = io.BytesIO()
    with _decoding():
        upright = opaque(ImageOps.exif_transpose(image))
        upright.thumbnail((side, side))
        upright.save(file, "JPEG", quality=85)
    return file.getvalue()


def opaque(image: Image.Image) -> Image.Image:
    """The image as RGB; palettes are resolved, transparency is laid on white, as a page would show it, and levels of
    more than 8 bits are scaled.
    """
    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(_in_8_bits(np.asarray(image), image.mode)).convert("RGB")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _in_8_bits(levels: np.ndarray, mode: str) -> np.ndarray:
    """The levels of one channel as uint8; modes I and F do not say how high they go, so the highest one does."""
    if mode.startswith("I;16"):
        return (levels >> 8).astype(np.uint8)
    levels = np.nan_to_num(levels.astype(np.float32), posinf=0, neginf=0)
    highest = levels.max()
    ends = (1, 255, 2**16 - 1, 2**31 - 1) if mode == "F" else (255, 2**16 - 1, 2**31 - 1)
    end = next((end for end in ends if highest <= end), highest)
    return (levels.clip(0) * (255 / end)).round().astype(np.uint8)


def pixels(image: Image.Image) -> Tensor:
    """uint8 [3, H, W] of an RGB image."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
