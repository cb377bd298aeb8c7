"""Search results as one HTML file: it opens offline, on a phone too, and asks for nothing outside itself."""

import base64
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from datamodules.images import opaque
from mmtrain.search.results import Query, Result, ordered
from mmtrain.thumbnails import SIDE

OPEN_CAPTIONS = 3  # of a result; the others unfold
RIGHT_TO_LEFT = set("ar arc azb ckb dv fa glk he iw khw lrc mzn pnb prs ps sd syr ug ur yi".split())
RIGHT_TO_LEFT_SCRIPTS = set("Adlm Arab Hebr Mand Mend Nkoo Rohg Samr Syrc Thaa".split())


def write_page(
    path: Path, query: Query, results: list[Result], description: dict[str, Any], first: Sequence[str]
) -> None:
    """Writes the page whole or not at all.

    Args:
        description: index.json of the index that was searched.
        first: Languages whose captions come before the others.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["direction"] = direction
    page = environment.get_template("page.html.jinja").render(
        query=query,
        picture=_uri(_smaller(query.image)) if query.image and query.image.suffix != ".npy" else None,
        results=[(result, _uri(result.item.thumbnail), ordered(result.item.captions, first)) for result in results],
        index=description,
        open_captions=OPEN_CAPTIONS,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(page, encoding="utf-8", errors="replace")
    unfinished.replace(path)


def direction(language: str | None) -> str:
    """The HTML `dir` of a text in a language: what its script says, else what its first letters say."""
    if not language:
        return "auto"
    primary, *others = language.replace("_", "-").split("-")
    scripts = [part.title() for part in others if len(part) == 4]
    if scripts:
        return "rtl" if scripts[0] in RIGHT_TO_LEFT_SCRIPTS else "ltr"
    return "rtl" if primary.lower() in RIGHT_TO_LEFT else "auto"


def _smaller(path: Path) -> bytes:
    with Image.open(path) as opened:
        picture = opaque(opened)
    picture.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=85)
    return file.getvalue()


def _uri(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
