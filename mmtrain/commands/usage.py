"""Functions as commands: a function's signature is its command line, its docstring the help."""

import argparse
import functools
import inspect
import operator
import re
import sys
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

from mmtrain.commands import values
from mmtrain.display.messages import one_line

# what the help shows for an argument of this kind
Model = Annotated[str, "MODEL"]
Shards = Annotated[str, "SHARDS"]
Folder = Annotated[str, "DIR"]
File = Annotated[str, "FILE"]

# how a value of this type is read, and what the help shows for it; of any other type it is the text itself
READERS: dict[Any, tuple[Callable[[str], Any], str]] = {
    int: (int, "N"),
    float: (float, "X"),
    str | Path: (str, "PATH"),
    list[str]: (values.items, "[en,lv]"),
    Sequence[str]: (values.items, "[a,b]"),
    tuple[int, ...]: (values.integers, "1,5,10"),
    list[float]: (values.numbers, "0.5,0.5"),
    list[tuple[str, str]]: (values.pairs, "de->en,lv->en"),
    Mapping[str, str]: (values.column_each, "[name=COLUMN]"),
    Mapping[str, str | Path]: (values.column_each, "[en=DIR,lv=DIR]"),
    Mapping[str, str | Sequence[str]]: (values.columns, "[en=COLUMN,lv=COLUMN]"),
}

POSITIONAL, VARIADIC, OPTION = (
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
    inspect.Parameter.VAR_POSITIONAL,
    inspect.Parameter.KEYWORD_ONLY,
)
Verbs = argparse._SubParsersAction  # of OneLineParser, in annotations alone


class UsageError(ValueError):
    """Arguments that do not go together: exit code 2."""


class OneLineParser(argparse.ArgumentParser):
    """argparse without the page of usage: the error in one line, exit code 2."""

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: error: {one_line(message)} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(2)


def add_command(
    verbs: "Verbs[OneLineParser]", name: str, function: Callable[..., Any], text: str, aliases: Iterable[str] = ()
) -> OneLineParser:
    """Adds a verb that calls `function`, whose parameters are its arguments; `text` is the help in a few words."""
    described = f"{text[0].upper()}{text[1:]}."
    parser = verbs.add_parser(name, help=text, description=described, aliases=list(aliases))
    add_arguments(parser, function)
    parser.set_defaults(run=lambda options: call(function, options))
    return parser


def add_arguments(
    parser: argparse.ArgumentParser,
    function: Callable[..., Any],
    *,
    without: Iterable[str] = (),
    defaults: Mapping[str, Any] | None = None,
) -> None:
    """Adds a function's parameters to a parser: those before `*` as arguments, those behind it as options.

    A parameter's type is how its value is read, and `Annotated[type, "SHARDS"]` what the help shows for it. What the
    docstring says under Args is the help.

    Args:
        parser: Gets the arguments.
        function: The function.
        without: Parameters to leave out.
        defaults: Other defaults than the function's.
    """
    texts, hints = described_arguments(function), _hints(function)
    for name, parameter in inspect.signature(function).parameters.items():
        if name in without:
            continue
        settings = _settings(hints[name], texts.get(name))
        if parameter.kind is VARIADIC:
            parser.add_argument(name, nargs="+", **settings)
            continue
        default = (defaults or {}).get(name, parameter.default)
        if parameter.kind is OPTION:
            if default is inspect.Parameter.empty:
                settings["required"] = True
            elif settings.get("action") != "store_true":
                settings["default"] = default
                _say_default(settings, default)
            # both spellings, as people type them
            spellings = {f"-{name}"} if len(name) == 1 else {f"--{name}", f"--{name.replace('_', '-')}"}
            parser.add_argument(*sorted(spellings, reverse=True), dest=name, **settings)
        elif default is inspect.Parameter.empty:
            parser.add_argument(name, **settings)
        else:
            parser.add_argument(name, nargs="?", default=default, **settings)


def call(function: Callable[..., Any], options: argparse.Namespace, **given: Any) -> Any:
    """Calls a function with what was parsed for it, and with what is given."""
    arguments: list[Any] = []
    named: dict[str, Any] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if name not in given and not hasattr(options, name):
            continue
        value = given[name] if name in given else getattr(options, name)
        if parameter.kind is VARIADIC:
            arguments += value
        elif parameter.kind is POSITIONAL:
            arguments.append(value)
        else:
            named[name] = value
    return function(*arguments, **named)


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """The types of a function's parameters; what it returns may be of a type that is only imported for checking."""
    parameters = {name: hint for name, hint in function.__annotations__.items() if name != "return"}
    holder = types.SimpleNamespace(__annotations__=parameters)
    return get_type_hints(holder, function.__globals__, include_extras=True)


def _settings(hint: Any, text: str | None) -> dict[str, Any]:
    """What argparse is told of a type."""
    hint, metavar = _plain(hint)
    settings: dict[str, Any] = {} if text is None else {"help": text.replace("%", "%%")}
    if hint is bool:
        return settings | {"action": "store_true"}
    if get_origin(hint) is Literal:
        return settings | {"choices": get_args(hint)}
    reader, usual = READERS.get(hint, (str, None))
    return settings | {"type": reader, "metavar": metavar or usual}


def _plain(hint: Any) -> tuple[Any, str | None]:
    """A type without its note and without None, and the note."""
    note = None
    if get_origin(hint) is Annotated:
        hint, note = get_args(hint)[:2]
    if get_origin(hint) in (Union, types.UnionType):
        parts = [part for part in get_args(hint) if part is not type(None)]
        hint = functools.reduce(operator.or_, parts)
        if get_origin(hint) is Annotated:
            hint, note = get_args(hint)[:2]
    return hint, note


def _say_default(settings: dict[str, Any], default: Any) -> None:
    if "help" in settings and default is not None and "default" not in settings["help"].lower():
        shown = ",".join(map(str, default)) if isinstance(default, (list, tuple)) else str(default)
        settings["help"] += f" (default: {shown})"


def described_arguments(thing: Any) -> dict[str, str]:
    """Name -> text, of the Args section of a docstring."""
    section = (inspect.getdoc(thing) or "").partition("\nArgs:\n")[2].partition("\n\n")[0]
    entries = re.findall(r"^ {4}([\w, ]+): (.*(?:\n {5,}.*)*)", section, flags=re.MULTILINE)
    texts = {name: re.sub(r"\s+", " ", text).rstrip(".") for names, text in entries for name in names.split(", ")}
    return {
        name: text if text[:2].isalpha() and text[:2].isupper() else text[0].lower() + text[1:]
        for name, text in texts.items()
    }
