"""How far long work is, where stderr is no terminal."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from datamodules.shards.progress import INTERVAL, with_progress
from mmtrain.cli import main
from tests.mmtrain.small import ENVIRONMENT, ROOT, fit

LINE = r"\d+ of {total} {unit} \(\d+%\), [\d.,]+ a second, [\d:]+ left"


@pytest.fixture(autouse=True)
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(INTERVAL, "0")


def shown(title: str, total: int, unit: str = "samples") -> re.Pattern[str]:
    return re.compile(f"^{re.escape(title)}: {LINE.format(total=total, unit=unit)}", re.MULTILINE)


def test_a_pipe_gets_lines_on_stderr_and_the_result_on_stdout(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mmtrain.cli", "pack", "numbers", "--split", "val", "--languages", "[en,lv]"]
        + ["--out", str(tmp_path / "val"), "--samples_per_shard", "40"],
        cwd=ROOT,
        env=ENVIRONMENT | {INTERVAL: "0"},
        capture_output=True,
        text=True,
        check=True,
    )
    (line,) = done.stdout.splitlines()
    total = int(line.removeprefix(f"{tmp_path / 'val'}: ").split()[0])
    lines = done.stderr.splitlines()
    assert len(lines) == -(-total // 40) and all(shown("packing numbers (val)", total).match(each) for each in lines)
    assert lines[-1].startswith(f"packing numbers (val): {total} of {total} samples (100%)")


def test_what_is_unknown_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(with_progress("ab", "reading\n", None, "lines", size=lambda item: 3)) == ["a", "b"]
    assert re.fullmatch(r"(reading\ufffd: [36] lines, [\d,.]+ a second\n){2}", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("name", "value"), [(INTERVAL, "inf"), (INTERVAL, None), ("RANK", "1"), ("LOCAL_RANK", "2"), ("SLURM_PROCID", "1")]
)
def test_other_processes_and_work_that_is_soon_done_say_nothing(
    name: str, value: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for rank in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):  # of a training that this process did before
        monkeypatch.delenv(rank, raising=False)
    monkeypatch.delenv(name) if value is None else monkeypatch.setenv(name, value)
    assert len(list(with_progress("ab", "reading", 2))) == 2
    assert capsys.readouterr().err == ""


def test_the_rank_of_all_nodes_decides(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in (("RANK", "0"), ("LOCAL_RANK", "0"), ("SLURM_PROCID", "1")):
        monkeypatch.setenv(name, value)
    assert len(list(with_progress("ab", "reading", 2))) == 2
    assert "2 of 2 shards" in capsys.readouterr().err
    monkeypatch.delenv("RANK")
    assert len(list(with_progress("ab", "reading", 2))) == 2
    assert capsys.readouterr().err == ""


def test_an_interval_that_is_none_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(INTERVAL, "often")
    assert main(["pack", "numbers", "--split", "val", "--out", str(tmp_path / "val")]) == 1
    assert f"{INTERVAL}: got 'often', expected a number of seconds" in capsys.readouterr().err


def test_training_says_samples_seen_of_all_and_the_loss(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bars = "--trainer.enable_progress_bar=true"
    assert fit(shards, tmp_path, "--trainer.max_steps=4", "--trainer.max_epochs=-1", bars) == 0
    said = capsys.readouterr().err
    assert re.search(shown("training", 32).pattern + r", loss [\d.]+", said, re.MULTILINE)
    assert "training: 32 of 32 samples (100%)" in said and shown("validation", 4, "batches").search(said)
    assert fit(shards, tmp_path, "--trainer.max_steps=6", "--ckpt_path=last", bars) == 0
    said = capsys.readouterr().err
    assert "training: 40 of 48 samples (83%)" in said and "training: 8 of" not in said
    assert fit(shards, tmp_path, "--trainer.max_steps=1") == 0  # with bars switched off
    assert "training:" not in capsys.readouterr().err

    for command in (["index"], ["embed"], ["evaluate"], ["mine", "--negatives", "1"]):
        out = ["--data", str(shards), "--out", str(tmp_path / command[0]), "--workers", "0", "--batch_size", "16"]
        assert main([command[0], str(tmp_path), *out, *command[1:]]) == 0
        assert shown("embedding", 32).search(capsys.readouterr().err), command


def test_curation_says_how_many_samples_are_matched(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "metadata.jsonl").write_text('{"language": "en", "entry": "red"}\n')
    command = ["curate", str(shards), "--metadata", str(tmp_path / "metadata.jsonl"), "--out", str(tmp_path / "kept")]
    assert main(command) == 0
    assert shown("matching", 32).search(capsys.readouterr().err)
