"""The tutorial's commands, as they stand in docs/tutorial.md, from an empty folder; only the training is cut short."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"```(bash|python)\n(.*?)```", re.DOTALL)
SHORT = " --trainer.max_steps 4 --trainer.val_check_interval 4 --checkpoint.every_n_steps 4"


@pytest.mark.system
def test_the_tutorial_runs(tmp_path):
    blocks = BLOCK.findall((ROOT / "docs" / "tutorial.md").read_text())
    assert "pip install" in blocks[0][1]  # what a stranger does first; here it is installed
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    scripts = Path(sys.executable).parent
    environment = os.environ | {"PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
    for language, text in blocks[1:]:
        text = re.sub(r"(mmtrain fit .*)", rf"\1{SHORT}", text)
        command = ["bash", "-euc", text] if language == "bash" else [sys.executable, "-c", text]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{text}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    assert done.stdout.count("[") == 5  # a matrix of four rows
    for name in ("test.html", "report/report.html", "found.html", "export/config.json"):
        assert (tmp_path / "runs" / "tutorial" / name).stat().st_size > 100
