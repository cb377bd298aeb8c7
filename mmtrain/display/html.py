"""HTML pages that open offline, on a phone and on paper, and ask for nothing outside themselves."""

import base64
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from datamodules.files import write_whole
from datamodules.images import opaque

RIGHT_TO_LEFT = set("ar arc azb ckb dv fa glk he iw khw lrc mzn pnb prs ps sd syr ug ur yi".split())
RIGHT_TO_LEFT_SCRIPTS = set("Adlm Arab Hebr Mand Mend Nkoo Rohg Samr Syrc Thaa".split())


def write_page(
    path: Path | str, template: Path, *, filters: Mapping[str, Callable[..., str]] | None = None, **values: Any
) -> None:
    """Renders a template into one file, whole or not at all.

    Args:
        path: The HTML file.
        template: Extends page.html.jinja of this folder, which has the head and the common style.
        filters: Of the template, beside `direction`.
        values: What the template shows; `title` among them.
    """
    environment = Environment(
        loader=FileSystemLoader([template.parent, Path(__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.filters |= {"direction": direction, **(filters or {})}
    write_whole(path, environment.get_template(template.name).render(values), errors="replace")  # half surrogates


def picture_uri(content: bytes | Image.Image, side: int) -> str:
    """A picture as a WebP data URI whose longer side has at most `side` pixels; transparency stays in bytes."""
    picture = Image.open(io.BytesIO(content)) if isinstance(content, bytes) else opaque(content)
    picture = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    picture.thumbnail((side, side))
    small = io.BytesIO()
    picture.save(small, "WEBP", quality=72)
    return data_uri(small.getvalue(), "image/webp")


def data_uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def direction(language: str | None) -> str:
    """The HTML `dir` of a text in a language: what its script says, else what its first letters say."""
    if not language:
        return "auto"
    primary, *others = language.replace("_", "-").split("-")
    scripts = [part.title() for part in others if len(part) == 4]
    if scripts:
        return "rtl" if scripts[0] in RIGHT_TO_LEFT_SCRIPTS else "ltr"
    return "rtl" if primary.lower() in RIGHT_TO_LEFT else "auto"
