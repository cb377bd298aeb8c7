"""A row of a source as the files of a sample; or the one cause for which it is none."""

from __future__ import annotations

import contextlib
import io
import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from PIL import Image, ImageOps

from datamodules.images import opaque, opened
from datamodules.shards.samples import (
    FEATURE_SUFFIX,
    BrokenSample,
    read_features,
    read_labels,
    read_record,
    without_missing,
)

UNDECODED = re.compile("[\udc80-\udcff]")  # what "surrogateescape" makes of bytes that are no UTF-8
SUFFIX_OF_FORMAT = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "MPO": "jpg"}
# none whose reader starts another program, as that of EPS does
FORMATS = (*SUFFIX_OF_FORMAT, "AVIF", "BMP", "DIB", "GIF", "ICO", "JPEG2000", "PCX", "PPM", "QOI", "TGA", "TIFF")
PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA")
T = TypeVar("T")


class BadRow(Exception):
    """A row that cannot become a sample: `cause` is counted; `where` (line, id) is listed, and a file's `name` where
    the id does not say it.
    """

    def __init__(self, cause: str, where: str, name: str = "") -> None:
        listed = f"{where}: {cause}" + (f" {name}" if name not in where else "")
        super().__init__(listed.encode(errors="backslashreplace").decode())  # what is no Unicode cannot be written
        self.cause, self.where, self.name = cause, where, name


def convert(rows: Iterable[Any], make: Callable[..., T]) -> Iterator[T | BadRow]:
    """make(*row) of each row, or the BadRow that it raises. BadRows among the rows pass through."""
    for row in rows:
        try:
            yield row if isinstance(row, BadRow) else make(*row)
        except BadRow as bad:
            yield bad


@contextlib.contextmanager
def opened_image(content: bytes, where: str) -> Iterator[Image.Image]:
    """The encoded image, opened. Raises BadRow for whatever goes wrong with it inside the block."""
    # Pillow's readers raise whatever a damaged file makes them stumble over (SyntaxError, struct.error, IndexError...)
    try:
        with opened(content, FORMATS) as image:
            yield image
    except Exception:
        raise BadRow("broken image", where) from None


def encoded_sample(
    number: int,
    record: dict,
    image: bytes | None,
    suffix: str | None = None,
    files: Mapping[str, bytes] | None = None,
) -> dict:
    """A sample as TarWriter takes it.

    Args:
        number: Its place in the source; makes the key unique and the order readable.
        record: The JSON object; "id" and "captions" are checked.
        image: The encoded image, None without; other formats than jpg, png and webp are stored upright as png. With
            suffix "npy", features.
        files: Further ones: features under "<name>.npy", pictures under "<name>", "<name>1" and so on.

    Raises BadRow when the record breaks the format, an image's header or further features cannot be read.
    """
    content, _ = encoded_record(number, record)
    where = f"row {number + 1} ({record['id']})"
    sample: dict = {"__key__": f"{number:09d}-{_safe(record['id'])}", "json": content}
    if suffix == FEATURE_SUFFIX:
        sample[suffix] = image
    elif image is not None:
        stored, suffix = _stored_image(image, where)
        sample[suffix] = stored
    for name, further in (files or {}).items():
        try:
            if name.endswith(f".{FEATURE_SUFFIX}"):
                read_features(further)
                sample[name] = further
            else:
                stored, suffix = _stored_image(further, where)
                sample[f"{name}.{suffix}"] = stored
        except (BadRow, BrokenSample) as error:
            raise BadRow(error.cause, where, name) from None
    return sample


def encoded_record(number: int, record: dict) -> tuple[bytes, dict[str, list[str]]]:
    """The JSON of a sample, and its captions by language.

    Captions and labels that are null or NaN, as tables are exported, are left out, and whole floats among the labels
    become numbers. Raises BadRow when its id, captions or labels break the format.
    """
    where = f"row {number + 1}"
    if not isinstance(record.get("id"), str) or not record["id"]:
        raise BadRow("id is no string", where)
    try:
        if "labels" in record:
            record = record | {"labels": read_labels(record["labels"])}
    except BrokenSample as error:
        raise BadRow(error.cause, f"{where} ({record['id']})") from None
    if isinstance(record.get("captions"), dict):
        record = record | {"captions": without_missing(record["captions"])}
    text = json.dumps(record, ensure_ascii=False, separators=(",", ":"))
    try:
        content = text.encode()
    except UnicodeEncodeError:
        if UNDECODED.search(text):
            raise BadRow("invalid UTF-8", where) from None
        content = text.encode(errors="replace")  # half a pair, as JSON can spell it
    try:
        return content, read_record({"json": content})[1]
    except BrokenSample as error:
        raise BadRow(error.cause, f"{where} ({record['id']})") from None


def _stored_image(content: bytes, where: str) -> tuple[bytes, str]:
    with opened_image(content, where) as image:
        if image.format in SUFFIX_OF_FORMAT:
            return content, SUFFIX_OF_FORMAT[image.format]
        image.load()  # which turns a TIFF
        upright, png = ImageOps.exif_transpose(image), io.BytesIO()
        (upright if upright.mode in PNG_MODES else opaque(upright)).save(png, "PNG")
        return png.getvalue(), "png"


def _safe(name: str) -> str:
    """An id as part of a key: without dots, where webdataset ends keys, and slashes, which mean folders in a tar."""
    ascii_name = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9_-]+", "_", ascii_name)[:64]
