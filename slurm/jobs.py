"""What a verb needs of SLURM: its arguments, its folder, its processes, and the options of sbatch that follow."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slurm.arrays import Array, has_place
from slurm.options import Options, check_signal, gpus_per_node, notice, number
from slurm.settings import settings

# as in datamodules.ShardDataModule and mmtrain.commands.fit, which import torch
WORKERS = 2
RUN_FOLDER = "runs/unnamed"
# a rank whose peers do not answer for so long gives up, and srun ends the others; Lightning's default is 30 minutes
STRATEGY = ("--trainer.strategy=pytorch_lightning.strategies.DDPStrategy", "--trainer.strategy.timeout=0:15:00")


@dataclass
class Job:
    """One job.

    Args:
        arguments: The verb and its arguments.
        folder: Keeps the script and the log.
        workers: Reader processes of each task.
        tasks: On each node.
        resumes: Whether the verb can be stopped by a signal and go on, as `fit` can.
    """

    arguments: list[str]
    folder: Path
    workers: int
    nodes: int = 1
    tasks: int = 1
    resumes: bool = False


def training(command: list[str], options: Options, array: Array | None, runs: list[list[str]]) -> Job:
    """The job of `fit`: one task a GPU, and it starts again in its own run folder.

    Args:
        command: The verb and its arguments.
        options: Those of sbatch.
        array: Where it is a job array.
        runs: The arguments of each task of a sweep, and of each of its stages.

    Raises:
        ValueError: for numbers that SLURM and the Trainer are told differently, and for what cannot be resumed.
    """
    ours = settings(command[1:])
    if str(ours.get("ckpt_path", "last")) != "last":
        raise ValueError(
            f"--ckpt_path: got {ours['ckpt_path']}, expected last or nothing: a job that starts again has to go on"
            " from its own run folder"
        )
    check_signal(options)
    nodes = _agreed(number(options, "nodes"), "--nodes", ours, "trainer.num_nodes") or 1
    tasks = _tasks(options, ours, nodes)
    folder = str(ours.get("trainer.default_root_dir", RUN_FOLDER))
    added = [f"--trainer.num_nodes={nodes}", f"--trainer.devices={tasks}", "--ckpt_path=last"]
    each = [settings(words) for words in runs]
    has_strategy = any(name.startswith("trainer.strategy") and run[name] != "auto" for run in each for name in run)
    if nodes * tasks > 1 and not has_strategy:
        added += STRATEGY
    if array and not has_place(folder):
        added.append(f"--trainer.default_root_dir={folder}/{{task}}")
    workers = max(int(run.get("data.workers", WORKERS)) for run in each)
    return Job([*command, *added], _shared(folder), workers, nodes, tasks, resumes=True)


def _tasks(options: Options, ours: dict[str, Any], nodes: int) -> int:
    """Tasks a node: as told, or one a GPU."""
    told, ntasks = number(options, "ntasks-per-node"), number(options, "ntasks")
    if ntasks and ntasks != nodes * (told or max(ntasks // nodes, 1)):
        raise ValueError(
            f"--ntasks: got {ntasks}, but {nodes} nodes x {told or 'n'} tasks; give --ntasks-per-node instead"
        )
    told = told or (ntasks and ntasks // nodes)
    tasks = _agreed(told, "--ntasks-per-node", ours, "trainer.devices")
    gpus = None if told else gpus_per_node(options, nodes)
    if tasks and gpus and tasks != gpus:
        raise ValueError(
            f"trainer.devices is {tasks}, but the job would hold {gpus} GPUs a node; request {tasks}, or give"
            f" --ntasks-per-node {tasks} to leave the others idle"
        )
    return tasks or gpus or 1


def _agreed(told: int | None, option: str, ours: dict[str, Any], setting: str) -> int | None:
    """A number that both SLURM and the Trainer are told; what only one is told goes for both."""
    value = str(ours.get(setting))
    configured = int(value) if value.isdecimal() else None  # devices may be auto
    if told and configured and told != configured:
        raise ValueError(f"{option} {told}, but {setting} is {configured}; say it once, before the --")
    return told or configured


def one_process(command: list[str], options: Options, workers: int) -> Job:
    """The job of a verb that is one process and, started again, begins anew.

    Raises:
        ValueError: when several processes are requested.
    """
    for name in ("nodes", "ntasks", "ntasks-per-node"):
        if (number(options, name) or 1) > 1:
            raise ValueError(
                f"--{name}: got {options[name]}, but {command[0]} is one process; an --array gives several"
            )
    # beside what it writes: an export wants its folder empty
    beside = settings(command[1:]).get("out", command[0])
    return Job(command, _shared(f"{beside}.slurm"), workers)


def _shared(folder: str) -> Path:
    """The folder of the script, which an array's tasks share."""
    return Path(folder.replace("{tasks}", "all").replace("{task}", "all"))


def complete(options: Options, job: Job, array: Array | None) -> Options:
    """sbatch's options, with those that follow from the job where they are not given.

    Raises:
        ValueError: for a job that could not run: more workers than CPUs, a name that Lightning takes for interactive.
    """
    name = options.get("job-name") or (job.folder.name if job.resumes else job.arguments[0])
    if name in ("bash", "interactive"):
        raise ValueError(f"--job-name: {name} makes Lightning take the job for an interactive one; give another name")
    if "chdir" in options and Path(options["chdir"] or "").resolve() != Path.cwd():
        raise ValueError(
            f"--chdir: got {options['chdir']}, but relative paths of the command count from the folder that submit runs"
            f" in; cd {options['chdir']} first"
        )
    defaults: Options = {"job-name": name, "nodes": str(job.nodes), "ntasks-per-node": str(job.tasks)}
    if "cpus-per-gpu" not in options:
        cpus = number(options, "cpus-per-task") or job.workers + 1
        if job.workers > cpus:
            raise ValueError(
                f"{job.workers} workers x {job.tasks} tasks = {job.workers * job.tasks} > {job.tasks} tasks x"
                f" {cpus} CPUs = {job.tasks * cpus} of a node; give --cpus-per-task {job.workers + 1}, or"
                f" --{'data.' if job.resumes else ''}workers {max(cpus - 1, 0)}"
            )
        defaults["cpus-per-task"] = str(cpus)
    # relative, as everything in the arguments is: sbatch runs the script where it was sent from
    defaults["output"] = str(job.folder / ("slurm-%A_%a.out" if array else "slurm-%j.out"))
    defaults["open-mode"] = "append"
    if "no-requeue" not in options:
        defaults["requeue"] = None
    if job.resumes:
        defaults["signal"] = f"USR2@{notice(options.get('time'))}"
    return defaults | options
