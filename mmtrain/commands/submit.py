"""`mmtrain submit`: a verb as a SLURM job, written as a batch script and sent by sbatch."""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from datamodules.files import write_whole
from mmtrain.commands.pages import with_pages
from mmtrain.commands.stages import stage_arguments
from mmtrain.commands.usage import OneLineParser
from mmtrain.display.messages import one_line, say
from slurm.arrays import read_array, variants
from slurm.jobs import complete, one_process, training
from slurm.options import Options, sbatch_options, variable_options
from slurm.script import RESTARTS, Script
from slurm.site import Site, read_site


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
        told = sbatch_options(rest)
    except ValueError as error:
        parser.error(str(error))
    site = read_site(Path(ours.site)) if ours.site else Site()
    options: Options = {name: None if value is None else str(value) for name, value in site.options.items()}
    options |= variable_options(os.environ) | told
    array = read_array(options, ours.sweep, command)
    if command[0] == "fit":
        command = with_pages(command)
        tasks = [with_pages(words) for words in variants(command[1:], array)]
        job = training(command, options, array, [run for words in tasks for run in stage_arguments(words)])
        if site.container is None:  # an image may have classes that are not here
            from mmtrain.commands import fit  # takes torch and seconds

            for words in tasks:
                fit.check(words)
    else:
        parsed = parse(variants(command, array)[0])
        job = one_process(command, options, getattr(parsed, "workers", 0) or 0)
    options = complete(options, job, array)
    try:
        script = Script(
            command=["mmtrain", "submit", *(word for word in arguments if word != "--dry-run")],
            options=options,
            arguments=job.arguments,
            folder=job.folder,
            resumes=job.resumes,
            restarts=0 if "no-requeue" in options else ours.restarts,
            overrides=array.overrides if array else {},
            program=_program(),
            site=site,
        )
    except ValueError as error:
        parser.error(str(error))
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
    say(f"{path} sent; its log: {script.options['output']}")
    print(sent.stdout.strip().split(";")[0])  # number;cluster where there are several clusters
