"""The house: which room may import which, what stands where, and what a door lets in."""

import ast
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PACKAGES: dict[str, set[str]] = {
    "losses": set(),
    "datamodules": set(),
    "slurm": set(),
    "mmtrain": {"losses", "datamodules", "slurm"},
}
# From the top: a room imports rooms of lower floors only, and of its own floor none but itself.
FLOORS = [
    {"cli"},
    {"commands", "loggers", "mteb", "phases"},
    {"training", "export", "serving"},
    {"search"},
    {"objectives"},
    {"evaluation"},
    {"embedding"},
    {"models"},
    {"towers", "fusion"},
    {"display"},
]
LONGEST = 330  # lines of a file


def files(package: str) -> list[Path]:
    found = sorted((ROOT / package).rglob("*.py"))
    assert found
    return found


def imported(file: Path) -> set[str]:
    """The modules that a file imports, inside of functions too, but for those that only a type checker reads."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def module(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_one_way(package: str) -> None:
    forbidden = set(PACKAGES) - PACKAGES[package] - {package}
    for file in files(package):
        for name in imported(file):
            assert name.split(".")[0] not in forbidden, f"{file.relative_to(ROOT)} imports {name}"


def test_a_room_imports_only_rooms_below_it() -> None:
    floor = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    for file in files("mmtrain"):
        room = module(file).split(".")[1] if "." in module(file) else "__init__"
        if room == "__init__":
            continue
        for name in imported(file):
            parts = name.split(".")
            if parts[0] == "mmtrain" and len(parts) > 1 and parts[1] in floor and parts[1] != room:
                assert floor[parts[1]] > floor[room], f"{file.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize("package", PACKAGES)
def test_no_files_import_each_other_in_a_circle(package: str) -> None:
    names = {module(file) for file in files(package)}
    graph = {module(file): imported(file) & names - {module(file)} for file in files(package)}
    faces = {name for name in names if (ROOT / name.replace(".", "/") / "__init__.py").is_file()}  # hand names on
    TopologicalSorter({name: found - faces for name, found in graph.items() if name not in faces}).prepare()


@pytest.mark.parametrize("package", PACKAGES)
def test_no_file_imports_itself_through_the_face_of_a_room(package: str) -> None:
    """Who imports a file runs the `__init__` of its rooms first, but for rooms that it stands in itself."""
    of_module = {module(file): file for file in files(package)}
    graph: dict[str, set[str]] = {}
    for name, file in of_module.items():
        named = imported(file) & of_module.keys()
        rooms = {each.rsplit(".", depth)[0] for each in named for depth in range(1, each.count(".") + 1)}
        graph[name] = {each for each in named | rooms if not f"{name}.".startswith(f"{each}.")}
    TopologicalSorter(graph).prepare()


def test_only_rooms_and_doors_stand_directly_in_mmtrain() -> None:
    rooms = {room for rooms in FLOORS for room in rooms}
    standing = {path.stem for path in (ROOT / "mmtrain").iterdir()} - {"__pycache__", "py"}  # py.typed
    assert standing == rooms | {"__init__"}


@pytest.mark.parametrize("package", PACKAGES)
def test_no_file_is_too_long(package: str) -> None:
    for file in files(package):
        assert len(file.read_text(encoding="utf-8").splitlines()) <= LONGEST, file.relative_to(ROOT)


# spacy is asked for by name where its models are chosen; what brings it says so
UNDECLARED = {"spacy"}


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_imported_is_declared(package: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    offered = [*project["dependencies"], *(line for extra in set(extras) - {"dev", "docs"} for line in extras[extra])]
    declared = {canonicalize_name(Requirement(line).name) for line in [*offered, "mteb"]}  # mteb calls, we are called
    distributions = metadata.packages_distributions()
    for file in files(package):
        for top in {name.split(".")[0] for name in imported(file)} - set(PACKAGES) - UNDECLARED:
            if top not in sys.stdlib_module_names:
                brought = {canonicalize_name(name) for name in distributions.get(top, [top])}
                assert brought & declared, f"{file.relative_to(ROOT)} imports {top}, which pyproject.toml does not name"


HEAVY = {"torch", "pytorch_lightning", "lightning_fabric", "wandb", "matplotlib", "faiss", "transformers", "timm"}


@pytest.mark.parametrize(
    ("code", "needed"),
    [
        ("import mmtrain, datamodules, mmtrain.evaluation", set()),
        ("import mmtrain.cli", set()),
        ("from slurm.script import Script", set()),
        ("import losses", {"torch"}),
        ("import datamodules; datamodules.ByteTokenizer()", {"torch"}),
        ("from mmtrain import load", {"torch"}),
        ("from mmtrain.search import index, queries, results", {"torch"}),
        ("import mmtrain.commands.pack", {"torch"}),
        ("from datamodules.shards.inspection import inspect_shards", {"torch"}),
        ("from mmtrain.models.run_folder import read_checkpoint", {"torch"}),
        ("from mmtrain.evaluation import rank_retrieval", {"torch"}),
        ("from mmtrain.embedding import one_pass, parts, predictions", {"torch"}),
    ],
)
def test_a_door_lets_in_no_more_than_it_needs(code: str, needed: set[str]) -> None:
    code = f"import sys; {code}; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) & HEAVY == needed
