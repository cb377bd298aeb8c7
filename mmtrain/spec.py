"""Objects as data: {"class_path", "init_args"}, the form configs have, and back.

An object describes itself by keeping each constructor argument under the argument's name, as scikit-learn's estimators
do. Checkpoints and exported folders carry such descriptions, so that a model is built again without its config.
"""

import importlib
import inspect
from typing import Any


def spec_of(thing: object) -> dict[str, Any]:
    """The class path and constructor arguments of an object that keeps them as attributes, nested ones included."""
    cls = type(thing)
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
    missing = [parameter.name for parameter in parameters if not hasattr(thing, parameter.name)]
    if missing:
        raise ValueError(
            f"{cls.__name__} does not keep its arguments {', '.join(missing)}: it cannot be saved with a model"
        )
    return {
        "class_path": f"{cls.__module__}.{cls.__qualname__}",
        "init_args": {parameter.name: _plain(getattr(thing, parameter.name)) for parameter in parameters},
    }


def build(spec: dict[str, Any], base: type) -> Any:
    """The object that `spec` describes.

    Raises:
        ValueError: when the class cannot be imported here or is no subclass of `base`; nothing is called before that
            is known.
    """
    path = spec.get("class_path", "")
    module, _, name = path.rpartition(".")
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"class_path: {path!r} cannot be imported here ({error})") from error
    if not (isinstance(cls, type) and issubclass(cls, base)):
        raise ValueError(f"class_path: {path!r} is no {base.__name__}")
    return cls(**spec.get("init_args", {}))


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return None  # an object that only training uses, as a transform
