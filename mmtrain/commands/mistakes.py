"""What jsonargparse says of wrong usage, as one line: the option, the value seen, what would do."""

import difflib
import importlib
import inspect
import re
import traceback
from collections.abc import Iterator, Mapping
from typing import Any, get_args, get_type_hints

from pytorch_lightning import Trainer

from mmtrain.commands.usage import UsageError
from mmtrain.display.messages import one_line
from mmtrain.training.checkpoints.callback import Checkpoint
from mmtrain.training.monitoring.guard import Guard
from mmtrain.training.monitoring.throughput import Throughput

GROUPS: dict[str, Any] = {"trainer": Trainer, "checkpoint": Checkpoint, "guard": Guard, "throughput": Throughput}
TOP = (*GROUPS, "model", "data", "config", "seed_everything", "ckpt_path", "print_config")
# what people name without its module
MODULES = ["datamodules", "losses", "mmtrain", "mmtrain.towers", "mmtrain.fusion", "mmtrain.loggers", "mmtrain.phases"]
MODULES += ["pytorch_lightning.callbacks", "pytorch_lightning.loggers", "torch.optim"]
WORDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "list": "a list like [a, b]",
    "tuple": "a list like [a, b]",
    "dict": "a mapping like {name: value}",
    "NoneType": "null",
    "list[str]": "a list like [en, lv]",
    "dict[str, int]": "whole numbers by name, like {en: 5}",
    "dict[str, float]": "numbers by name, like {en: 0.5}",
    "dict[str, str]": "texts by name, like {en: caption}",
    "dict[str, list[str]]": "lists by name, like {mood: [sad, glad]}",
}


def explained(message: str, given: Mapping[str, Any] | None = None) -> str:
    """The line for a message of jsonargparse, which may be a tree of options, classes and the types they may have.

    The option is named as on the command line. What a class said when it was made is kept; its option is then found
    among those given, by dotted names.
    """
    names, owner, body = _innermost(message)
    if not names and owner:
        short = owner.rpartition(".")[2]
        options = [name for name, value in (given or {}).items() if str(value).rpartition(".")[2] == short]
        names = options[-1].removesuffix(".class_path").split(".") if options else []
    option = "--" + ".".join(names) if names else ""
    if unknown := re.search(r"unrecognized arguments: -+([\w.]+)|[Oo]ption '([\w.]+)'", body):
        return _unknown(names, owner, unknown[1] or unknown[2])
    if required := re.search(r"arguments are required: (.*)", body):
        if owner:
            return f"{option}: {owner} needs {required[1]}, as in {option}.{required[1].split(',')[0]} VALUE"
        asked = required[1].replace("fit.", "--")
        page = "--config FILE, such as configs/pretrain/tiny.yaml or its name pretrain/tiny, has them"
        return f"the following arguments are required: {asked}; {page}"
    if config := re.search(r"Unable to load config '(.*)'", message):
        some = ", ".join([*_parameters(GROUPS.get(names[-1]))][:6])
        return f"{option}: got {config[1]!r}, expected its options: {some} ..."
    if odd := re.search(r"Unexpected config: ?(.*)", body):
        return f"got {_short(odd[1])}, expected options by name, like trainer: {{max_steps: 10}}"
    value = re.search(r"import path string: (.*)|Import path (\S+) does not|Got value: (.*)|Given value: (.*)", body)
    hint = re.search(r"Subtypes: \[(.*)\]$|Expected an? (.*?)(?:\. Got value|$)", body, flags=re.MULTILINE)
    if option and value:
        seen = next(filter(None, value.groups()), "")
        if "mport path" in body:
            return f"{option}: got {_short(seen)}, expected {_class_like(seen, owner, names[-1], body)}"
        if hint and seen == "None" and "NoneType" in (hint[1] or hint[2]):  # jsonargparse passes it on as the word
            return f"{option}: got null, which a class below another takes from a config file alone"
        if hint:
            return f"{option}: got {_short(seen)}, expected {_in_words(hint[1] or hint[2])}"
    reason = one_line(body)
    said = f"{owner}: {reason}" if owner else reason
    return f"{option}: {said}" if option else said


def _innermost(message: str) -> tuple[list[str], str, str]:
    """The names of options from the outermost, the class that the innermost is of, and what is said of it."""
    names: list[str] = []
    owner, depth, body = "", -1, []
    for line in message.splitlines():
        indent, text = len(line) - len(line.lstrip()), line.strip()
        if not text or text.startswith("- Expected a path but"):
            continue
        if indent <= depth:
            break
        key = re.match(r'(?:- )?Parser key "([\w.]+)"[^:]*:(.*)', text)
        problem = re.match(r"(?:- )?Problem with given class_path '([\w.]+)':(.*)", text)
        if key:
            names += key[1].split(".")
        elif problem:
            owner = problem[1]
        if found := key or problem:
            depth, body = indent, [found[2].strip()]
        else:
            body.append(text)
    return names, owner, "\n".join(filter(None, body))


def _unknown(names: list[str], owner: str, option: str) -> str:
    """A name that nothing has, with the nearest that the class in use has."""
    parts = option.replace("init_args.", "").split(".")
    if not owner and len(parts) > 1 and parts[0] in GROUPS:
        owner, names, parts = GROUPS[parts[0]].__name__, parts[:1], parts[1:]
    in_use = GROUPS[names[0]] if len(names) == 1 and names[0] in GROUPS else _imported(owner)
    there = list(_parameters(in_use)) or TOP
    prefix = "".join(f"{name}." for name in names)
    near = difflib.get_close_matches(parts[0], there, n=3)
    shown = near or (there if len(there) < 16 else [])
    others = ", ".join(f"--{prefix}{name}" for name in shown)
    lists = f"--{names[0]}.help {owner}" if "." in owner else "--help"
    help = f"nearest: {others}" if near else f"there are {others}" if others else f"mmtrain fit {lists} lists them"
    return f"--{prefix}{'.'.join(parts)}: {owner or 'fit'} has no such option; {help}"


def check_nulls(name: str, class_path: str, values: Mapping[str, Any]) -> None:
    """Raises UsageError where a class gets null, or nothing behind a colon, and takes none; jsonargparse lets it by."""
    hints = _parameters(_imported(class_path))
    for key, value in values.items():
        if value is None and key in hints and type(None) not in (hints[key], *get_args(hints[key])):
            raise UsageError(f"--{name}.{key}: got null, expected {_in_words(str(hints[key]))}")


def _parameters(owner: Any) -> dict[str, Any]:
    """Names and types of what a class takes, and of what its parents do as far as it hands on any others."""
    found: dict[str, Any] = {}
    for each in getattr(owner, "__mro__", ())[:-1]:
        if "__init__" in vars(each):
            hints = get_type_hints(each.__init__)
            parameters = list(inspect.signature(each.__init__).parameters.values())[1:]
            named = [each.name for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
            found = {name: hints.get(name, None) for name in named} | found
            if all(each.kind is not each.VAR_KEYWORD for each in parameters):
                break
    return found


def _imported(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name, None) if module else None


def _class_like(seen: str, owner: str, name: str, body: str) -> str:
    """Classes that an option takes: those with a name like the one seen, else some."""
    bases = re.search(r"Subtypes: \[(.*)\]$|subclass of (\w+)", body, flags=re.MULTILINE)
    hint = str(_parameters(_imported(owner)).get(name, "")) if bases is None else bases[1] or bases[2]
    wanted = set(re.findall(r"\b[A-Z]\w+", hint)) - {"None", "NoneType", "Iterable", "Callable"}
    paths = {}
    for path, each in public_classes():
        if wanted & {base.__name__ for base in each.__mro__}:
            paths[each.__name__] = path
    there = sorted(paths.keys() - wanted) or sorted(paths)
    near = difflib.get_close_matches(seen.rpartition(".")[2], there) or there[:6]
    kind = f"a kind of {' or '.join(sorted(wanted))}" if wanted else "a class"
    return f"{kind}, such as {', '.join(paths[name] for name in near)}" if near else f"{kind} by its full name"


def public_classes() -> Iterator[tuple[str, type]]:
    """The classes that configs may name, under the paths that they have there; imports them."""
    for module in map(importlib.import_module, MODULES):
        for name in module.__all__:
            if isinstance(each := getattr(module, name), type):
                yield f"{module.__name__}.{name}", each


def _in_words(hint: str) -> str:
    """int | None as a whole number or null: types as jsonargparse prints them, in words."""
    hint = re.sub(r"<class '([\w.]+)'>", r"\1", hint)
    hint = re.sub(r"\b(?:\w+\.)+(?=\w)", "", hint)
    hint = re.sub(r"tuple with (\d+) elements", r"list of \1 items", hint)
    words: dict[str, None] = {}
    for part in re.findall(r"(?:[^,\[]|\[(?:[^\[\]]|\[[^\[\]]*\])*\])+", hint):
        part = part.strip()
        if part.startswith("Literal["):
            words |= dict.fromkeys(choice.strip(" '\"") for choice in part[8:-1].split(","))
        elif part:
            words[WORDS.get(part) or WORDS.get(part.partition("[")[0]) or f"a {part}"] = None
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last


def refused(error: Exception, given: Mapping[str, Any]) -> str | None:
    """The line for what a class or the Trainer refused when it was made, behind the option it means; else None.

    given are the options, by dotted names.
    """
    if isinstance(error, ValueError) and "Problem with given class_path" in str(error):
        return explained(str(error), given)
    lines = [line.strip() for line in str(error).splitlines()]
    reasons = [line[2:] for line in lines if re.match("- (?!Expected|Does not validate)", line)]
    if "Union subtypes" in str(error) and reasons:  # what a class said stands among the types that it might have been
        return reasons[0]
    message = one_line(str(error))
    made = (frame.name == "instantiate_trainer" for frame in traceback.extract_tb(error.__traceback__))
    if type(error).__name__ == "MisconfigurationException" or any(made):
        for option, value in list(given.items())[::-1]:
            name = option.removeprefix("trainer.")
            if option != name and (
                re.search(rf"`{name}\b", message) or (isinstance(value, str) and repr(value) in message)
            ):
                return f"--{option}: got {_short(str(value))}; {message}"
    return None


def _short(value: str) -> str:
    return "null" if value == "None" else repr(value if len(value) <= 80 else f"{value[:77]}...")
