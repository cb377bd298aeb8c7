"""Every public name says what it is; where tensors go in or out, with their shapes."""

import ast
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from typing import Any

import pytest

PACKAGES = (
    *("losses", "datamodules", "datamodules.packing", "datamodules.tokenizers"),
    *("mmtrain", "mmtrain.evaluation", "mmtrain.evaluation.protocols", "mmtrain.towers", "mmtrain.fusion"),
    *("mmtrain.objectives", "mmtrain.phases", "mmtrain.loggers"),
)
ENTRY = re.compile(r"^ {4}\**([^\s:(][^:(]*?)(?: \([^)]*\))?:", re.MULTILINE)  # of a section Args
SHAPE = re.compile(r"\[[\w.]|0-d|`shape`")  # [B, D], [..., W], a scalar


def public_names(package: str) -> Iterator[tuple[str, Any]]:
    """The names of a package's `__all__`, and the public methods and properties that their classes define."""
    module = importlib.import_module(package)
    for name in module.__all__:
        each = getattr(module, name)
        if inspect.isclass(each) or inspect.isroutine(each):
            yield name, each
        if inspect.isclass(each):
            for member, value in vars(each).items():
                method = (
                    value.fget if isinstance(value, property) else inspect.unwrap(getattr(value, "__func__", value))
                )
                if inspect.isfunction(method) and not member.startswith("_") and not overrides(each, member):
                    yield f"{name}.{member}", method


def overrides(cls: type, member: str) -> bool:
    """Whether a base class says what a method does, ours or a library's; torch's forward says nothing."""
    bases = [vars(base)[member] for base in cls.__mro__[1:] if member in vars(base)]
    return any(base.__doc__ and not getattr(base, "__module__", "").startswith("torch.") for base in bases)


def takes_tensors(each: Any) -> bool:
    try:
        signature = str(inspect.signature(each))
    except ValueError:  # of a class of C
        return False
    return "Tensor" in signature or "ndarray" in signature


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_has_a_docstring(package: str) -> None:
    assert importlib.import_module(package).__doc__
    names = list(public_names(package))
    assert names
    bare = [name for name, each in names if not (vars(each)["__doc__"] if inspect.isclass(each) else each.__doc__)]
    assert not bare, f"{package}: no docstring: {', '.join(bare)}"


@pytest.mark.parametrize("package", PACKAGES)
def test_where_tensors_are_taken_the_docstring_has_their_shapes(package: str) -> None:
    shapeless = [
        name for name, each in public_names(package) if takes_tensors(each) and not SHAPE.search(each.__doc__ or "")
    ]
    assert not shapeless, f"{package}: no shapes: {', '.join(shapeless)}"


@pytest.mark.parametrize("package", PACKAGES)
def test_the_arguments_of_a_docstring_are_those_of_the_signature(package: str) -> None:
    unknown = []
    for name, each in public_names(package):
        _, _, section = (inspect.getdoc(each) or "").partition("\nArgs:\n")
        entries = ENTRY.findall(re.split(r"\n(?=\S)", section)[0])
        if entries:
            unknown += [f"{name}: {entry}" for entry in entries if entry not in inspect.signature(each).parameters]
    assert not unknown, f"{package}: {'; '.join(unknown)}"


def raises(each: Any) -> bool:
    """Whether a function, or the constructor of a class, raises a ValueError itself."""
    if inspect.isclass(each):
        each = vars(each).get("__init__", vars(each).get("__post_init__"))
    try:
        body = ast.parse(textwrap.dedent(inspect.getsource(each)))
    except (OSError, TypeError):  # inherited, of C, or of a dataclass
        return False
    return any(isinstance(node, ast.Raise) and "ValueError" in ast.unparse(node) for node in ast.walk(body))


@pytest.mark.parametrize("package", PACKAGES)
def test_what_raises_says_so(package: str) -> None:
    silent = [name for name, each in public_names(package) if raises(each) and "aises" not in (each.__doc__ or "")]
    assert not silent, f"{package}: no errors: {', '.join(silent)}"


def test_a_loss_names_its_source() -> None:
    """The year of a paper, or another loss that has one."""
    import losses

    documented = {name: each.__doc__ for name, each in public_names("losses") if "." not in name}
    sourced = {name for name, text in documented.items() if re.search(r"\b(19|20)\d\d\b", text)}
    for _ in range(2):  # a class names a function, which may name another
        sourced |= {name for name, text in documented.items() if sourced & set(re.findall(r"`(\w+)`", text))}
    every = {name for name, each in vars(losses).items() if name.endswith("_loss")} | {
        name for name in documented if name[0].isupper() and issubclass(getattr(losses, name), losses.Objective)
    }
    assert sorted(every - sourced - {"Objective"}) == []
