"""`mmtrain submit`: a verb as a SLURM job, written as a batch script and sent by sbatch."""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from datamodules.files import write_whole
from mmtrain.commands.usage import OneLineParser
from mmtrain.display.messages import one_line
from slurm.arrays import array_tasks, filled, has_place, read_sweep
from slurm.options import gpus_per_node, notice, number, sbatch_options
from slurm.script import RESTARTS, Script
from slurm.site import Site, read_site

# as in datamodules.ShardDataModule and mmtrain.commands.fit, which import torch
WORKERS = 2
RUN_FOLDER = "runs/unnamed"
# a rank whose peers do not answer for so long gives up, and srun ends the others; Lightning's default is 30 minutes
STRATEGY = ("--trainer.strategy=pytorch_lightning.strategies.DDPStrategy", "--trainer.strategy.timeout=0:15:00")

Options = dict[str, str | None]


@dataclass
class Job:
    """What a verb needs: its arguments, the folder of its script and log, and processes."""

    arguments: list[str]
    folder: Path
    workers: int
    nodes: int = 1
    tasks: int = 1  # on each node
    resumes: bool = False


@dataclass
class Array:
    """The tasks of a job array by number, and what each does differently."""

    tasks: list[int]
    overrides: dict[int, list[str]] = field(default_factory=dict)


def run(arguments: list[str], parse: Callable[[list[str]], argparse.Namespace]) -> None:
    """Runs `submit` with the arguments behind the verb; `parse` reads the command line of any verb but `fit`.

    Raises:
        ValueError: for what the job would be refused for, or fail at, in one line.
        SystemExit: with code 2 for wrong usage.
    """
    script, dry = _script(arguments, parse)
    if dry:
        print(script.text(), end="")
    else:
        _send(script)


def _script(arguments: list[str], parse: Callable[[list[str]], argparse.Namespace]) -> tuple[Script, bool]:
    parser = _parser()
    split = arguments.index("--") if "--" in arguments else len(arguments)
    ours, rest = parser.parse_known_args(arguments[:split])
    command = arguments[split + 1 :]
    if not command or command[0] == "submit":
        parser.error("expected a verb behind --, as in: mmtrain submit --time 8:00:00 -- fit --config FILE")
    try:
        asked = sbatch_options(rest)
    except ValueError as error:
        parser.error(str(error))
    site = read_site(Path(ours.site)) if ours.site else Site()
    options: Options = {name: None if value is None else str(value) for name, value in site.options.items()} | asked
    array = _array(options, ours.sweep, command)
    job = _fit(command, options, array) if command[0] == "fit" else _other(command, options, array, parse)
    script = Script(
        command=["mmtrain", "submit", *(word for word in arguments if word != "--dry-run")],
        options=_complete(options, job, array),
        arguments=job.arguments,
        folder=job.folder,
        resumes=job.resumes,
        restarts=0 if "no-requeue" in options else ours.restarts,
        overrides=array.overrides if array else {},
        program=_program(),
        site=site,
    )
    return script, ours.dry_run


def _parser() -> OneLineParser:
    parser = OneLineParser(
        prog="mmtrain submit",
        usage="mmtrain submit [SLURM options] -- VERB ...",
        description="Run a verb as a SLURM job. An option before -- that is not below is sbatch's and goes there as it"
        " is. A training is told before its time limit, keeps a checkpoint and starts again in the same run folder.",
        epilog="Behind --, {task} and {tasks} stand for an array task's number and how many there are.",
        allow_abbrev=False,
    )
    parser.add_argument("--dry-run", action="store_true", help="print the batch script; write and send nothing")
    site = os.environ.get("MMTRAIN_SITE")
    parser.add_argument(
        "--site", metavar="FILE", default=site, help="what this cluster needs, YAML (default: $MMTRAIN_SITE)"
    )
    parser.add_argument("--sweep", metavar="FILE", help="a job array: one task a line, its further arguments")
    parser.add_argument(
        "--restarts", type=_count, default=RESTARTS, metavar="N", help=f"of a training, at most (default: {RESTARTS})"
    )
    return parser


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a number from 0")
    return int(text)


def _array(options: Options, sweep: str | None, command: list[str]) -> Array | None:
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


def _fit(command: list[str], options: Options, array: Array | None) -> Job:
    variants = [settings([*command[1:], *words]) for words in (array.overrides.values() if array else ())]
    variants = variants or [settings(command[1:])]
    ours = settings(command[1:])
    if str(ours.get("ckpt_path", "last")) != "last":
        raise ValueError(
            f"--ckpt_path: got {ours['ckpt_path']}, expected last or nothing: a job that starts again has to go on"
            " from its own run folder"
        )
    nodes = _agreed(number(options, "nodes"), "--nodes", ours, "trainer.num_nodes") or 1
    tasks = _agreed(number(options, "ntasks-per-node"), "--ntasks-per-node", ours, "trainer.devices")
    tasks = tasks or gpus_per_node(options) or 1
    if "ntasks" in options and number(options, "ntasks") != nodes * tasks:
        raise ValueError(
            f"--ntasks: got {options['ntasks']}, but {nodes} x {tasks} tasks; give --ntasks-per-node instead"
        )
    folder = str(ours.get("trainer.default_root_dir", RUN_FOLDER))
    added = [f"--trainer.num_nodes={nodes}", f"--trainer.devices={tasks}", "--ckpt_path=last"]
    named = any(name.startswith("trainer.strategy") and value != "auto" for name, value in ours.items())
    if nodes * tasks > 1 and not named:
        added += STRATEGY
    if array and not has_place(folder):
        added.append(f"--trainer.default_root_dir={folder}/{{task}}")
    workers = max(int(variant.get("data.workers", WORKERS)) for variant in variants)
    return Job([*command, *added], _common(folder), workers, nodes, tasks, resumes=True)


def _agreed(told: int | None, option: str, ours: dict[str, Any], setting: str) -> int | None:
    """A number that both SLURM and the Trainer are told; what only one is told goes for both."""
    value = str(ours.get(setting))
    configured = int(value) if value.isdecimal() else None  # devices may be auto
    if told and configured and told != configured:
        raise ValueError(f"{option} {told}, but {setting} is {configured}; say it once, before the --")
    return told or configured


def _other(
    command: list[str], options: Options, array: Array | None, parse: Callable[[list[str]], argparse.Namespace]
) -> Job:
    """A verb that is one process and, started again, begins anew."""
    first = array.tasks[0] if array else 0
    words = [filled(word, first, len(array.tasks) if array else 1) for word in command]
    parsed = parse([*words, *(array.overrides.get(first, []) if array else [])])  # wrong usage now, not in the queue
    for name in ("nodes", "ntasks", "ntasks-per-node"):
        if (number(options, name) or 1) > 1:
            raise ValueError(
                f"--{name}: got {options[name]}, but {command[0]} is one process; an --array gives several"
            )
    # beside what it writes: an export wants its folder empty
    beside = settings(command[1:]).get("out", command[0])
    return Job(command, _common(f"{beside}.slurm"), getattr(parsed, "workers", 0) or 0)


def _common(folder: str) -> Path:
    """The folder of the script, which an array's tasks share."""
    return Path(folder.replace("{tasks}", "all").replace("{task}", "all"))


def settings(arguments: list[str]) -> dict[str, Any]:
    """What the arguments of `fit` and the files they name set, by dotted names without init_args; the last counts.

    Read here and not by `fit` itself, because that takes torch and seconds, and a login node may have neither.

    Raises:
        ValueError: when a config cannot be read.
    """
    found: dict[str, Any] = {}
    words = iter(arguments)
    for word in words:
        if not word.startswith("-"):
            continue
        name, sign, value = word.lstrip("-").partition("=")
        value = value if sign else next(words, "")
        if name in ("config", "c"):
            try:
                found |= _dotted(yaml.safe_load(Path(value).read_text(encoding="utf-8")))
            except (OSError, yaml.YAMLError) as error:
                raise ValueError(f"--config: {value} cannot be read: {one_line(str(error))}") from error
        else:
            try:
                found |= _dotted(yaml.safe_load(value), name)
            except yaml.YAMLError:
                found |= _dotted(value, name)
    return found


def _dotted(value: Any, name: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {key: leaf for part, inner in value.items() for key, leaf in _dotted(inner, f"{name}.{part}").items()}
    return {".".join(part for part in name.split(".") if part and part != "init_args"): value}


def _complete(options: Options, job: Job, array: Array | None) -> Options:
    """sbatch's options with what was not told."""
    name = options.get("job-name") or (job.folder.name if job.resumes else job.arguments[0])
    if name in ("bash", "interactive"):
        raise ValueError(f"--job-name: {name} makes Lightning take the job for an interactive one; give another name")
    complete: Options = {"job-name": name, "nodes": str(job.nodes), "ntasks-per-node": str(job.tasks)}
    if "cpus-per-gpu" not in options:
        cpus = number(options, "cpus-per-task") or job.workers + 1
        if job.workers > cpus:
            raise ValueError(
                f"{job.workers} workers x {job.tasks} tasks = {job.workers * job.tasks} > {job.tasks} tasks x"
                f" {cpus} CPUs = {job.tasks * cpus} of a node; give --cpus-per-task {job.workers + 1}, or"
                f" --{'data.' if job.resumes else ''}workers {max(cpus - 1, 0)}"
            )
        complete["cpus-per-task"] = str(cpus)
    # relative, as everything in the arguments is: sbatch runs the script where it was sent from
    complete["output"] = str(job.folder / ("slurm-%A_%a.out" if array else "slurm-%j.out"))
    complete["open-mode"] = "append"
    if "no-requeue" not in options:
        complete["requeue"] = None
    if job.resumes:
        complete["signal"] = f"USR2@{notice(options.get('time'))}"
    return complete | options


def _program() -> str:
    """The mmtrain of this environment, which the job's PATH may not have."""
    beside = Path(sys.executable).parent / "mmtrain"
    return str(beside) if beside.exists() else "mmtrain"


def _send(script: Script) -> None:
    """Writes the script into its folder and sends it; the job's number is the last line printed."""
    path = script.folder / "submit.sbatch"
    write_whole(path, script.text())
    try:
        sent = subprocess.run(["sbatch", "--parsable", str(path)], capture_output=True, text=True)
    except FileNotFoundError as error:
        raise ValueError(
            f"sbatch is not on this machine; {path} is written and can be sent from a login node"
        ) from error
    if sent.returncode:
        asked = " ".join(
            f"--{name} {script.options[name]}"
            for name in ("nodes", "ntasks-per-node", "cpus-per-task")
            if name in script.options
        )
        raise ValueError(f"{one_line(sent.stderr)} (asked for {asked}; the script is {path})")
    print(sent.stderr, end="", file=sys.stderr)
    print(f"{path} sent; its log: {script.options['output']}")
    print(sent.stdout.strip().split(";")[0])  # number;cluster where there are several clusters
