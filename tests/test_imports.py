"""The house's one-way streets: mmtrain imports losses and datamodules, which import neither it nor each other."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {"losses": set(), "datamodules": set(), "mmtrain": {"losses", "datamodules"}}


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_point_one_way(package: str) -> None:
    forbidden = set(MAY_IMPORT) - MAY_IMPORT[package] - {package}
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                assert name.split(".")[0] not in forbidden, f"{file.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize(
    ("package", "unwanted"),
    [
        ("losses", {"pytorch_lightning", "transformers", "datamodules", "mmtrain"}),
        ("mmtrain", {"torch", "pytorch_lightning", "wandb", "faiss", "transformers"}),
    ],
)
def test_importing_pulls_in_no_more_than_it_needs(package: str, unwanted: set[str]) -> None:
    code = f"import sys, {package}; print(*{{name.split('.')[0] for name in sys.modules}})"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    assert not loaded & unwanted
