"""Search results as one HTML file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from mmtrain.display.html import data_uri, picture_uri, write_page
from mmtrain.display.thumbnails import SIDE
from mmtrain.search.results import Query, Result, ordered

OPEN_CAPTIONS = 3  # of a result; the others unfold


def write_results(
    path: Path, query: Query, results: list[Result], description: dict[str, Any], first: Sequence[str]
) -> None:
    """Writes the page whole or not at all.

    Args:
        path: The HTML file.
        query: The text or the picture.
        results: Best first.
        description: index.json of the index.
        first: Languages whose captions come before the others.
    """
    picture = None
    if query.image is not None and query.image.suffix != ".npy":
        with Image.open(query.image) as opened:
            picture = picture_uri(opened, SIDE)
    write_page(
        path,
        Path(__file__).with_name("results.html.jinja"),
        title=query.text or str(query.image),
        query=query,
        picture=picture,
        results=[
            (result, data_uri(result.item.thumbnail, "image/jpeg"), ordered(result.item.captions, first))
            for result in results
        ],
        index=description,
        open_captions=OPEN_CAPTIONS,
    )
