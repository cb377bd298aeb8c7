"""Job arrays: which tasks there are, what each does differently, and its number in an argument."""

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

from slurm.options import Options

_PLACES = {"{task}": '"$SLURM_ARRAY_TASK_ID"', "{tasks}": '"$SLURM_ARRAY_TASK_COUNT"'}


@dataclass
class Array:
    """The tasks of a job array by number, and the further arguments of each."""

    tasks: list[int]
    overrides: dict[int, list[str]] = field(default_factory=dict)


def read_array(options: Options, sweep: str | None, command: list[str]) -> Array | None:
    """The array that --array or the lines of a sweep's file make, None where neither is given; sets --array.

    Raises:
        ValueError: for numbers or a file that do not fit, and for a task's number in a command of no array.
    """
    lines = read_sweep(Path(sweep)) if sweep else []
    if lines and not options.get("array"):
        options["array"] = f"0-{len(lines) - 1}"
    if not options.get("array"):
        if any(map(has_place, command)):
            raise ValueError("{task} stands for the number of an array's task; give --array, as in --array 0-7")
        return None
    numbers = array_tasks(options["array"] or "")
    if lines and numbers[-1] >= len(lines):
        raise ValueError(
            f"--array: {options['array']} has task {numbers[-1]}, --sweep {sweep} has {len(lines)} lines, for tasks"
            f" 0-{len(lines) - 1}"
        )
    return Array(numbers, {task: lines[task] for task in numbers} if lines else {})


def array_tasks(array: str) -> list[int]:
    """The numbers of sbatch's --array: 0-7, 1,3,5, 0-15:4, each with %N, the most to run at a time, behind it.

    Raises:
        ValueError: for what is none.
    """
    numbers: set[int] = set()
    for part in array.split("%")[0].split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+)(?::(\d+))?)?", part)
        if match is None or int(match[3] or 1) < 1:
            raise ValueError(f"--array: got {array!r}, expected numbers like 0-7, 0-15:4 or 1,3,5, and %N behind them")
        first = int(match[1])
        numbers.update(range(first, int(match[2] or first) + 1, int(match[3] or 1)))
    if not numbers:
        raise ValueError(f"--array: {array!r} names no task")
    return sorted(numbers)


def read_sweep(path: Path) -> list[list[str]]:
    """A file with the overrides of one array task a line, written as in a shell; # begins a comment.

    Raises:
        ValueError: when it cannot be read or has no line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        sweep = [words for words in (shlex.split(line, comments=True) for line in lines) if words]
    except (OSError, ValueError) as error:
        raise ValueError(f"--sweep: {path} cannot be read: {error}") from error
    if not sweep:
        raise ValueError(f"--sweep: {path} has no line; expected the overrides of one task a line")
    return sweep


def variants(arguments: list[str], array: Array | None) -> list[list[str]]:
    """The arguments as each task of a sweep sees them; of an array that has none, as its first task does."""
    if array is None:
        return [arguments]
    tasks = array.overrides or {array.tasks[0]: []}
    return [
        [
            word.replace("{task}", str(task)).replace("{tasks}", str(len(array.tasks)))
            for word in [*arguments, *overrides]
        ]
        for task, overrides in tasks.items()
    ]


def has_place(argument: str) -> bool:
    return any(place in argument for place in _PLACES)


def in_shell(argument: str) -> str:
    """The argument quoted for the batch script, in which the task's number is known."""
    parts = re.split(r"(\{tasks?\})", argument)
    return "".join(_PLACES.get(part) or shlex.quote(part) for part in parts if part) or "''"
