"""Pictures of free size: how many patches of which part of the picture, and one number of them for a batch."""

import io
import random

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import NaFlexPipeline, Source
from datamodules.naflex import grid_of, unpacked


def picture(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8))


def slow_grid(width: int, height: int, most: int) -> tuple[int, int]:
    """The grid at the largest of many scales at which at most so many patches of one pixel cover the picture."""
    found = (1, 1)
    for scale in np.geomspace(1e-4, 2 * most, 20_000):
        grid = max(1, int(np.ceil(height * scale))), max(1, int(np.ceil(width * scale)))
        found = grid if grid[0] * grid[1] <= most else found
    return found


@pytest.mark.parametrize("most", [1, 7, 64, 256])
def test_the_grid_is_the_finest_that_covers_the_picture(most: int) -> None:
    for width, height in [(40, 40), (97, 31), (31, 97), (640, 479), (100, 7)]:
        rows, columns = grid_of(width, height, most)
        assert (rows, columns) == slow_grid(width, height, most)
        assert rows * columns <= most
    assert grid_of(10_000, 10, 4096)[1] == 255  # a byte counts them


def test_patches_lie_where_the_picture_has_them() -> None:
    image, pipeline = picture(24, 16), NaFlexPipeline(patches=10, patch_size=8)
    packed = pipeline.evaluate(image)
    assert packed.shape == pipeline.shape == (10, 2 + 3 * 8 * 8) and packed.dtype == torch.uint8
    pixels, places, there = unpacked(packed)
    assert there.tolist() == [True] * 6 + [False] * 4 and not packed[6:].any()
    for patch, (row, column) in zip(pixels[:6].view(6, 8, 8, 3), places[:6].tolist(), strict=True):
        whole = torch.from_numpy(np.array(image))
        assert torch.equal(patch, whole[8 * row : 8 * row + 8, 8 * column : 8 * column + 8])


def test_photos_are_turned_and_long_ones_are_cut() -> None:
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = 8
    picture(64, 32).rotate(-90, expand=True).save(file, "JPEG", exif=exif)
    pipeline = NaFlexPipeline(patches=32, patch_size=4)
    upright = pipeline.evaluate(pipeline.open(file.getvalue()))
    assert (unpacked(upright)[1].amax(0) + 1).tolist() == [4, 8]
    assert (unpacked(pipeline.evaluate(picture(4000, 2)))[1].amax(0) + 1).tolist() == [1, 16]


@pytest.mark.parametrize(
    "options", [{"patches": 0}, {"patches": []}, {"patches": [16, 5000]}, {"patch_size": 0}, {"interpolation": "best"}]
)
def test_options_out_of_range(options: dict) -> None:
    with pytest.raises(ValueError, match="images\\."):
        NaFlexPipeline(**options)


def test_a_batch_draws_one_number_of_patches_and_again_the_same(data, listed_shards) -> None:
    shards, pipeline = listed_shards(36), NaFlexPipeline(patches=[4, 9, 16], patch_size=4)
    batches = list(data(train=shards, images=pipeline, batch_size=3).train_dataloader())
    assert all(batch.images.shape == (3, 16, 2 + 3 * 16) for batch in batches)
    drawn = [unpacked(batch.images)[2].sum(1).tolist() for batch in batches]
    assert len(drawn) == 12 and all(len(set(each)) == 1 for each in drawn)
    assert {each[0] for each in drawn} == {4, 9, 16}
    again = list(data(train=shards, images=pipeline, batch_size=3).train_dataloader())
    assert all(torch.equal(one.images, other.images) for one, other in zip(batches, again, strict=True))


def test_evaluation_takes_the_largest_number() -> None:
    pipeline = NaFlexPipeline([4, 16], 4)
    assert unpacked(pipeline.evaluate(picture(8, 8)))[2].sum() == 16
    assert pipeline.of_batch(random.Random(0)).shape == pipeline.shape


def test_a_source_with_another_number_of_patches_is_refused(data, listed_shards) -> None:
    sources = [Source(str(listed_shards(8)), images=NaFlexPipeline(4, 4))]
    with pytest.raises(ValueError, match="one size for all, and one number of patches"):
        data(train=sources, images=NaFlexPipeline(9, 4))
