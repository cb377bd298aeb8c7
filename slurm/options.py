"""sbatch's options: read as its command line gives them, by their long names. `jobs.complete` adds those of a job."""

import re
from collections.abc import Mapping

_LONG = {
    "A": "account",
    "a": "array",
    "B": "extra-node-info",
    "b": "begin",
    "C": "constraint",
    "c": "cpus-per-task",
    "D": "chdir",
    "d": "dependency",
    "e": "error",
    "F": "nodefile",
    "G": "gpus",
    "H": "hold",
    "i": "input",
    "J": "job-name",
    "k": "no-kill",
    "L": "licenses",
    "M": "clusters",
    "m": "distribution",
    "N": "nodes",
    "n": "ntasks",
    "O": "overcommit",
    "o": "output",
    "p": "partition",
    "Q": "quiet",
    "q": "qos",
    "S": "core-spec",
    "s": "oversubscribe",
    "t": "time",
    "v": "verbose",
    "W": "wait",
    "w": "nodelist",
    "x": "exclude",
}
# what sbatch takes from its environment over the script's lines, of what a script here decides by
_VARIABLES = {
    "SBATCH_ARRAY_INX": "array",
    "SBATCH_GPUS": "gpus",
    "SBATCH_GPUS_PER_NODE": "gpus-per-node",
    "SBATCH_GPUS_PER_TASK": "gpus-per-task",
    "SBATCH_GRES": "gres",
    "SBATCH_SIGNAL": "signal",
    "SBATCH_TIMELIMIT": "time",
}
_NAMED_GPUS = r"(?:gres[/:])?gpu(?::[^:,=]*[^:,=\d][^:,=]*)?(?:[:=](\d+))?"  # gpu, gpu:4, gpu:TYPE:4, gres/gpu:TYPE=4
_GPUS = r"(?:[^:,]+:)?(\d+)"  # 4, TYPE:4
_GPU_FORMS = {"gpus-per-node": _GPUS, "gres": _NAMED_GPUS, "tres-per-node": _NAMED_GPUS, "gpus": _GPUS}
NOTICE = 180  # seconds between SLURM's signal and the time limit

Options = dict[str, str | None]


def sbatch_options(words: list[str]) -> Options:
    """`--name value`, `--name=value`, `-n value`, `-nvalue` and bare names, by long names; the last of a name counts.

    Raises:
        ValueError: for a word that belongs to no option.
    """
    options: Options = {}
    open_name: str | None = None
    for word in words:
        if word.startswith("--") and len(word) > 2:
            name, sign, value = word[2:].partition("=")
        elif word.startswith("-") and len(word) > 1:
            name, value = _LONG.get(word[1], word[1]), word[2:].removeprefix("=")
            sign = value
        elif open_name is not None:
            options[open_name], open_name = word, None
            continue
        else:
            raise ValueError(f"{word!r} belongs to no option; expected sbatch's options, then -- and a verb")
        options.pop(name, None)
        options[name] = value if sign else None
        open_name = None if sign else name
    return options


def number(options: Options, name: str) -> int | None:
    """The option's number, None where it is not given.

    Raises:
        ValueError: when it is something else; a training needs to know how many processes it will be.
    """
    value = options.get(name)
    if value is None:
        return None
    if not value.isdecimal() or int(value) < 1:
        raise ValueError(f"--{name}: got {value!r}, expected a number from 1")
    return int(value)


def variable_options(variables: Mapping[str, str]) -> Options:
    """The options among environment variables, which sbatch would put above the script's own."""
    return {option: variables[name] for name, option in _VARIABLES.items() if variables.get(name)}


def gpus_per_node(options: Options, nodes: int) -> int | None:
    """GPUs of each node, of whatever type; None where none is requested.

    Raises:
        ValueError: for a request from which the number a node does not follow.
    """
    for name, form in _GPU_FORMS.items():
        parts = (options.get(name) or "").split(",")
        requests = [part for part in parts if "gpu" in part or (part and name.startswith("gpus"))]
        counts = [int(match[1] or 1) for match in (re.fullmatch(form, part) for part in requests) if match]
        share = nodes if name == "gpus" else 1
        if len(counts) < len(requests) or sum(counts) % share:
            raise _uncounted(options, name)
        if counts:
            return sum(counts) // share
    for name in ("gpus-per-task", "gpus-per-socket", "tres-per-task"):
        if name in options and (name.startswith("gpus") or "gpu" in (options[name] or "")):
            raise _uncounted(options, name)
    return None


def _uncounted(options: Options, name: str) -> ValueError:
    return ValueError(f"--{name}: got {options[name]!r}: how many GPUs a node? give --ntasks-per-node")


def check_signal(options: Options) -> None:
    """
    Raises:
        ValueError: when --signal would tell a training by a signal that it does not listen to.
    """
    value = options.get("signal") or ""
    if "signal" in options and not re.fullmatch(r"(R:)?((SIG)?(USR2|TERM)|12|15)(@\d+)?", value, re.IGNORECASE):
        raise ValueError(f"--signal: got {value!r}; a training is told by USR2: give USR2@SECONDS, as in USR2@180")


def notice(time: str | None) -> int:
    """Seconds before the time limit at which to tell the tasks: a quarter of it, at most `NOTICE`.

    SLURM may tell them up to a minute earlier.
    """
    match = re.fullmatch(r"(?:(?P<days>\d+)-)?(?P<parts>\d+(?::\d+){0,2})", time or "")
    if match is None:
        return NOTICE  # none given, or UNLIMITED
    parts = [int(part) for part in match["parts"].split(":")]
    # behind days the first part is hours; otherwise one or two parts begin with minutes
    hours_first = match["days"] is not None or len(parts) == 3
    hours, minutes, seconds = ([*parts, 0, 0])[:3] if hours_first else [0, *parts, 0][:3]
    return min(NOTICE, (((int(match["days"] or 0) * 24 + hours) * 60 + minutes) * 60 + seconds) // 4)
