"""The lowest version of every dependency that pyproject.toml admits, installed together, and a short set of tests.

    python -m benchmarks.floors --out build/floors     # an environment of some 8 GB; minutes of downloads

What these need in turn comes in its newest version, as it does for whoever installs today. Exits with pytest's code.
"""

import argparse
import os
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
TESTS = (
    "tests/test_imports.py",
    "tests/test_old_files.py",
    "tests/datamodules/test_images.py",
    "tests/datamodules/test_tokenizers.py",
    "tests/mmtrain/test_adaptation.py",
    "tests/mmtrain/test_export.py",
    "tests/mmtrain/test_foreign.py",
    "tests/mmtrain/test_search.py",
    "tests/mmtrain/test_trust.py",
)


def floors() -> list[str]:
    """The requirements of the project and its extras for the CPU at their lower bounds: jinja2==3.1.6."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    chosen = (requirements for extra, requirements in extras.items() if extra not in ("docs", "gpu"))
    wanted = [*project["dependencies"], *(each for requirements in chosen for each in requirements)]
    return [each.replace(">=", "==") for each in wanted if ">=" in each]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the environment; one that is there is used")
    parser.add_argument("tests", nargs="*", default=TESTS, help="pytest's arguments (default: a short set)")
    options = parser.parse_args()
    python = options.out.resolve() / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(options.out)], check=True)
    for what in (floors(), ["--no-deps", "--editable", str(ROOT)]):
        subprocess.run([python, "-m", "pip", "install", "--quiet", *what], check=True)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    tests = [python, "-m", "pytest", "-m", "not system", *options.tests]
    return subprocess.run(tests, cwd=ROOT, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
