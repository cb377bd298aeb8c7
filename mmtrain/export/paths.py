"""Absolute paths in an export: nobody else has a use for them, and they tell of the machine that wrote it."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmtrain.export.marker import MARKER

ABSOLUTE = re.compile(r"(file:/*)?/[\w.]|~\w*/|[A-Za-z]:[\\/]|\\\\\w")
IN_TEXT = re.compile(r"(?<![\w:/.~)\]-])/([\w.+-]+)(?:/[\w.+-]+)+")
IN_GRAPH = re.compile(rb'File "(/[^"]{1,200})"')  # where torch traced a node
# words that begin with a slash are no paths
VOCABULARIES = {"tokenizer.json", "vocab.json", "words.json", "added_tokens.json"}


def remove_paths(folder: Path, keep: str = "") -> None:
    """Drops the fields of tokenizers' and networks' settings that are absolute paths, but for the file `keep`.

    Whoever wrote such a tokenizer first left some of their own; no library reads them.
    """
    for path in folder.rglob("*config.json"):
        if path.name != keep:
            settings = json.loads(path.read_text(encoding="utf-8"))
            for holder, key in _fields(settings):
                if isinstance(holder, dict) and _is_path(holder[key]):
                    del holder[key]
            path.write_text(json.dumps(settings, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def first_path(folder: Path, name: str) -> str | None:
    """An absolute path in a file of an export, with the field that it is in; None where there is none."""
    path = folder / name
    if path.suffix == ".json" and path.name not in VOCABULARIES | {MARKER}:
        settings = json.loads(path.read_text(encoding="utf-8"))
        return next((f"{key} {holder[key]}" for holder, key in _fields(settings) if _is_path(holder[key])), None)
    if path.suffix == ".md":
        found = IN_TEXT.finditer(path.read_text(encoding="utf-8", errors="replace"))
        return next((match[0] for match in found if Path("/", match[1]).is_dir()), None)
    if path.suffix == ".onnx":
        match = IN_GRAPH.search(path.read_bytes())
        return match and match[1].decode(errors="replace")
    return None


def _fields(settings: Any) -> Iterator[tuple[Any, Any]]:
    """Each list or mapping of a JSON value with each of its keys, inner ones first."""
    keys = settings if isinstance(settings, dict) else range(len(settings)) if isinstance(settings, list) else ()
    for key in list(keys):
        yield from _fields(settings[key])
        yield settings, key


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and ABSOLUTE.match(value) is not None and "\n" not in value
