"""HTML pages that open offline, on a phone and on paper, and load nothing from elsewhere."""

import base64
import functools
import io
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image, ImageOps

from datamodules.files import write_whole
from datamodules.images import opaque, opened
from mmtrain.display.languages import language_name

RIGHT_TO_LEFT = re.compile("ar|arc|azb|ckb|dv|fa|glk|he|iw|khw|lrc|mzn|pnb|prs|ps|sd|syr|ug|ur|yi", re.IGNORECASE)
RIGHT_TO_LEFT_SCRIPT = re.compile("Adlm|Arab|Hebr|Mand|Mend|Nkoo|Rohg|Samr|Syrc|Thaa", re.IGNORECASE)


def write_page(
    path: Path | str, template: Path, *, filters: Mapping[str, Callable[..., str]] | None = None, **values: Any
) -> None:
    """Renders a template into one HTML file, whole or not at all. The arguments are those of `page`."""
    write_whole(path, page(template, filters=filters, **values), errors="replace")  # half surrogates


def page(template: Path, *, filters: Mapping[str, Callable[..., str]] | None = None, **values: Any) -> str:
    """A template as HTML.

    Args:
        template: Extends page.html.jinja of this folder, which has the head and the common style.
        filters: Of the template, beside `direction` and `language`.
        values: Of the template; `title` among them.
    """
    environment = _environment(template.parent)
    environment.filters |= filters or {}
    return environment.get_template(template.name).render(values)


@functools.cache
def _environment(folder: Path) -> Environment:
    """Of the templates in a folder, each of which is compiled once."""
    environment = Environment(
        loader=FileSystemLoader([folder, Path(__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        auto_reload=False,
    )
    environment.filters |= {"direction": direction, "language": language_name}
    return environment


def picture_uri(content: bytes | Image.Image, side: int) -> str:
    """A WebP data URI of at most `side` pixels on the longer side, turned as EXIF says. Encoded images keep their
    transparency.
    """
    image = ImageOps.exif_transpose(opened(content) if isinstance(content, bytes) else content)
    image = image if isinstance(content, bytes) else opaque(image)
    image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    image.thumbnail((side, side))
    file = io.BytesIO()
    image.save(file, "WEBP", quality=72)
    return data_uri(file.getvalue(), "image/webp")


def data_uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def direction(language: str | None) -> str:
    """The HTML `dir` of a text in a language, by the script in its code, else by its primary language."""
    if not language:
        return "auto"
    primary, *others = language.replace("_", "-").split("-")
    script = next((part for part in others if len(part) == 4), None)
    if script is not None:
        return "rtl" if RIGHT_TO_LEFT_SCRIPT.fullmatch(script) else "ltr"
    return "rtl" if RIGHT_TO_LEFT.fullmatch(primary) else "auto"
