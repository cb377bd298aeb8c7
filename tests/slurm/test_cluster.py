"""Trainings on a real SLURM cluster of two nodes: requeued, out of time, failing."""

import csv
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from mmtrain.cli import main
from tests.mmtrain.mixed import whole
from tests.mmtrain.small import ENVIRONMENT, ROOT, arguments
from tests.slurm.cluster import Cluster, missing

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(missing() is not None, reason=f"needs a SLURM cluster: {missing()}"),
]
MMTRAIN = str(Path(sys.executable).parent / "mmtrain")
STEPS = 40


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    started = Cluster(tmp_path_factory.mktemp("slurm"))
    started.start()
    yield started
    started.stop()


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("numbers")
    assert main(["pack", "numbers", "--out", str(folder), "--split", "val", "--languages", "[en,lv,ja]"]) == 0
    return folder


@pytest.fixture(scope="module")
def model(numbers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("model") / "run"
    assert main(arguments(numbers, run, "--trainer.max_steps=1")) == 0
    return run


@pytest.fixture(scope="module")
def alone(model: Path, numbers: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What one process writes: the rows of the numbers, and the numbers with the negatives of those rows."""
    folder = tmp_path_factory.mktemp("alone")
    written = {"embed": folder / "rows", "mine": folder / "mined"}
    for verb, out in written.items():
        assert main(divided(verb, model if verb == "embed" else written["embed"], numbers, out)) == 0
    return written


def divided(verb: str, model: Path, data: Path, out: Path) -> list[str]:
    sizes = ["--workers=0", "--batch_size=16", "--samples_per_shard=16"]
    return [verb, str(model), "--data", str(data), *sizes, "--out", str(out)]


def environment(cluster: Cluster) -> dict[str, str]:
    # the job finds the callback of this folder, and nothing of the wandb service of who submits it
    own = {"WANDB_MODE": "offline", "WANDB_SERVICE": "3-1-unix-gone", "PYTHONPATH": str(ROOT)}
    return ENVIRONMENT | cluster.environment | own


def submit(cluster: Cluster, options: list[str], command: list[str]) -> str:
    """The job's number, which `mmtrain submit` prints last."""
    words = [MMTRAIN, "submit", *options, "--", *command]
    done = subprocess.run(words, env=environment(cluster), capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[-1]


def training(numbers: Path, run: Path, seconds: float, *options: str) -> list[str]:
    slowly = {"class_path": "tests.slurm.slowly.Slowly", "init_args": {"seconds": seconds}}
    return arguments(
        numbers,
        run,
        f"--trainer.max_steps={STEPS}",
        "--trainer.log_every_n_steps=1",
        "--trainer.logger=mmtrain.loggers.Wandb",
        f"--trainer.callbacks={json.dumps([slowly])}",
        "--checkpoint.every_n_steps=10",
        *options,
    )


def steps(run: Path) -> list[int]:
    with (run / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return [int(row["step"]) for row in csv.DictReader(file) if row["train/loss"]]


def check_complete(run: Path) -> None:
    """Every step once, in one folder, under one wandb id."""
    assert steps(run) == list(range(STEPS))
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == STEPS and checkpoint["mmtrain"]["world_size"] == 2
    identity = json.loads((run / "wandb" / "run.json").read_text())["id"]
    assert checkpoint["mmtrain"]["wandb"] == identity
    assert {path.name.split("-")[-1] for path in (run / "wandb").glob("offline-run-*")} == {identity}


def log(run: Path) -> str:
    return next(run.glob("slurm-*.out")).read_text()


def test_two_nodes_requeued_in_the_middle(cluster: Cluster, numbers: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    job = submit(cluster, ["--nodes=2", "--time=10:00"], training(numbers, run, 0.3))
    deadline = time.monotonic() + 180
    while not (run / "metrics.csv").exists() or len(steps(run)) < 12:
        assert time.monotonic() < deadline and cluster.state(job) in ("PENDING", "RUNNING"), log(run)
        time.sleep(0.5)
    cluster.command("scontrol", "requeue", job)
    fields = cluster.until(job, "COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", seconds=300)
    assert fields["JobState"] == "COMPLETED", log(run)
    assert fields["Restarts"] == "1"
    check_complete(run)


@pytest.mark.timeout(1100)
def test_out_of_time(cluster: Cluster, numbers: Path, tmp_path: Path) -> None:
    """As a task of an array that inherits little from the submitter.

    The steps alone fill the time, so one leg is never enough; a slow start of the machine leaves most of it for them.
    """
    run = tmp_path / "run"
    inherited = "PYTHONPATH,WANDB_MODE,OMP_NUM_THREADS"
    options = ["--nodes=2", "--time=2:00", "--signal=USR2@10", "--array=3", f"--export={inherited}"]
    job = submit(cluster, options, training(numbers, run, 3))
    # a slow machine needs a third leg, which waits two minutes more
    fields = cluster.until(f"{job}_3", "COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", seconds=1000)
    assert fields["JobState"] == "COMPLETED", log(run)
    assert int(fields["Restarts"]) >= 1
    assert "stopped by" in log(run)
    check_complete(run / "3")


def test_an_error_of_the_program_is_not_tried_again(cluster: Cluster, numbers: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = ["--model.text.width=33"]  # which a GRU of two directions refuses
    job = submit(cluster, ["--nodes=2", "--time=10:00"], training(numbers, run, 0, *options))
    fields = cluster.until(job, "COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", seconds=180)
    assert fields["JobState"] == "FAILED" and fields["Restarts"] == "0"
    assert "not started again" in log(run)


def test_no_more_restarts_than_allowed(cluster: Cluster, numbers: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    job = submit(cluster, ["--time=10:00", "--restarts=0"], training(numbers, run, 1.5))
    deadline = time.monotonic() + 120
    while not (run / "metrics.csv").exists():
        assert time.monotonic() < deadline, log(run)
        time.sleep(0.5)
    cluster.command("scancel", "--signal=USR2", job)
    fields = cluster.until(job, "COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", seconds=120)
    assert fields["JobState"] == "FAILED" and "not started again" in log(run)


def array(cluster: Cluster, tasks: int, command: list[str]) -> None:
    """Runs a verb as an array, all tasks of which must succeed."""
    job = submit(cluster, [f"--array=0-{tasks - 1}", "--time=10:00"], command)
    for task in range(tasks):
        fields = cluster.until(f"{job}_{task}", "COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", seconds=300)
        assert fields["JobState"] == "COMPLETED"


def srun(cluster: Cluster, tasks: int, command: list[str]) -> None:
    """Runs a verb as srun does, on both nodes."""
    words = ["srun", "--nodes=2", f"--ntasks={tasks}", MMTRAIN, *command]
    done = subprocess.run(words, env=environment(cluster), capture_output=True, text=True, cwd=ROOT, timeout=500)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("way", "tasks"), [(array, 2), (srun, 3)])
@pytest.mark.parametrize("verb", ["embed", "mine"])
def test_tasks_write_what_one_process_writes(
    verb: str,
    way: Callable[[Cluster, int, list[str]], None],
    tasks: int,
    alone: dict[str, Path],
    cluster: Cluster,
    model: Path,
    numbers: Path,
    tmp_path: Path,
) -> None:
    way(cluster, tasks, divided(verb, model if verb == "embed" else alone["embed"], numbers, tmp_path / "shared"))
    assert whole(tmp_path / "shared") == whole(alone[verb])
    assert len(list(alone[verb].glob("*.tar"))) == 7  # more than there are tasks
    assert not list(tmp_path.glob("*.parts"))


def test_an_array_embeds_for_one_index(cluster: Cluster, numbers: Path, model: Path, tmp_path: Path) -> None:
    index = ["index", str(model), "--data", str(numbers), "--workers=0", "--part_size=16", "--batch_size=16", "--out"]
    assert main([*index, str(tmp_path / "one")]) == 0
    array(cluster, 2, [*index, str(tmp_path / "array")])
    for name in ("rows.npy", "index.faiss", "items.sqlite"):
        assert (tmp_path / "array" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    logs = [path.read_text() for path in (tmp_path / "array.slurm").glob("*.out")]
    assert len(logs) == 2


def test_an_array_curates_in_parts(cluster: Cluster, numbers: Path, tmp_path: Path) -> None:
    pytest.importorskip("ahocorasick_rs")
    metadata = tmp_path / "metadata.jsonl"
    assert main(["curate", "--build_metadata", str(numbers), "--top_unigrams", "1", "--out", str(metadata)]) == 0
    curate = ["curate", str(numbers), "--metadata", str(metadata), "--tail", "0.2", "--out"]
    assert main([*curate, str(tmp_path / "one")]) == 0
    parts = [*curate, str(tmp_path / "array")]
    array(cluster, 2, [*parts, "--part", "{task}/{tasks}"])
    assert main([*parts, "--join"]) == 0
    for name in ("keep.jsonl", "curation.json"):
        assert (tmp_path / "array" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


def test_what_sbatch_refuses_is_one_line(cluster: Cluster, numbers: Path, tmp_path: Path) -> None:
    command = [MMTRAIN, "submit", "--partition=nowhere", "--", *training(numbers, tmp_path / "run", 0)]
    done = subprocess.run(command, env=environment(cluster), capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert "nowhere" in done.stderr or "partition" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
