"""YAML as version 1.2 reads it: `no`, `on`, `yes` and `y` are text, and so is every key of a mapping."""

import re
from typing import Any

import yaml

TEXT = "tag:yaml.org,2002:str"
# 1.2's core schema. A whole number is one only as it is usually written: 007, 1_000 and 12:30 are text
PLAIN = {
    "null": (r"~|null|Null|NULL|", "~nN"),
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"-?(?:0|[1-9]\d*)", "-0123456789"),
    "float": (
        r"[-+]?(?:\.\d+|\d+\.\d*)(?:[eE][-+]?\d+)?|[-+]?\d+[eE][-+]?\d+|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
    "merge": ("<<", "<"),
}


class Loader(yaml.SafeLoader):
    """Reads plain words by `PLAIN` alone."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        self.flatten_mapping(node)
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                key.tag = TEXT
        return super().construct_mapping(node, deep)


class Dumper(yaml.SafeDumper):
    """Quotes what version 1.1 or 1.2 would read as something else than text."""


for name, (pattern, first) in PLAIN.items():
    for either in (Loader, Dumper):
        letters = [*first, ""] if name == "null" else list(first)
        either.add_implicit_resolver(f"tag:yaml.org,2002:{name}", re.compile(f"(?:{pattern})$"), letters)
Dumper.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("[yYnN]$"), list("yYnN"))  # PyYAML forgets these


def read_yaml(text: str) -> Any:
    """The content of one document. Raises yaml.YAMLError."""
    return yaml.load(text, Loader)


def yaml_text(content: Any) -> str:
    """A document that `read_yaml` and readers of version 1.1 read back as it was, in the order given."""
    return yaml.dump(content, Dumper=Dumper, default_flow_style=False, allow_unicode=True, sort_keys=False)
