"""Programs that read an export by the library it is for and never import mmtrain, and what runs them.

Each is called as PROGRAM FOLDER PROBES: the export, and a folder with captions.json and pictures by number, into which
it writes its rows.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).parent
# format -> program; two for transformers.js, whose graphs onnxruntime reads alone too
PYTHON = {
    "onnx": "with_onnxruntime.py",
    "open_clip": "with_open_clip.py",
    "transformers": "with_transformers.py",
    "sentence_transformers": "with_sentence_transformers.py",
    "transformers_js": "with_onnxruntime_and_tokenizers.py",
}
NODE = "with_transformers_js.mjs"
PACKAGE = "@huggingface/transformers@4.3"


def rows_of(
    program: str, folder: Path, pictures: Sequence[Image.Image], captions: Sequence[str], place: Path, *options: str
) -> dict[str, np.ndarray]:
    """Rows [N, D] that a program gives, by name: image and text, and what else it measures.

    Args:
        program: A file beside this one.
        folder: The export.
        place: An empty folder for the probes; for NODE, one in which `install` has been.
        options: Further arguments of the program.
    """
    probes = place / "probes"
    shutil.rmtree(probes, ignore_errors=True)
    probes.mkdir()
    (probes / "captions.json").write_text(json.dumps(list(captions)), encoding="utf-8")
    for number, picture in enumerate(pictures):
        picture.save(probes / f"{number:03d}.png")
    command = [sys.executable, str(HERE / program)]
    if program == NODE:
        command = ["node", shutil.copy(HERE / NODE, place)]  # modules are found from where the program lies
    done = subprocess.run(
        [*command, str(folder.resolve()), str(probes), *options],
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{program}: {(done.stderr or done.stdout)[-2000:]}")
    return {path.stem: np.asarray(json.loads(path.read_text()), np.float32) for path in probes.glob("*.rows")}


def install(place: Path) -> str | None:
    """Puts transformers.js into a folder by npm, running no script of a package; the reason where that cannot be."""
    if not (shutil.which("node") and shutil.which("npm")):
        return "node and npm are not here"
    command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(place), PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return f"npm cannot install {PACKAGE}: {done.stderr.strip()[-200:]}" if done.returncode else None
