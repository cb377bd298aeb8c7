"""What a format is: how it is written, and how its own library reads it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mmtrain.models.encoder import Encoder


@dataclass(frozen=True)
class Writer:
    """One format.

    Attributes:
        write: Fills an empty folder; raises ValueError for towers that the format cannot hold.
        read: What the format's own library makes of the folder.
        cleaned: What that library does to a caption before its tokenizer.
        place: Names the paths that the folder will have in the end, for formats that hold their own.
        write_int8: Adds 8-bit weights and prints the recall that they cost on SHARDS.
    """

    write: Callable[[Encoder, Path], None]
    read: Callable[[Path], Encoder]
    cleaned: Callable[[Encoder, str], str] | None = None
    place: Callable[[Path, Path], None] | None = None
    write_int8: Callable[[Encoder, Path, str], None] | None = None
