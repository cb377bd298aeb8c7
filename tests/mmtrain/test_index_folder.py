"""What an index may replace, what a full disk leaves, and files that do not belong together."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import faiss
import numpy as np
import pytest

from datamodules.files import writing_into
from mmtrain.cli import main
from mmtrain.search.index import SearchIndex
from tests.mmtrain.indexes import SIZES, built, contents, model
from tests.mmtrain.small import ENVIRONMENT, ROOT

__all__ = ["built", "model"]

SITE = {"index.json": '{"pages": []}', "precious.txt": "mine"}


def test_only_an_index_and_nothing_else_is_replaced(
    built: Path, model: Path, shards: Path, tmp_path: Path, capfd
) -> None:
    arguments = ["index", str(model), "--data", str(shards), *SIZES, "--out"]
    for name, files in {"site": SITE, "broken": {"index.json": "[]"}, "more": {"notes/precious.txt": "mine"}}.items():
        out = tmp_path / name
        if name == "more":
            shutil.copytree(built, out)
        for path, text in files.items():
            (out / path).parent.mkdir(parents=True, exist_ok=True)
            (out / path).write_text(text)
        before = sorted(out.rglob("*"))
        assert main([*arguments, str(out)]) == 1
        assert f"{out} holds other files" in capfd.readouterr().err
        assert sorted(out.rglob("*")) == before and not list(tmp_path.glob(f"{name}.*"))
    again = shutil.copytree(built, tmp_path / "again")
    for beside in ("again.tmp", "again.parts", ".again.tmp", ".again.0123abcd.part", "again.parts/0123456789abcdef"):
        (tmp_path / beside).mkdir()
        (tmp_path / beside / "precious.txt").write_text("mine")
    assert main([*arguments, str(again)]) == 0
    assert f"{again}: replaces the index of {shards} by {model}" in capfd.readouterr().out
    assert contents(again) == contents(built)
    assert sum(1 for _ in tmp_path.rglob("precious.txt")) == 7


def test_an_index_has_one_writer(built: Path, model: Path, shards: Path, tmp_path: Path, capfd) -> None:
    arguments = ["index", str(model), "--data", str(shards), "--out", str(tmp_path / "out"), *SIZES]
    with writing_into(tmp_path / "out.parts"):
        assert main(arguments) == 1
    assert "out.parts: another run writes here" in capfd.readouterr().err
    assert main(arguments) == 0 and contents(tmp_path / "out") == contents(built)


FULL = """
import resource, sys
from mmtrain import cli
from mmtrain.search import building

if sys.argv[1] == "joining":  # the parts are written, the index does not fit
    join = building._join
    def narrow(*arguments):
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
        return join(*arguments)
    building._join = narrow
else:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
sys.exit(cli.main(sys.argv[3:]))
"""


@pytest.mark.system
@pytest.mark.parametrize(
    ("when", "size", "stays"),
    [("embedding", 4000, []), ("joining", 400, ["out.parts"]), ("joining", 3000, ["out.parts"])],
)
def test_a_full_disk_is_one_line_and_leaves_whole_parts_alone(
    when: str, size: int, stays: list[str], model: Path, shards: Path, built: Path, tmp_path: Path
) -> None:
    arguments = ["index", str(model), "--data", str(shards), "--out", str(tmp_path / "out"), *SIZES]
    done = subprocess.run(
        [sys.executable, "-c", FULL, when, str(size), *arguments],
        env=ENVIRONMENT,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    errors = [line for line in done.stderr.splitlines() if "error:" in line]
    assert done.returncode == 1 and len(errors) == 1 and "Traceback" not in done.stderr, done.stderr
    assert f"--out: {tmp_path / 'out'} cannot be written" in errors[0] and "MiB" in errors[0]
    assert [path.name for path in tmp_path.iterdir()] == stays
    assert main(arguments) == 0
    assert contents(tmp_path / "out") == contents(built)


def flat(rows: np.ndarray, kind: type[faiss.Index] = faiss.IndexFlatIP) -> faiss.Index:
    index = kind(rows.shape[1])
    index.add(rows)
    return index


@pytest.mark.parametrize(
    ("faiss_of", "says"),
    [
        (lambda rows: flat(np.tile(rows, (2, 1))), "has 64 rows of width 16"),
        (lambda rows: flat(rows[:5]), "has 5 rows of width 16"),
        (lambda rows: flat(np.ascontiguousarray(rows[:, :8])), "has 32 rows of width 8"),
        (lambda rows: flat(rows, faiss.IndexFlatL2), "by FAISS's metric 1"),
    ],
)
def test_files_that_do_not_belong_together_are_no_index(faiss_of, says: str, built: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(built, tmp_path / "mixed")
    faiss.write_index(faiss_of(np.load(built / "rows.npy")), str(folder / "index.faiss"))
    with pytest.raises(ValueError, match=rf"{says}.*; index again"):
        SearchIndex(folder)


@pytest.mark.parametrize("rows", [np.ones(32, np.float32), np.ones((32, 16)), np.ones((3, 16), np.float32)])
def test_other_rows_are_no_index(rows: np.ndarray, built: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(built, tmp_path / "mixed")
    np.save(folder / "rows.npy", rows)
    with pytest.raises(ValueError, match=r"rows\.npy .* index again"):
        SearchIndex(folder)


@pytest.mark.parametrize("change", [{"kind": None}, {"similarity": "l2"}, {"candidates": 0}, {"candidates": "5"}])
def test_a_damaged_description_names_the_field(change: dict, built: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(built, tmp_path / "mixed")
    description = json.loads((folder / "index.json").read_text()) | change
    (folder / "index.json").write_text(json.dumps(description))
    with pytest.raises(ValueError, match=f"index.json has {next(iter(change))} .*; index again"):
        SearchIndex(folder)
    (folder / "index.json").write_text("[]")
    with pytest.raises(ValueError, match="has format None, this version of mmtrain reads"):
        SearchIndex(folder)


def test_an_item_that_is_not_there_is_one_line(built: Path) -> None:
    with pytest.raises(ValueError, match="items.sqlite: an item cannot be read"):
        SearchIndex(built).items.read([32])
