"""Objects as {"class_path", "init_args"}, as in configs, and back: a model is built again without its config.

An object keeps each constructor argument under the argument's name, as scikit-learn's estimators do, or gives them by a
method `arguments`.
"""

import importlib
import inspect
from typing import Any, Protocol, TypeVar, runtime_checkable

from torch import nn

T = TypeVar("T")


@runtime_checkable
class Described(Protocol):
    """An object that gives its own constructor arguments."""

    def arguments(self) -> dict[str, object]: ...


# class paths in files that older versions wrote
MOVED = {"datamodules.words.WordTokenizer": "datamodules.WordTokenizer"}


def spec_of(thing: object) -> dict[str, Any]:
    """The class path and arguments of an object and of those within it. Raises ValueError where one is not kept."""
    cls = type(thing)
    if isinstance(thing, Described):
        arguments = thing.arguments()
    else:
        names = list(inspect.signature(cls).parameters)
        missing = ", ".join(name for name in names if not hasattr(thing, name))
        if missing:
            raise ValueError(f"{cls.__name__} does not keep its arguments {missing}: it cannot be saved with a model")
        arguments = {name: getattr(thing, name) for name in names}
    return {"class_path": public_path(cls), "init_args": {name: _plain(each) for name, each in arguments.items()}}


def public_path(cls: type) -> str:
    """The shortest path that the class can be imported by: datamodules.ByteTokenizer."""
    parts = cls.__module__.split(".")
    for length in range(1, len(parts)):
        package = ".".join(parts[:length])
        if getattr(importlib.import_module(package), cls.__name__, None) is cls:
            return f"{package}.{cls.__name__}"
    return f"{cls.__module__}.{cls.__qualname__}"


def build(spec: dict[str, Any], base: type[T]) -> T:
    """The object that `spec` describes.

    Raises ValueError when the class cannot be imported here or is no subclass of `base`; then nothing was called.
    """
    path = spec.get("class_path", "")
    module, _, name = MOVED.get(path, path).rpartition(".")
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"class_path: {path!r} cannot be imported here ({error})") from error
    if not (isinstance(cls, type) and issubclass(cls, base)):
        raise ValueError(f"class_path: {path!r} is no {base.__name__}")
    return cls(**{name: _built(value) for name, value in spec.get("init_args", {}).items()})


def _built(value: Any) -> Any:
    """An argument; a description within it becomes the network that it describes."""
    if isinstance(value, dict):
        if value.keys() == {"class_path", "init_args"}:
            return build(value, nn.Module)
        return {name: _built(item) for name, item in value.items()}
    return value


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return spec_of(value)
