"""What every packer can do on the way: smaller pictures, no duplicates, no excluded ids, full shards."""

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image
from tiny_shards import pack_jsonl, png_bytes

from datamodules.packing import pack_once, pack_rows, read_jsonl


def photo(width, height, kind="JPEG", mode="RGB", **options):
    """An encoded picture: red on the left, blue on the right."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2, 0] = pixels[:, width // 2 :, 2] = 255
    encoded = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(encoded, kind, **options)
    return encoded.getvalue()


@pytest.fixture
def packed(tmp_path):
    """packed({name: bytes or None}, **options): the listing and the stored pictures, by id, of a pack of these."""

    def run(pictures, out="out", **options):
        rows = []
        for name, content in pictures.items():
            if content is not None:
                (tmp_path / name).write_bytes(content)
            rows.append({"id": f"id-{name}", "image": name, "captions": {"en": f"this is {name}"}})
        manifest = tmp_path / "manifest.jsonl"
        manifest.write_text("\n".join(json.dumps(row) for row in rows))
        listing = pack_jsonl(manifest, tmp_path / out, **options)
        found = {}
        for path in sorted((tmp_path / out).glob("*.tar")):
            with tarfile.open(path) as tar:
                files = {member.name: tar.extractfile(member).read() for member in tar}
            for name, content in files.items():
                if name.endswith(".json"):
                    key = name.removesuffix(".json")
                    (stored,) = (other for other in files if other.startswith(f"{key}.") and other != name)
                    found[json.loads(content)["id"].removeprefix("id-")] = (stored.rpartition(".")[2], files[stored])
        return listing, found

    return run


def opened(stored):
    return Image.open(io.BytesIO(stored[1]))


def test_image_size_bounds_the_shorter_side(packed):
    wide, tall, small = photo(300, 200, quality=95), photo(90, 301, "PNG"), photo(50, 40)
    listing, found = packed({"wide.jpg": wide, "tall.png": tall, "small.jpg": small}, image_size=60)
    assert listing["samples"] == 3
    assert [opened(found[name]).size for name in ("wide.jpg", "tall.png")] == [(90, 60), (60, 201)]
    assert [found[name][0] for name in ("wide.jpg", "tall.png")] == ["jpg", "jpg"]
    assert found["small.jpg"] == ("jpg", small)  # small enough: the same bytes
    left, right = (np.asarray(opened(found["wide.jpg"]))[:, column].mean(0) for column in (10, 80))
    assert left[0] > 240 > 10 > left[2] and right[2] > 240 > 10 > right[0]


def test_image_format_encodes_every_picture_and_quality_counts(packed):
    rough = np.random.RandomState(0).randint(0, 255, (64, 64, 3)).astype(np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(rough).save(encoded, "PNG")
    sizes = []
    for quality in (30, 95):
        _, found = packed({"a.png": encoded.getvalue()}, f"q{quality}", image_format="webp", quality=quality)
        assert found["a.png"][0] == "webp" and opened(found["a.png"]).size == (64, 64)
        sizes.append(len(found["a.png"][1]))
    assert sizes[0] < sizes[1]
    _, found = packed({"a.png": encoded.getvalue()}, "jpeg", image_format="jpeg")
    assert found["a.png"][0] == "jpg"


def test_pictures_are_turned_upright_when_encoded_anew(packed):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it a quarter clockwise
    _, found = packed({"a.jpg": photo(200, 100, exif=exif)}, image_size=50)
    image = opened(found["a.jpg"])
    assert image.size == (50, 100) and 0x0112 not in image.getexif()
    assert np.asarray(image)[10, 25, 0] > 200  # what was left is at the top


def test_transparency_survives_in_webp_and_is_white_in_jpeg(packed):
    encoded = io.BytesIO()
    Image.new("RGBA", (20, 20), (255, 0, 0, 0)).save(encoded, "PNG")
    _, found = packed({"a.png": encoded.getvalue()}, "webp", image_format="webp")
    assert opened(found["a.png"]).convert("RGBA").getpixel((5, 5))[3] == 0
    _, found = packed({"a.png": encoded.getvalue()}, "jpeg", image_format="jpeg")
    assert min(opened(found["a.png"]).getpixel((5, 5))) > 250


@pytest.mark.parametrize("content", [photo(200, 100)[:600], b"GIF89a", b"", b"\x00" * 100], ids=len)
def test_a_picture_that_cannot_be_decoded_is_told(packed, content):
    listing, found = packed({"a.jpg": content, "b.jpg": photo(20, 10)}, image_size=5)
    assert list(found) == ["b.jpg"]
    assert listing["skipped"] == {"broken image": 1}
    assert listing["shards"][0]["skipped_rows"] == ["row 1 (id-a.jpg): broken image"]


def test_features_are_stored_as_they_are(packed):
    encoded = io.BytesIO()
    np.save(encoded, np.ones(4, np.float32))
    _, found = packed({"a.npy": encoded.getvalue()}, image_size=5)
    assert found["a.npy"] == ("npy", encoded.getvalue())


def test_deduplicate_keeps_the_first_of_equal_pictures(packed):
    same, other = png_bytes(1), png_bytes(2)
    pictures = {"a.png": same, "b.png": other, "c.png": same, "d.png": same, "e.png": other, "f.png": png_bytes(3)}
    listing, found = packed(pictures)
    assert listing["samples"] == 6
    listing, found = packed(pictures, "out-1", deduplicate=True, samples_per_shard=2)
    assert list(found) == ["a.png", "b.png", "f.png"]
    assert (listing["samples"], listing["skipped"]) == (3, {"duplicate image": 3})
    named = [row for shard in listing["shards"] for row in shard["skipped_rows"]]
    assert named == [f"row {row} (id-{name}.png): duplicate image" for row, name in ((3, "c"), (4, "d"), (5, "e"))]
    assert packed(pictures, "out-2", deduplicate=True, samples_per_shard=2, workers=2) == (listing, found)


def test_a_row_that_was_not_packed_does_not_make_a_duplicate(packed, tmp_path):
    (tmp_path / "ids.txt").write_text("id-a.png\n")
    listing, found = packed(
        {"a.png": png_bytes(1), "b.png": png_bytes(1)}, deduplicate=True, exclude_ids=tmp_path / "ids.txt"
    )
    assert list(found) == ["b.png"]
    assert listing["skipped"] == {"excluded id": 1}


def test_exclude_ids_takes_ids_and_names_of_pictures(packed, tmp_path):
    (tmp_path / "ids.txt").write_text("\ufeffid-a.png\nb.png\r\nc\n\n  d  \nid-e\nnobody")
    pictures = {f"{name}.png": png_bytes(1) for name in "abcdef"}
    listing, found = packed(pictures, exclude_ids=tmp_path / "ids.txt")
    assert list(found) == ["e.png", "f.png"]
    assert listing["skipped"] == {"excluded id": 4}
    with pytest.raises(ValueError, match="exclude_ids: .*none.txt cannot be read"):
        packed(pictures, exclude_ids=tmp_path / "none.txt")


def test_only_ids_are_a_split(packed, tmp_path):
    (tmp_path / "ids.txt").write_text("id-a.png\nb.png\nc\nnobody\n")
    pictures = {f"{name}.png": png_bytes(1) for name in "abcdef"}
    listing, found = packed(pictures, only_ids=tmp_path / "ids.txt")
    assert list(found) == ["a.png", "b.png", "c.png"] and listing["skipped"] == {}
    (tmp_path / "ids.txt").write_text("nobody")
    with pytest.raises(ValueError, match="only_ids: .*ids.txt names no row of the source"):
        packed(pictures, only_ids=tmp_path / "ids.txt")


def test_shards_are_full_however_many_rows_are_left_out(packed):
    pictures = {f"{n}.png": png_bytes(n) if n % 10 == 5 else None for n in range(100)}
    listing, found = packed(pictures, samples_per_shard=4)
    assert [shard["samples"] for shard in listing["shards"]] == [4, 4, 2]
    assert (listing["samples"], listing["skipped"]) == (10, {"missing image": 90})
    assert [len(shard["skipped_rows"]) for shard in listing["shards"]] == [20, 20, 13]
    assert listing["shards"][0]["skipped_rows"][0] == "row 1 (id-0.png): missing image"


def test_other_options_make_other_shards_and_the_same_ones_none(packed, tmp_path):
    pictures = {f"{n}.png": photo(40, 30 + n, "PNG") for n in range(4)}
    packed(pictures, samples_per_shard=2, image_size=20)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.glob("out/*.tar")}
    packed(pictures, samples_per_shard=2, image_size=20)
    assert written == {path: path.stat().st_mtime_ns for path in tmp_path.glob("out/*.tar")}
    _, found = packed(pictures, samples_per_shard=2, image_size=10)
    assert {min(opened(stored).size) for stored in found.values()} == {10}


def test_shards_do_not_depend_on_where_the_source_lies(packed, tmp_path):
    pictures = {f"{n}.png": png_bytes(n) for n in range(3)}
    packed(pictures)
    (tmp_path / "moved").mkdir()
    for name in (*pictures, "manifest.jsonl"):
        (tmp_path / name).rename(tmp_path / "moved" / name)
    pack_jsonl(tmp_path / "moved" / "manifest.jsonl", tmp_path / "again")
    for name in ("shards.json", "shard-000000.tar"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"image_size": 0}, "image_size: 0 is no number of pixels; at least 1"),
        ({"image_format": "gif"}, "image_format: 'gif' is unknown; jpeg or webp"),
        ({"quality": 0}, "quality: 0 is out of range; 1 to 100"),
        ({"workers": 0}, "samples_per_shard, workers: 1000, 0 are too small"),
        ({"images": "nowhere"}, "images: nowhere is no folder"),
        ({"split": "val"}, "no row with split 'val'; its splits are none"),
    ],
)
def test_wrong_options_are_one_line(packed, options, says):
    with pytest.raises(ValueError, match=says):
        packed({"a.png": png_bytes()}, **options)


def test_the_first_to_pack_into_a_cache_wins(tmp_path):
    (tmp_path / "a.png").write_bytes(png_bytes())
    manifest = tmp_path / "rows.jsonl"
    manifest.write_text(json.dumps({"id": "a", "image": "a.png", "captions": {"en": "a"}}))
    out = tmp_path / "cache" / "packed"

    def slowly():
        yield from read_jsonl(manifest)
        pack_rows(read_jsonl(manifest), out, images=tmp_path)  # meanwhile, another process

    pack_once(slowly(), out, images=tmp_path)
    assert [path.name for path in out.parent.iterdir()] == ["packed"]
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    pack_once(slowly(), out, images=tmp_path)
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before
