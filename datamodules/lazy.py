"""Packages whose names are imported when first used."""

import importlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any


def lazy(package: str, homes: Mapping[str, Iterable[str]]) -> tuple[Callable[[str], Any], list[str]]:
    """A package's `__getattr__` (PEP 562) and its `__all__`.

    Args:
        package: Its name, for the error.
        homes: Module -> the names that it defines.
    """
    home = {name: module for module, names in homes.items() for name in names}

    def get(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(home[name]), name)

    return get, sorted(home)
