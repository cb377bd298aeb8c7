"""export.json: by it a folder is known as an export, with each file that was written into it."""

import json
from pathlib import Path
from typing import Any

from datamodules.files import write_whole

MARKER = "export.json"


def write_marker(folder: Path, format: str) -> None:
    """Lists what the folder holds now: {"mmtrain": "export", "format": FORMAT, "files": {name: bytes}}."""
    files = {str(path.relative_to(folder)): path.stat().st_size for path in _files(folder) if path.name != MARKER}
    marker = {"mmtrain": "export", "format": format, "files": dict(sorted(files.items()))}
    (folder / MARKER).write_text(json.dumps(marker, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def read_marker(folder: Path) -> dict[str, Any] | None:
    """The marker of an export; None for any other folder."""
    try:
        marker = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    ours = isinstance(marker, dict) and marker.get("mmtrain") == "export" and isinstance(marker.get("files"), dict)
    return marker if ours else None


def rewrite(folder: Path, marker: dict[str, Any], name: str, text: str) -> None:
    """Gives a file of an export another text, or a new file. One that a person had changed stays known as changed."""
    path, files = folder / name, marker["files"]
    as_written = not path.exists() or files.get(name) == path.stat().st_size
    path.parent.mkdir(exist_ok=True)
    write_whole(path, text)
    if as_written:
        files[name] = path.stat().st_size
        write_whole(folder / MARKER, json.dumps(marker, ensure_ascii=False, indent=1) + "\n")


def check_target(target: Path) -> None:
    """Raises ValueError unless there is nothing at `target`, or an export as it was written and nothing else."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    marker = read_marker(target)
    if marker is None:
        raise ValueError(f"--out: {target} holds other files; give an empty folder, or an older export")
    for path in _files(target):
        name = str(path.relative_to(target))
        if name != MARKER and marker["files"].get(name) != path.stat().st_size:
            raise ValueError(
                f"--out: {target} holds other files: {name} is not as export wrote it; give an empty folder, or an"
                " older export"
            )


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]
