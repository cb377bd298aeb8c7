"""What a cluster needs of every job: a YAML file that is written once a site."""

import dataclasses
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from slurm.settings import Words


@dataclass(frozen=True)
class Container:
    """Where mmtrain is installed in an image.

    Args:
        runtime: apptainer (the program) or pyxis (srun's plugin).
        image: A file, or what the runtime takes for one.
        mounts: FOLDER or FOLDER:INSIDE; the folder the job is sent from is always mounted under its own name.
        options: Further options of `apptainer exec`, or of srun's plugin.
    """

    runtime: Literal["apptainer", "pyxis"]
    image: str
    mounts: list[str] = field(default_factory=list)
    options: list[str] = field(default_factory=list)

    def launch(self) -> str:
        """Options of srun, with a space behind."""
        if self.runtime == "apptainer":
            return ""
        mounts = [mount if ":" in mount else f"{mount}:{mount}" for mount in self.mounts]
        words = [
            f"--container-image={shlex.quote(self.image)}",
            '--container-mounts="$PWD:$PWD"' + "".join("," + shlex.quote(mount) for mount in mounts),
            '--container-workdir="$PWD"',
            *map(shlex.quote, self.options),
        ]
        return " ".join(words) + " "

    def wrap(self) -> str:
        """What stands before the program, with a space behind."""
        if self.runtime == "pyxis":
            return ""
        mounts = '"$PWD"' + "".join("," + shlex.quote(mount) for mount in self.mounts)
        options = "".join(shlex.quote(option) + " " for option in self.options)
        return f'apptainer exec --bind {mounts} --pwd "$PWD" {options}{shlex.quote(self.image)} '


@dataclass(frozen=True)
class Site:
    """A site file.

    Args:
        options: sbatch's options for every job, by their long names; the command line's come first.
        modules: What `module load` loads.
        environment: Variables of every job, such as NCCL_SOCKET_IFNAME.
        setup: Shell lines before the program, such as the activation of an environment.
        container: Where mmtrain runs, if in one.
    """

    options: dict[str, Any] = field(default_factory=dict)
    modules: list[str] = field(default_factory=list)
    environment: dict[str, Any] = field(default_factory=dict)
    setup: str = ""
    container: Container | None = None


def read_site(path: Path) -> Site:
    """
    Raises:
        ValueError: when the file cannot be read or holds something else than the fields of `Site`.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Words) or {}
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"--site: {path} cannot be read: {error}") from error
    container = _part(content, Site, path, "").pop("container", None)
    for name in content.get("environment", {}):
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", str(name)):
            raise ValueError(
                f"--site: {path}: environment: {name!r} is no name of a variable; expected as in NCCL_DEBUG"
            )
    if container is not None:
        container = Container(**_part(container, Container, path, "container."))
        if container.runtime not in ("apptainer", "pyxis"):
            raise ValueError(
                f"--site: {path}: container.runtime: got {container.runtime!r}, expected apptainer or pyxis"
            )
    return Site(**{name: value for name, value in content.items() if name != "container"}, container=container)


def _part(content: Any, kind: type, path: Path, prefix: str) -> dict[str, Any]:
    """The fields of one of the two classes, checked by name and kind."""
    fields = {item.name: item for item in dataclasses.fields(kind)}
    if not isinstance(content, dict):
        raise ValueError(f"--site: {path}: {prefix or 'the file'}: expected fields, {', '.join(fields)}")
    for name, value in content.items():
        if name not in fields:
            raise ValueError(f"--site: {path}: {prefix}{name} is no field; expected {', '.join(fields)}")
        expected = {
            "options": list if kind is Container else dict,
            "environment": dict,
            "modules": list,
            "mounts": list,
        }
        if name in expected and not isinstance(value, expected[name]):
            wanted = "a list" if expected[name] is list else "names and values"
            raise ValueError(f"--site: {path}: {prefix}{name}: got {value!r}, expected {wanted}")
    for name, item in fields.items():
        if item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING and name not in content:
            raise ValueError(f"--site: {path}: {prefix}{name} is missing")
    return dict(content)
