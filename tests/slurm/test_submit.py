"""`mmtrain submit --dry-run`: what would be sent, and what is refused before it is."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from mmtrain.cli import main
from tests.mmtrain.small import TINY

FIT = ["--", "fit", "--config", TINY, "--data.train", "shards"]


def script(*arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["submit", "--dry-run", *arguments]) == 0
    return capsys.readouterr().out


def directives(text: str) -> set[str]:
    return {line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH ")}


def test_what_it_does_not_know_is_sbatchs(capsys: pytest.CaptureFixture[str]) -> None:
    text = script("-p", "gpu", "--account=lab", "--time", "2:00:00", "--exclusive", "--mem=8G", *FIT, capsys=capsys)
    assert {"--partition=gpu", "--account=lab", "--time=2:00:00", "--exclusive", "--mem=8G"} <= directives(text)
    # tiny.yaml has one worker
    assert {"--cpus-per-task=2", "--requeue", "--signal=USR2@180", "--job-name=tiny"} <= directives(text)
    assert "--ckpt_path=last" in text
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)


def test_nodes_and_devices_are_told_to_both(capsys: pytest.CaptureFixture[str]) -> None:
    text = script("-N2", "--gres", "gpu:a100:4", *FIT, capsys=capsys)
    assert {"--nodes=2", "--ntasks-per-node=4", "--gres=gpu:a100:4"} <= directives(text)
    assert "--trainer.num_nodes=2" in text and "--trainer.devices=4" in text
    text = script(*FIT, "--trainer.devices=3", "--trainer.num_nodes", "2", capsys=capsys)
    assert {"--nodes=2", "--ntasks-per-node=3"} <= directives(text)


@pytest.mark.parametrize("name", ["2024_11_28", "no", "1e3", "12:30"])
def test_a_folder_is_named_as_it_is_written(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(f"trainer: {{default_root_dir: {name}}}")
    text = script(*FIT, "--config", str(config), capsys=capsys)
    assert {f"--job-name={name}", f"--output={name}/slurm-%j.out"} <= directives(text)


def test_a_site_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site = tmp_path / "site.yaml"
    site.write_text(
        "options: {partition: gpu, account: lab, begin: 12:30, exclusive: }\nmodules: [cuda/12, gcc]\n"
        "environment: {NCCL_SOCKET_IFNAME: ib0, LAZY: no}\n"
        "container: {runtime: apptainer, image: mm train.sif, mounts: [/data], options: [--nv]}\n"
    )
    text = script("--site", str(site), "-p", "short", *FIT, capsys=capsys)
    assert {"--partition=short", "--account=lab", "--begin=12:30", "--exclusive"} <= directives(text)
    assert "module load cuda/12 gcc" in text and "export NCCL_SOCKET_IFNAME=ib0" in text and "LAZY=no" in text
    assert 'apptainer exec --bind "$PWD",/data --pwd "$PWD" --nv \'mm train.sif\' mmtrain fit' in text.replace(
        "\\\n", ""
    )
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)


def test_a_sweep_is_an_array(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "sweep").write_text(
        "--model.learning_rate=1e-3  # the usual one\n--model.learning_rate=3e-3 --seed=1\n"
    )
    text = script("--sweep", str(tmp_path / "sweep"), *FIT, capsys=capsys)
    assert "--array=0-1" in directives(text)
    assert "1) overrides=(--model.learning_rate=3e-3 --seed=1) ;;" in text
    assert '--trainer.default_root_dir=runs/tiny/"$SLURM_ARRAY_TASK_ID"' in text
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)


def test_a_verb_that_does_not_resume(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--", "evaluate", "runs/tiny", "--data", "shards", "--out", "runs/tiny/report", "--workers", "4"]
    text = script("--dependency=afterok:17", *command, capsys=capsys)
    assert {"--dependency=afterok:17", "--cpus-per-task=5"} <= directives(text)
    assert "ckpt_path" not in text and "--signal" not in text


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--cpus-per-task", "2", *FIT, "--data.workers=4"], 1, "4 workers x 1 tasks = 4 > 1 tasks x 2 CPUs = 2"),
        (["-N", "2", *FIT, "--trainer.num_nodes=3"], 1, "--nodes 2, but trainer.num_nodes is 3"),
        (["-N", "some", *FIT], 1, "--nodes: got 'some', expected a number from 1"),
        (["--array", "a-b", *FIT], 1, "--array: got 'a-b'"),
        ([*FIT, "--trainer.default_root_dir=runs/{task}"], 1, "give --array"),
        ([*FIT, "--ckpt_path=other.ckpt"], 1, "expected last or nothing"),
        (["--site", "nowhere.yaml", *FIT], 1, "--site: nowhere.yaml cannot be read"),
        (["--job-name", "bash", *FIT], 1, "give another name"),
        (
            ["--gres=gpu:4", *FIT, "--trainer.devices=1"],
            1,
            "trainer.devices is 1, but the job would hold 4 GPUs a node",
        ),
        (["--gpus-per-task=1", *FIT], 1, "--gpus-per-task: got '1': how many GPUs a node? give --ntasks-per-node"),
        (["--gres=gpu:a100:some", *FIT], 1, "--gres: got 'gpu:a100:some': how many GPUs a node?"),
        (["-N3", "-G4", *FIT], 1, "--gpus: got '4': how many GPUs a node?"),
        (["--ntasks=3", "-N2", *FIT], 1, "--ntasks: got 3, but 2 nodes"),
        (["--signal=SIGUSR1@90", *FIT], 1, "--signal: got 'SIGUSR1@90'; a training is told by USR2"),
        (["--signal=B:USR2@90", *FIT], 1, "--signal: got 'B:USR2@90'"),
        (["-D", "/", *FIT], 1, "--chdir: got /, but relative paths"),
        ([*FIT, "--trainer.max_stepz", "3"], 2, "nearest: --trainer.max_steps"),
        ([*FIT, "--trainer.max_steps", "many"], 2, "many"),
        (["-N", "2", "--", "evaluate", "run", "--data", "x", "--out", "y"], 1, "evaluate is one process"),
        (["--", "fit", "--config", "nowhere.yaml"], 1, "--config: nowhere.yaml cannot be read"),
        (["--", "evaluate", "run"], 2, "--data"),
        (["stray", *FIT], 2, "'stray' belongs to no option"),
        (["--time", "1:00"], 2, "expected a verb behind --"),
        (["--", "submit"], 2, "expected a verb behind --"),
    ],
)
def test_what_would_fail_later_is_refused(
    arguments: list[str], code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["submit", "--dry-run", *arguments]) == code
    error = capsys.readouterr().err.strip()
    assert says in error and "\n" not in error


@pytest.mark.parametrize(
    "request_of_four",
    [
        "--gres=gpu:4",
        "--gres=gpu:nvidia_a100-sxm4-80gb:4",
        "--gres=gpu:1g.10gb:4",
        "--gres=gpu:2080ti:4",
        "--gres=gpu:a100:2,gpu:h100:2",
        "--gres=lustre:1,gpu:a100:4",
        "--gpus-per-node=v100-32g:4",
        "--tres-per-node=gres/gpu:4",
        "--tres-per-node=gres/gpu:a100=4,cpu=16",
        "--gpus=a100:8",
        "-G8",
        "--ntasks-per-node=4 --gpus-per-task=1",
        "--ntasks=8 --gpus-per-task=1",
    ],
)
def test_every_gpu_has_a_task(request_of_four: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = script("--nodes=2", *request_of_four.split(), *FIT, capsys=capsys)
    assert "--ntasks-per-node=4" in directives(text) and "--trainer.devices=4" in text


def test_variables_that_sbatch_reads(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("SBATCH_GRES", "gpu:2")
    assert "--trainer.devices=2" in script(*FIT, capsys=capsys)
    assert "--trainer.devices=4" in script("--gres=gpu:4", *FIT, capsys=capsys)
    monkeypatch.setenv("SBATCH_SIGNAL", "USR1@60")
    assert main(["submit", "--dry-run", *FIT]) == 1
    assert "--signal: got 'USR1@60'" in capsys.readouterr().err


@pytest.mark.parametrize("line", ["x\ntouch PWNED", "x\rtouch PWNED", "x\x1b[2J", "x\x85y"])
def test_no_control_character_reaches_the_script(line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, site, sweep = (tmp_path / name for name in ("config.yaml", "site.yaml", "sweep"))
    config.write_text(json.dumps({"trainer": {"default_root_dir": line}}))
    site.write_text(json.dumps({"options": {"comment": line}}))
    sweep.write_text(f"--data.train='{line}'\n")
    for arguments in (
        ["--", "evaluate", "m", "--data", line, "--out", "o"],
        ["--job-name", line, *FIT],
        [f"--{line}", *FIT],
        [*FIT, "--config", str(config)],
        ["--site", str(site), *FIT],
        [*FIT, "--data.val", line],
        *([["--sweep", str(sweep), *FIT]] if "\x1b" in line else []),  # the others end its lines
    ):
        assert main(["submit", "--dry-run", *arguments]) == 2, arguments
        output = capsys.readouterr()
        assert not output.out and "has a control character" in output.err and len(output.err.splitlines()) == 1


def test_a_variable_of_a_site_is_a_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site = tmp_path / "site.yaml"
    site.write_text('environment: {"A;touch x;B": "1"}\n')
    assert main(["submit", "--dry-run", "--site", str(site), *FIT]) == 1
    assert "'A;touch x;B' is no name of a variable" in capsys.readouterr().err


def run_script(text: str, folder: Path, **variables: str) -> tuple[int, str]:
    """Runs a script whose program leaves with 75, beside a scontrol and an srun that only note what they are told."""
    programs = {
        "scontrol": 'echo "scontrol $*" >> calls\ncase "$*" in "show hostnames"*) echo localhost;; esac',
        "srun": 'keep=\nwhile [[ $1 == -* ]]; do [ "$1" = --export=ALL ] && keep=1; shift; done\n'
        '[ "$keep" ] || exec env -i PATH="$PATH" "$@"\nexec "$@"',
        "program": "exit 75",
    }
    for name, lines in programs.items():
        (folder / name).write_text(f"#!/bin/bash\n{lines}\n")
        (folder / name).chmod(0o755)
    text = re.sub(r"\S*mmtrain fit", f"{folder}/program", text)
    environment = {"PATH": f"{folder}:/usr/bin:/bin", "SLURM_JOB_NODELIST": "localhost", **variables}
    done = subprocess.run(["bash"], input=text, text=True, cwd=folder, env=environment)
    return done.returncode, (folder / "calls").read_text()


def test_a_task_of_an_array_requeues_itself_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = script("--array=0-3", *FIT, f"--trainer.default_root_dir={tmp_path}", capsys=capsys)
    # the last task's job has the array's number
    variables = {"SLURM_JOB_ID": "1000", "SLURM_ARRAY_JOB_ID": "1000", "SLURM_ARRAY_TASK_ID": "3"}
    code, calls = run_script(text, tmp_path, **variables)
    assert code == 0 and "scontrol requeue 1000_3\n" in calls


@pytest.mark.parametrize("writable", [True, False])
def test_a_stopped_training_is_requeued_whatever_its_tasks_inherit(
    writable: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path if writable else tmp_path / "gone"
    text = script("--export=NONE", *FIT, f"--trainer.default_root_dir={folder}", capsys=capsys)
    code, calls = run_script(text, tmp_path, SLURM_JOB_ID="7")
    assert "scontrol requeue 7\n" in calls


def test_without_sbatch_the_script_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["submit", *FIT, f"--trainer.default_root_dir={tmp_path / 'run'}"]) == 1
    assert "sbatch is not on this machine" in capsys.readouterr().err
    assert (tmp_path / "run" / "submit.sbatch").read_text().startswith("#!/usr/bin/env bash")
