"""What a reader of a source yields."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple


class Row(NamedTuple):
    """A future sample: its place in the source from 0, its record, and where its image may lie, likeliest first.

    `files` are the paths of further ones: features under "<name>.npy", pictures under "<name>", "<name>1" and so on.
    A row that is `complete` must have an image and a caption.
    """

    number: int
    record: dict
    images: tuple[str, ...]
    files: Mapping[str, str] = MappingProxyType({})
    complete: bool = True
