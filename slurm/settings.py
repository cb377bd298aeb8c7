"""What the arguments of `fit` and the files they name set, read without `fit`."""

import re
from pathlib import Path
from typing import Any

import yaml


class Words(yaml.SafeLoader):
    """Reads every value but an empty one as text, as it is written: no, 007, 12:30:00."""

    yaml_implicit_resolvers: dict[str, Any] = {}


Words.add_implicit_resolver("tag:yaml.org,2002:null", re.compile("(?:~|null|)$"), ["~", "n", ""])


def settings(arguments: list[str]) -> dict[str, Any]:
    """By dotted names without init_args, values as text; the last of a name counts.

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
                values |= dotted(yaml.load(text, Words))
            except (OSError, ValueError, yaml.YAMLError) as error:
                raise ValueError(f"--config: {value} cannot be read: {' '.join(str(error).split())}") from error
        else:
            try:
                values |= dotted(yaml.load(value, Words), name)
            except yaml.YAMLError:
                values |= dotted(value, name)
    return values


def dotted(value: Any, name: str = "") -> dict[str, Any]:
    """The leaves of nested mappings by dotted names without init_args."""
    if isinstance(value, dict):
        return {key: leaf for part, inner in value.items() for key, leaf in dotted(inner, f"{name}.{part}").items()}
    return {".".join(part for part in name.split(".") if part and part != "init_args"): value}
