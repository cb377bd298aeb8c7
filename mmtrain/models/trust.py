"""Whose classes a description from a file may name. Importing is running: a name is checked before it is imported."""

import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from mmtrain.towers.pretrained import check_settings

OURS = ("mmtrain", "losses", "datamodules")
VARIABLE = "MMTRAIN_TRUST"


def check_description(description: Any, source: str, trust: Sequence[str] | str = ()) -> None:
    """Refuses a description that names classes of modules that nobody trusts, or opens further files.

    Trusted are mmtrain, losses, datamodules, what `trust` and MMTRAIN_TRUST (a comma between two) name, each with
    everything below it, and what has been imported already.

    Args:
        description: As JSON holds it.
        source: The file it comes from.
        trust: Further modules.

    Raises:
        ValueError: naming the file, and the class path or the field.
    """
    if isinstance(description, dict):  # a tokenizer's files are tensors
        description = {name: value for name, value in description.items() if name != "tokenizer_files"}
    check_settings(description, source, options=True)
    named = [*OURS, *([trust] if isinstance(trust, str) else trust), os.environ.get(VARIABLE, "")]
    trusted = [name.strip() for name in ",".join(named).split(",") if name.strip()]
    for path in _class_paths(description):
        module = path.rpartition(".")[0] if isinstance(path, str) else ""
        if not module:
            raise ValueError(
                f"{source}: class_path {path!r} is no class with its module, as in datamodules.ByteTokenizer"
            )
        if module not in sys.modules and not any(f"{module}.".startswith(f"{name}.") for name in trusted):
            raise ValueError(
                f"{source}: class_path {path!r} is code of a module that is not trusted; it was not imported. If you"
                f" trust it: --trust {module}, trust=[{module!r}] in Python, {VARIABLE}={module} for a project"
            )


def _class_paths(description: Any) -> Iterator[Any]:
    if isinstance(description, dict):
        if "class_path" in description:
            yield description["class_path"]
        description = list(description.values())
    if isinstance(description, list):
        for value in description:
            yield from _class_paths(value)
