"""Pictures of every kind become uint8 [3, size, size]."""

import io
import random
import tracemalloc

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_shards import png_bytes
from torchvision.transforms import v2

from datamodules.images import BrokenImage, ImagePipeline, ImageTooLarge, central, opened, preview

SMALL = ImagePipeline(size=16)


def encoded(image, kind="PNG", **options):
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def evaluated(content, **options):
    pipeline = ImagePipeline(size=16, **options)
    return pipeline.evaluate(pipeline.open(content))


def photo(width=640, height=480):
    """A smooth picture, as photographs are."""
    y, x = np.mgrid[:height, :width] / 60
    return Image.fromarray((127 + 120 * np.stack([np.sin(x), np.cos(y), np.sin(x + y)], -1)).astype(np.uint8))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "PA"])
def test_transparency_is_laid_on_white(mode):
    image = Image.new("RGBA", (20, 20), (255, 0, 0, 0))
    image.paste((0, 0, 255, 255), (0, 0, 20, 10))
    content = encoded(image.convert(mode), "TIFF" if mode == "PA" else "PNG")
    view = evaluated(content)
    assert view.shape == (3, 16, 16) and view.dtype == torch.uint8
    assert (view[:, 12] >= 250).all()
    assert (view[0, 3] < 120).all()


def test_a_transparent_palette_colour_is_white():
    image = Image.new("P", (16, 16), 3)
    image.putpalette([0, 0, 0] * 256)
    assert (evaluated(encoded(image, "PNG", transparency=3)) == 255).all()


@pytest.mark.parametrize("mode", ["1", "L", "CMYK", "I;16", "YCbCr"])
def test_other_modes_keep_their_brightness(mode):
    grey = Image.new("L", (16, 16), 200)
    image = Image.fromarray(np.full((16, 16), 200 * 257, np.uint16)) if mode == "I;16" else grey.convert(mode)
    view = evaluated(encoded(image, "TIFF"))
    assert view.float().mean() == pytest.approx(200, abs=2 if mode != "1" else 30)


PGM = b"P5\n16 16\n65535\n" + np.full((16, 16), 100 * 257, ">u2").tobytes()


@pytest.mark.parametrize(
    "content",
    [
        PGM,
        *(encoded(Image.fromarray(np.full((16, 16), 100 * up, np.int32)), "TIFF") for up in (1, 257, 257 * 32768)),
        *(encoded(Image.fromarray(np.full((16, 16), 100 * up, np.float32)), "TIFF") for up in (1 / 255, 1, 257)),
    ],
    ids=["16 bits", "I of 8", "I of 16", "I of 31", "F to 1", "F to 255", "F of 16"],
)
def test_more_than_8_bits_are_scaled_and_not_clipped(content):
    for view in (evaluated(content), SMALL.train(SMALL.open(content), random.Random(0))):
        assert view.float().mean() == pytest.approx(100, abs=1)


@pytest.mark.parametrize("kind", ["EPS", "ICO", "PCX", "TGA", "JPEG2000", "IM"])
def test_formats_that_are_not_of_the_web_are_no_picture(kind):
    with pytest.raises(BrokenImage):
        opened(encoded(photo(64, 64), kind))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "MPO"])
def test_formats_of_the_web_and_of_cameras(kind):
    assert (
        evaluated(encoded(photo(64, 64), kind)).float() - evaluated(encoded(photo(64, 64))).float()
    ).abs().mean() < 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_orientation_is_obeyed_in_training_and_evaluation(orientation, kind):
    upright = Image.new("RGB", (40, 40), "black")
    upright.paste("white", (0, 0, 20, 20))
    stored = Image.Exif()
    stored[0x0112] = orientation
    inverse = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the transpose that undoes what the tag asks for
    turned = upright if orientation == 1 else upright.transpose(Image.Transpose(inverse[orientation]))
    content = encoded(turned, kind, exif=stored, quality=95)
    pipeline = ImagePipeline(size=16, scale=(1.0, 1.0), ratio=(1.0, 1.0))
    for view in (pipeline.evaluate(pipeline.open(content)), pipeline.train(pipeline.open(content), random.Random(0))):
        assert view[:, :6, :6].float().mean() > 240
        assert view[:, 10:].float().mean() < 15 and view[:, :, 10:].float().mean() < 15


def test_evaluation_is_torchvisions_resize_and_centre_crop_pixel_for_pixel():
    content = encoded(photo(), "JPEG")
    reference = v2.Compose([v2.Resize(16, v2.InterpolationMode.BICUBIC), v2.CenterCrop(16), v2.PILToTensor()])
    assert torch.equal(evaluated(content), reference(Image.open(io.BytesIO(content)).convert("RGB")))
    squashed = v2.Compose([v2.Resize((16, 16), v2.InterpolationMode.BICUBIC), v2.PILToTensor()])
    assert torch.equal(evaluated(content, resize="squash"), squashed(Image.open(io.BytesIO(content)).convert("RGB")))


@pytest.mark.parametrize(("size", "decoded"), [(64, (80, 60)), (75, (80, 60)), (76, (160, 120)), (500, (640, 480))])
def test_training_decodes_jpeg_smaller_and_looks_the_same(size, decoded):
    whole = ImagePipeline(size=size, scale=(1.0, 1.0), ratio=(4 / 3, 4 / 3))
    jpeg, png = encoded(photo(), "JPEG", quality=95), encoded(photo())
    opened = whole.open(jpeg)
    view = whole.train(opened, random.Random(0))
    assert opened.size == decoded  # of 640 x 480: the smallest with four fifths of the rows and columns asked for
    loaded = whole.open(jpeg)
    loaded.load()  # too late to decode it smaller
    for other in (whole.open(png), loaded):
        assert (view.float() - whole.train(other, random.Random(0)).float()).abs().mean() < 3


def test_a_crop_is_the_same_however_it_is_decoded():
    pipeline = ImagePipeline(size=64, scale=(0.3, 0.5))
    for seed in range(20):
        crops = [
            pipeline.train(pipeline.open(encoded(photo(), *kind)), random.Random(seed)) for kind in (("JPEG",), ())
        ]
        assert (crops[0].float() - crops[1].float()).abs().mean() < 4


def test_the_same_random_state_gives_the_same_crop_and_no_mirror():
    opened = [SMALL.open(png_bytes(1, (50, 30))) for _ in range(3)]
    views = [SMALL.train(image, random.Random(seed)) for image, seed in zip(opened, (1, 1, 2), strict=True)]
    assert torch.equal(views[0], views[1]) and not torch.equal(views[0], views[2])
    half = Image.new("RGB", (32, 32), "black")
    half.paste("white", (0, 0, 16, 32))
    for seed in range(20):
        view = SMALL.train(half, random.Random(seed)).float()
        assert view[:, :, 0].mean() > view[:, :, -1].mean()


def test_a_torchvision_transform_is_seeded_by_the_sample_and_leaves_torch_alone():
    pipeline = ImagePipeline(size=16, transform=v2.ColorJitter(0.5, 0.5))
    before = torch.get_rng_state()
    first, second = (pipeline.train(photo(), random.Random(3)) for _ in range(2))
    assert torch.equal(first, second) and not torch.equal(first, pipeline.train(photo(), random.Random(4)))
    assert torch.equal(before, torch.get_rng_state())


def test_without_augmentation_training_sees_the_evaluation_view():
    pipeline = ImagePipeline(size=16, augment=False)
    assert torch.equal(pipeline.train(photo(), random.Random(0)), pipeline.evaluate(photo()))


def test_the_cap_is_read_from_the_header():
    small = ImagePipeline(size=16, max_pixels=99)
    with pytest.raises(ImageTooLarge, match="100 x 1 pixels, more than images.max_pixels = 99"):
        small.open(png_bytes(0, (100, 1)))


@pytest.mark.parametrize("content", [b"", b"GIF89a", png_bytes(0)[:20], png_bytes(0, (40, 40))[:-30]])
def test_bytes_that_are_no_picture(content):
    with pytest.raises(BrokenImage):
        SMALL.evaluate(SMALL.open(content))
    with pytest.raises(BrokenImage):
        SMALL.train(SMALL.open(content))


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (3, 2)])
def test_tiny_and_thin_pictures(shape):
    for _ in range(5):
        assert SMALL.train(SMALL.open(png_bytes(0, shape))).shape == (3, 16, 16)
    assert SMALL.evaluate(SMALL.open(png_bytes(0, shape))).shape == (3, 16, 16)


@pytest.mark.parametrize("shape", [(1, 60_000), (60_000, 1)])
def test_a_thin_picture_takes_the_memory_of_a_small_one(shape):
    content, large = encoded(Image.new("RGB", shape, "red")), ImagePipeline(size=224)
    tracemalloc.start()
    view = large.evaluate(large.open(content))
    held = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert view.shape == (3, 224, 224) and (view[0] == 255).all()
    assert held < 20 << 20


def test_a_thin_picture_keeps_its_middle():
    levels = np.linspace(0, 255, 400).astype(np.uint8)
    thin = Image.fromarray(np.repeat(levels[None], 4, 0)).convert("RGB")
    assert SMALL.evaluate(thin).float().mean() == pytest.approx(127.5, abs=1)
    assert central(thin).size == (64, 4) and central(photo()).size == (640, 480)


def test_a_picture_without_memory_is_a_broken_one(monkeypatch):
    def no_room(*_):
        raise MemoryError

    monkeypatch.setattr("datamodules.images.pixels", no_room)
    with pytest.raises(BrokenImage, match="MemoryError"):
        SMALL.evaluate(photo())


@pytest.mark.parametrize(
    "wrong", [{"size": 0}, {"scale": (0, 1)}, {"ratio": (2, 1)}, {"resize": "pad"}, {"interpolation": "magic"}]
)
def test_settings_that_cannot_be_are_one_line(wrong):
    with pytest.raises(ValueError, match=f"images.{next(iter(wrong))}"):
        ImagePipeline(**wrong)


def test_a_preview_is_whole_upright_and_never_enlarged():
    def seen(content):
        made = preview(SMALL.open(content), content, 64)
        return Image.open(io.BytesIO(made)).size, made

    small, turned = encoded(photo(40, 20), "JPEG"), Image.Exif()
    turned[0x0112] = 6
    assert seen(small) == ((40, 20), small)
    assert seen(encoded(photo(200, 100), "JPEG"))[0] == (64, 32)
    size, upright = seen(encoded(photo(40, 20), "JPEG", exif=turned))
    assert size == (20, 40) and b"Exif" not in upright
    assert seen(encoded(photo(40, 20).convert("RGBA")))[0] == (40, 20)
    assert seen(encoded(photo(40, 20).convert("CMYK"), "JPEG"))[1][:2] == b"\xff\xd8"
    with pytest.raises(BrokenImage):
        seen(encoded(photo(400, 200))[:-4000])
