"""`mmtrain submit --dry-run`: what would be sent, and what is refused before it is."""

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


def test_a_site_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site = tmp_path / "site.yaml"
    site.write_text(
        "options: {partition: gpu, account: lab}\nmodules: [cuda/12, gcc]\nenvironment: {NCCL_SOCKET_IFNAME: ib0}\n"
        "container: {runtime: apptainer, image: mm train.sif, mounts: [/data], options: [--nv]}\n"
    )
    text = script("--site", str(site), "-p", "short", *FIT, capsys=capsys)
    assert {"--partition=short", "--account=lab"} <= directives(text)
    assert "module load cuda/12 gcc" in text and "export NCCL_SOCKET_IFNAME=ib0" in text
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


def test_without_sbatch_the_script_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["submit", *FIT, f"--trainer.default_root_dir={tmp_path / 'run'}"]) == 1
    assert "sbatch is not on this machine" in capsys.readouterr().err
    assert (tmp_path / "run" / "submit.sbatch").read_text().startswith("#!/usr/bin/env bash")
