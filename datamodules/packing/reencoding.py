"""Images made smaller on their way into a shard."""

from __future__ import annotations

import io
from typing import Literal

from PIL import Image, ImageOps

from datamodules.images import opaque
from datamodules.shards.encoding import opened_image


def reencoded(
    content: bytes, where: str, *, size: int | None, image_format: Literal["jpeg", "webp"] | None, quality: int
) -> bytes:
    """The image with its shorter side at most `size` pixels, upright, encoded as `image_format`.

    Args:
        content: The encoded image.
        where: The row, for the error.
        size: None keeps the image's size.
        image_format: None keeps the bytes of an image that is small enough, and writes others as jpeg.
        quality: 1 to 100.

    Transparency survives in webp and is laid on white in jpeg; of an animation the first frame is kept. Raises BadRow
    when the image cannot be decoded.
    """
    with opened_image(content, where) as image:
        shorter = min(image.size)
        target = min(size or shorter, shorter)
        shrinks = target < shorter
        if not shrinks and image_format is None:
            return content
        if shrinks:
            # libjpeg may decode at 1/2, 1/4 or 1/8 as long as twice the target size is left for the resizing
            width, height = (-(-2 * side * target // shorter) for side in image.size)
            image.draft("RGB", (width, height))
        # turned here, because the images are written without EXIF
        upright = ImageOps.exif_transpose(image)
        if image_format == "webp" and upright.has_transparency_data:
            upright = upright.convert("RGBA")
        else:
            upright = opaque(upright)
        if shrinks:
            shorter = min(upright.size)
            sides = [max(1, round(side * target / shorter)) for side in upright.size]
            upright = upright.resize(sides, Image.Resampling.LANCZOS)
        encoded = io.BytesIO()
        upright.save(encoded, image_format or "jpeg", quality=quality)
        return encoded.getvalue()
