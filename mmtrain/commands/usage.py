"""Functions as commands: a function's signature is its command line, its docstring the help."""

import argparse
import functools
import inspect
import operator
import re
import sys
import types
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

from mmtrain.commands import values
from mmtrain.display.messages import one_line, say

# kinds of arguments: what the help shows for the value, then its text where the command's docstring has none
Model = Annotated[str, "MODEL", "MODEL: a run folder, a checkpoint, an exported folder, open_clip:NAME or hf:NAME"]
Shards = Annotated[str, "SHARDS", "SHARDS: a folder, a tar, a parquet file, a brace pattern, or several joined with ::"]
Folder = Annotated[str, "DIR"]
File = Annotated[str, "FILE"]
Files = Annotated[Sequence[Path], "FILE"]  # one each time that the option is given
BatchSize = Annotated[int, "N", "samples that go through the model together"]
Workers = Annotated[int, "N", "reading processes"]
Trust = Annotated[
    Sequence[str], "MODULE", "modules whose classes a MODEL may name, which would not be imported otherwise"
]
Adapter = Annotated[
    str, "NAME", "the adapter of MODEL that reads: a name, a folder of peft, or language for each text's"
]
Device = Annotated[str, "DEVICE", "default: cuda where there is one"]

# how a value of this type is read, and what the help shows for it; of any other type it is the text itself
READERS: dict[Any, tuple[Callable[[str], Any], str]] = {
    int: (int, "N"),
    float: (float, "X"),
    str | Path: (str, "PATH"),
    Sequence[Path]: (Path, "FILE"),
    list[str]: (values.items, "[en,lv]"),
    Sequence[str]: (values.items, "[a,b]"),
    tuple[int, ...]: (values.integers, "1,5,10"),
    list[float]: (values.numbers, "0.5,0.5"),
    list[tuple[str, str]]: (values.pairs, "de->en,lv->en"),
    Mapping[str, str]: (values.column_each, "[name=COLUMN]"),
    Mapping[str, str | Path]: (values.column_each, "[en=DIR,lv=DIR]"),
    Mapping[str, str | Sequence[str]]: (values.columns, "[en=COLUMN,lv=COLUMN]"),
}


class UsageError(ValueError):
    """Arguments that do not go together: exit code 2."""


class OneLineParser(argparse.ArgumentParser):
    """argparse without the page of usage: the error in one line, exit code 2."""

    def error(self, message: str) -> NoReturn:
        say(f"{self.prog}: error: {one_line(message)} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(2)


def add_verb(
    verbs: "argparse._SubParsersAction[OneLineParser]", name: str, text: str, aliases: Sequence[str] = ()
) -> OneLineParser:
    """Adds a verb without arguments; `text` is its help in a few words."""
    return verbs.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.", aliases=aliases)


def add_command(
    verbs: "argparse._SubParsersAction[OneLineParser]", name: str, function: Callable[..., Any], text: str
) -> None:
    """Adds a verb that calls `function`, whose parameters are its arguments."""
    parser = add_verb(verbs, name, text)
    add_arguments(parser, function)
    parser.set_defaults(run=functools.partial(call, function))


def add_arguments(
    parser: argparse.ArgumentParser,
    function: Callable[..., Any],
    *,
    without: Iterable[str] = (),
    defaults: Mapping[str, Any] | None = None,
) -> None:
    """Adds a function's parameters to a parser: those before `*` as arguments, those behind it as options.

    A parameter's type is how its value is read. Its help is what the docstring says under Args, else the text of its
    `Annotated[type, VALUE, text]`, whose VALUE the help shows for the value.

    Args:
        parser: Gets the arguments.
        function: The function.
        without: Parameters to leave out.
        defaults: Other defaults than the function's.
    """
    texts = described_arguments(function)
    # not what it returns, which may be of a type that is only imported for checking
    parameters = {name: hint for name, hint in function.__annotations__.items() if name != "return"}
    holder = types.SimpleNamespace(__annotations__=parameters)
    hints = get_type_hints(holder, function.__globals__, include_extras=True)
    for name, parameter in inspect.signature(function).parameters.items():
        if name in without:
            continue
        settings = _settings(hints[name], texts.get(name))
        if parameter.kind is parameter.VAR_POSITIONAL:
            parser.add_argument(name, nargs="+", **settings)
            continue
        default = (defaults or {}).get(name, parameter.default)
        if parameter.kind is parameter.KEYWORD_ONLY:
            if default is parameter.empty:
                settings["required"] = True
            elif settings.get("action") != "store_true":
                settings["default"] = default
                if default is None and settings.get("type") is values.items:
                    settings["action"] = "extend"  # a list may come in several parts
                if "help" in settings and default is not None and "default" not in settings["help"].lower():
                    text = ",".join(map(str, default)) if isinstance(default, (list, tuple)) else str(default)
                    settings["help"] += f" (default: {text})"
            # both spellings, as people type them
            option = name.rstrip("_")  # `with_`, for Python has words of its own
            spellings = {f"--{option}", f"--{option.replace('_', '-')}", *([f"-{name}"] if len(name) == 1 else ())}
            parser.add_argument(*sorted(spellings, reverse=True), dest=name, **settings)
        elif default is parameter.empty:
            parser.add_argument(name, **settings)
        else:
            parser.add_argument(name, nargs="?", default=default, **settings)


def call(function: Callable[..., Any], options: argparse.Namespace, **others: Any) -> Any:
    """Calls a function with what was parsed for it, and with other arguments by name."""
    signature, values = inspect.signature(function), vars(options) | others
    arguments = OrderedDict((name, values[name]) for name in signature.parameters if name in values)
    bound = inspect.BoundArguments(signature, arguments)
    return function(*bound.args, **bound.kwargs)


def _settings(hint: Any, text: str | None) -> dict[str, Any]:
    """What argparse is told of a parameter's type, and of its text in the docstring."""
    if get_origin(hint) in (Union, types.UnionType):
        hint = functools.reduce(operator.or_, [part for part in get_args(hint) if part is not type(None)])
    metavar = None
    if get_origin(hint) is Annotated:
        hint, metavar, *shared = get_args(hint)
        text = text or next(iter(shared), None)
    settings: dict[str, Any] = {} if text is None else {"help": text.replace("%", "%%")}
    if hint is bool:
        return settings | {"action": "store_true"}
    if get_origin(hint) is Literal:
        return settings | {"choices": get_args(hint)}
    if hint == Sequence[Path]:
        settings["action"] = "append"
    reader, usual = READERS.get(hint, (str, None))
    return settings | {"type": reader, "metavar": metavar or usual}


def described_arguments(thing: Any) -> dict[str, str]:
    """Name -> text, of the Args section of a docstring."""
    section = (inspect.getdoc(thing) or "").partition("\nArgs:\n")[2].partition("\n\n")[0]
    entries = re.findall(r"^ {4}([\w, ]+): (.*(?:\n {5,}.*)*)", section, flags=re.MULTILINE)
    texts = {name: re.sub(r"\s+", " ", text).rstrip(".") for names, text in entries for name in names.split(", ")}
    return {
        name: text if text[:2].isalpha() and text[:2].isupper() else text[0].lower() + text[1:]
        for name, text in texts.items()
    }
