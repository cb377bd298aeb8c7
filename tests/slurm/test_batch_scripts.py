"""Each example is what the command in its first lines prints."""

import shlex
from pathlib import Path

import pytest

from mmtrain.cli import main
from tests.mmtrain.small import ROOT

EXAMPLES = sorted((ROOT / "slurm" / "examples").glob("*.sbatch"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_what_its_command_prints(
    example: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # as where mmtrain is on the PATH and not in an environment of its own
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    monkeypatch.chdir(ROOT)
    program, verb, *words = shlex.split(example.read_text().splitlines()[2].removeprefix("#"))
    assert [program, verb] == ["mmtrain", "submit"]
    assert main(["submit", "--dry-run", *words]) == 0
    assert capsys.readouterr().out == example.read_text()
