"""Folders of tables: parquet files, and what Hugging Face's `datasets` writes, read without that library.

On the hub a data set is data/<split>-00000-of-00002.parquet; `save_to_disk` writes a folder a split, with arrow files
that its state.json lists.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

STATE, SPLITS_LISTED = "state.json", "dataset_dict.json"
NUMBERS = re.compile(r"[-_.]?\d+([-_.]of[-_.]\d+)?$")  # behind the name of a split
SPLITS = frozenset(("train", "validation", "valid", "val", "dev", "test"))


def tables_in(folder: Path) -> list[Path]:
    """The tables of a folder in order, or of its data/; [] where there are none.

    Raises ValueError where they are of several splits, or the folder is a data set of several.
    """
    if (folder / SPLITS_LISTED).is_file():
        splits = sorted(path.parent.name for path in folder.glob(f"*/{STATE}"))
        raise ValueError(f"{folder} holds the splits {', '.join(splits)}; name one, as in {folder / splits[0]}")
    if (folder / STATE).is_file():
        return [folder / name for name in _listed(folder / STATE)]
    tables = sorted(folder.glob("[!.]*.parquet")) or sorted(folder.glob("[!.]*.arrow"))
    if not tables and (folder / "data").is_dir():
        return tables_in(folder / "data")
    names = sorted({_split(path) for path in tables})
    if len(names) > 1 and any(SPLITS & set(re.split("[-_.]", name)) for name in names):
        raise ValueError(f"{folder} holds the splits {', '.join(names)}; name one, as in {folder / names[0]}")
    return tables


def tables_of_split(path: Path) -> list[Path]:
    """The tables of the split that a path of no file ends with: of data/train those named train-..., [] without."""
    for folder in (path.parent, path.parent / "data"):
        tables = sorted(folder.glob("[!.]*.parquet")) or sorted(folder.glob("[!.]*.arrow"))
        if named := [table for table in tables if _split(table) == path.name]:
            return named
    return []


def _split(path: Path) -> str:
    return NUMBERS.sub("", path.stem)


def _listed(state: Path) -> list[str]:
    try:
        facts = json.loads(state.read_bytes())
        names = [each["filename"] for each in facts["_data_files"]]
        if facts.get("_indices_files") or not all(isinstance(name, str) and "/" not in name for name in names):
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(f"{state} lists no arrow files; a folder that save_to_disk of `datasets` wrote") from None
    return names
