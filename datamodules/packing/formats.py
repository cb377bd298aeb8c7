"""The kinds of sources that `mmtrain pack` knows: add a reader here and its arguments become options."""

from collections.abc import Callable
from typing import Any, NamedTuple

from datamodules.packing.aligned import read_multi30k, read_xtd10
from datamodules.packing.folders import read_folder
from datamodules.packing.manifests import read_crossmodal3600, read_jsonl, read_karpathy
from datamodules.packing.pairs import read_pairs
from datamodules.packing.relations import read_four_classes, read_tir
from datamodules.packing.stories import read_stories
from datamodules.packing.tables import read_table
from datamodules.packing.wit import read_wit


class Format(NamedTuple):
    """A kind of source."""

    read: Callable[..., Any]
    text: str
    source: str = "FILE"
    splits: bool = False  # whether its rows say a split
    aliases: tuple[str, ...] = ()
    pictures: bool = True  # whether its rows name any


FORMATS = {
    "jsonl": Format(read_jsonl, 'JSON Lines: a sample\'s record and paths, such as "image"', splits=True),
    "pairs": Format(read_pairs, "text pairs with negatives and scores: JSON Lines or TSV", splits=True, pictures=False),
    "csv": Format(read_table, "CSV or TSV with a row of column names", splits=True, aliases=("tsv",)),
    "karpathy": Format(read_karpathy, "Karpathy's split of COCO, Flickr30k ...", "JSON", True),
    "multi30k": Format(read_multi30k, "Multi30k's text files beside lists of pictures", "FOLDER", True),
    "xm3600": Format(read_crossmodal3600, "Crossmodal-3600's captions.jsonl"),
    "wit": Format(read_wit, "WIT's TSV files, with pictures in a local folder", "FILE|FOLDER", True),
    "xtd10": Format(read_xtd10, "XTD10's text files in eleven languages", "FOLDER"),
    "folder": Format(read_folder, "a folder of pictures, each with a .txt beside it", "FOLDER"),
    "tir": Format(read_tir, "labels of tweets' image-text relations (textimage.csv)"),
    "four_classes": Format(read_four_classes, "a table of posts with a relation 0 to 3", splits=True),
    "stories": Format(read_stories, "picture stories: whose text is it, the page's or another's", splits=True),
}
