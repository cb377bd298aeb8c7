"""A sample's picture as a row of a batch sees it."""

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from datamodules.images import BrokenImage, ImagePipeline, ImageTooLarge, preview
from datamodules.shards.samples import FEATURE_SUFFIX, BrokenSample, Sample, read_features


def sample_views(
    sample: Sample, images: ImagePipeline, rngs: Sequence[random.Random], preview_side: int | None
) -> tuple[list[Tensor], bytes]:
    """A sample's picture or features as `picture_views` gives them. Raises BrokenSample where it has neither."""
    if sample.image is None:
        raise BrokenSample("missing image")
    if sample.suffix == FEATURE_SUFFIX:
        return [torch.from_numpy(read_features(sample.image))] * max(1, len(rngs)), b""
    return picture_views(sample.image, images, rngs, preview_side)


def picture_views(
    content: bytes, images: ImagePipeline, rngs: Sequence[random.Random], preview_side: int | None = None
) -> tuple[list[Tensor], bytes]:
    """A training view for each `rng`, without one the evaluation view; and a preview of so many pixels, or b"".

    Raises BrokenSample when the picture cannot be decoded.
    """
    try:
        image = images.open(content)
        views = images.views(image, rngs) if rngs else [images.evaluate(image)]
        return views, b"" if preview_side is None else preview(image, content, preview_side)
    except (ImageTooLarge, BrokenImage) as error:
        raise BrokenSample(error.cause) from None
