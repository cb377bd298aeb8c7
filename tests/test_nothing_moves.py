"""Frozen copies of four configs train as they did when their values were written: the same first weights and losses."""

from pathlib import Path
from typing import Any

import pytest

from tests.frozen.material import write_material
from tests.frozen.training import CONFIGS, machine, recorded, trained

# On another processor or with another torch the last bits differ, and training carries them on.
ELSEWHERE = 1e-4


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("frozen")
    write_material(folder)
    return folder


def same(values: dict[str, Any], name: str, processes: int, material: Path, folder: Path) -> None:
    before, now = values[f"{name}/{processes}"], trained(name, processes, material, folder)
    here = values["machine"] == machine()
    if here:
        assert now["weights"] == before["weights"]
    assert now["losses"].keys() == before["losses"].keys()
    for loss, steps in before["losses"].items():
        first, *others = now["losses"][loss]
        assert first == (steps[0] if here else pytest.approx(steps[0], rel=ELSEWHERE)), f"{loss} of the first step"
        assert others == pytest.approx(steps[1:], rel=1e-6 if here else ELSEWHERE), loss


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.system if name == "tiny" else ()) for name in CONFIGS]
)
def test_one_process_trains_as_it_did(name: str, material: Path, tmp_path: Path) -> None:
    same(recorded(), name, 1, material, tmp_path / "run")


@pytest.mark.system
@pytest.mark.parametrize("name", CONFIGS)
def test_two_processes_train_as_they_did(name: str, material: Path, tmp_path: Path) -> None:
    same(recorded(), name, 2, material, tmp_path / "run")
