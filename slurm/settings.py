"""What the arguments of `fit` and the files they name set, read without `fit`."""

from pathlib import Path
from typing import Any

import yaml


def settings(arguments: list[str]) -> dict[str, Any]:
    """By dotted names without init_args; the last of a name counts.

    Raises:
        ValueError: when a config cannot be read.
    """
    values: dict[str, Any] = {}
    words = iter(arguments)
    for word in words:
        if not word.startswith("-"):
            continue
        name, sign, value = word.lstrip("-").partition("=")
        value = value if sign else next(words, "")
        if name in ("config", "c"):
            try:
                text = value if value.startswith("{") else Path(value).read_text(encoding="utf-8")
                values |= dotted(yaml.safe_load(text))
            except (OSError, ValueError, yaml.YAMLError) as error:
                raise ValueError(f"--config: {value} cannot be read: {' '.join(str(error).split())}") from error
        else:
            try:
                values |= dotted(yaml.safe_load(value), name)
            except yaml.YAMLError:
                values |= dotted(value, name)
    return values


def dotted(value: Any, name: str = "") -> dict[str, Any]:
    """The leaves of nested mappings by dotted names without init_args."""
    if isinstance(value, dict):
        return {key: leaf for part, inner in value.items() for key, leaf in dotted(inner, f"{name}.{part}").items()}
    return {".".join(part for part in name.split(".") if part and part != "init_args"): value}
