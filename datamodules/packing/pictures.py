"""Pictures made smaller on their way into a shard."""

from __future__ import annotations

import io
from typing import Literal

from PIL import Image, ImageOps

from datamodules.images import opaque
from datamodules.shards.writing import BadRow


def reencoded(
    content: bytes, where: str, *, size: int | None, image_format: Literal["jpeg", "webp"] | None, quality: int
) -> bytes:
    """The picture with its shorter side at most `size` pixels, upright, encoded as `image_format`.

    Args:
        content: The encoded picture.
        where: The row, for the error.
        size: None keeps the picture's size.
        image_format: None keeps the bytes of a picture that is small enough, and writes others as jpeg.
        quality: 1 to 100.

    Transparency survives in webp and is laid on white in jpeg; of an animation the first frame is kept. Raises BadRow
    when the picture cannot be decoded.
    """
    try:
        with Image.open(io.BytesIO(content)) as opened:
            shorter = min(opened.size)
            wanted = min(size or shorter, shorter)
            shrinks = wanted < shorter
            if not shrinks and image_format is None:
                return content
            if shrinks:
                # libjpeg may decode at 1/2, 1/4 or 1/8 as long as twice the wanted size is left for the resizing
                width, height = (-(-2 * side * wanted // shorter) for side in opened.size)
                opened.draft("RGB", (width, height))
            # turned here, because the pictures are written without EXIF
            image = ImageOps.exif_transpose(opened)
            if image_format == "webp" and image.has_transparency_data:
                image = image.convert("RGBA")
            else:
                image = opaque(image)
            if shrinks:
                shorter = min(image.size)
                sides = [max(1, round(side * wanted / shorter)) for side in image.size]
                image = image.resize(sides, Image.Resampling.LANCZOS)
            encoded = io.BytesIO()
            image.save(encoded, image_format or "jpeg", quality=quality)
            return encoded.getvalue()
    # Pillow's readers raise whatever a damaged file makes them stumble over (SyntaxError, struct.error, IndexError...)
    except Exception:
        raise BadRow("broken image", where) from None
