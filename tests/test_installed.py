"""What somebody has who installed mmtrain and runs it anywhere: the wheel, its version, its pages, its neighbours."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mmtrain.cli import main
from mmtrain.commands.pages import shipped_pages, with_pages

ROOT = Path(__file__).parents[1]
PACKAGES = ("mmtrain", "losses", "datamodules", "slurm")


def run(command: list[str], folder: Path, path: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(path), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the wheel was installed into. It is built from a copy: a build writes into the tree."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for name in (*PACKAGES, "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md"):
        shutil.copy(ROOT / name, source)
    python = [sys.executable, "-m"]
    subprocess.run([*python, "build", "--no-isolation", "--outdir", source / "dist", source], check=True)
    (wheel,) = (source / "dist").glob("*.whl")
    subprocess.run([*python, "pip", "install", "--no-deps", "--no-index", "--target", target, wheel], check=True)
    return target


@pytest.mark.system
def test_a_wheel_holds_all_that_runs(installed: Path, tmp_path: Path) -> None:
    program = str(installed / "bin" / "mmtrain")
    said = run([program, "--version"], tmp_path, installed)
    assert said.stdout.startswith("mmtrain ") and said.stdout.count("\n") == 1
    code = (
        f"import {', '.join(PACKAGES)}, mmtrain.commands.pages as pages; print(losses.__file__, *pages.shipped_pages())"
    )
    said = run([sys.executable, "-c", code], tmp_path, installed)
    place, *pages = said.stdout.split()
    assert Path(place).is_relative_to(installed) and pages == list(shipped_pages())
    said = run([program, "fit", "--config", "quickstart", "--print_config"], tmp_path, installed)
    assert said.returncode == 0 and "runs/quickstart" in said.stdout, said.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.system
def test_a_wheel_holds_what_is_no_python(installed: Path) -> None:
    for package in PACKAGES:
        others = {path for path in (ROOT / package).rglob("*.*") if path.suffix in (".jinja", ".typed")}
        assert ROOT / package / "py.typed" in others
        for path in others:
            assert (installed / path.relative_to(ROOT)).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("package", ["losses", "datamodules", "slurm"])
def test_a_folder_with_the_name_of_a_package_of_ours_is_named(package: str, tmp_path: Path) -> None:
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").touch()
    said = run([sys.executable, "-m", "mmtrain.cli", "--version"], tmp_path, ROOT)
    (line,) = said.stderr.splitlines()
    assert said.returncode == 1 and f"{package} is {tmp_path / package}, not the one in {ROOT}; rename" in line
    as_library = run([sys.executable, "-c", "import mmtrain"], tmp_path, ROOT)
    assert as_library.stderr.endswith(f"ImportError: {line}\n")


def test_a_page_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page, tiny = ROOT / "configs" / "quickstart.yaml", ROOT / "configs" / "pretrain" / "tiny.yaml"
    given = ["--config", "quickstart", "--config=pretrain/tiny", "--config", "mine.yaml", "--config", '{"a": 1}']
    found = with_pages([*given, "--data.train", "quickstart"])
    assert found == ["--config", str(page), f"--config={tiny}", *given[3:], "--data.train", "quickstart"]
    Path("quickstart").mkdir()
    assert with_pages(given[:2])[1] == str(page)
    Path("quickstart").rmdir()
    Path("quickstart").touch()  # the user's own file
    assert with_pages(given[:2]) == given[:2]


def test_an_unknown_page_lists_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["fit"], ["submit", "--dry-run", "--", "fit"]):
        assert main([*command, "--config", "pretrain/tyni"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "pretrain/tyni is no file" in line and "pretrain/tiny, " in line and line.endswith("quickstart")


def test_the_version_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("mmtrain ") and "torch" in said and said.count("\n") == 1
