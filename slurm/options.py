"""sbatch's options: read as its command line gives them, by their long names."""

import re

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
NOTICE = 180  # seconds between SLURM's signal and the time limit


def sbatch_options(words: list[str]) -> dict[str, str | None]:
    """`--name value`, `--name=value`, `-n value`, `-nvalue` and bare names, by long names; the last of a name counts.

    Raises:
        ValueError: for a word that belongs to no option.
    """
    options: dict[str, str | None] = {}
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


def number(options: dict[str, str | None], name: str) -> int | None:
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


def gpus_per_node(options: dict[str, str | None]) -> int | None:
    """From --gpus-per-node [TYPE:]N or --gres gpu[:TYPE][:N]; None where neither is given."""
    for name, form in (("gpus-per-node", r"(?:\w+:)?(\d+)"), ("gres", r"gpu(?::[a-zA-Z]\w*)?(?::(\d+))?")):
        for part in (options.get(name) or "").split(","):
            match = re.fullmatch(form, part)
            if match:
                return int(match[1] or 1)
    return None


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
    hours, minutes, seconds = (parts + [0, 0])[:3] if hours_first else [0, *parts, 0][:3]
    return min(NOTICE, (((int(match["days"] or 0) * 24 + hours) * 60 + minutes) * 60 + seconds) // 4)
