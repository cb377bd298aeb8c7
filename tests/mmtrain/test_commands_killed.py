"""Commands that write a result, killed at random moments, alone and two at once: the benchmark, with fewer kills."""

import subprocess
import sys

import pytest

from tests.mmtrain.small import ENVIRONMENT, ROOT


@pytest.mark.system
def test_a_kill_leaves_a_whole_result() -> None:
    # a process of its own: it forks, and torch must not have threads by then
    program = "from benchmarks.commands_killed import run; run(kills=2, seed=0)"
    done = subprocess.run(
        [sys.executable, "-c", program], env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert all(
        f"| {name} | 2 | 2 |" in done.stdout
        for name in ("pack", "index", "embed", "mine", "curate", "export", "evaluate")
    )
