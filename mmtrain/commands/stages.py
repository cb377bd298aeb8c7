"""The stages of a page: which there are, what each changes, and which are finished."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mmtrain.commands.pages import given_pages
from mmtrain.models.yaml12 import read_yaml
from slurm.settings import dotted

# what holds for the whole run, and belongs on the page or the command line
WHOLE = {f"trainer.{name}" for name in ("default_root_dir", "devices", "num_nodes", "accelerator")}
WHOLE |= {"trainer.enable_checkpointing", "ckpt_path", "start_from", "config", "stages"}
SECTIONS = ("trainer", "checkpoint", "guard", "throughput", "init_args")  # mappings whose keys are options
FINISHED = "finished.json"  # in the folder of a stage that was trained


@dataclass(frozen=True, eq=False)
class Stage:
    """One stage of a page.

    Args:
        number: Counted from 1.
        overrides: What it changes of the page.
        arguments: Those of `fit`: the page, the overrides, the command line.
    """

    number: int
    overrides: dict[str, Any]
    arguments: list[str]

    def folder(self, run: Path) -> Path:
        return run / str(self.number)

    def later(self, run: Path) -> list[Path]:
        """The folders of stages behind it, which an older run may have had more of."""
        return [path for path in run.iterdir() if path.name.isdecimal() and int(path.name) > self.number]

    def finished(self, run: Path) -> dict[str, Any] | None:
        """How long it was to train when it did; None for one that did not."""
        path = self.folder(run) / FINISHED
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    def named(self, line: str) -> str:
        """A message about an option, which is said to be the stage's; of an override it is its name."""
        option = re.match(r"-*([\w.]+)", line)
        name = "" if option is None else option[1].replace("init_args.", "")
        given = dotted(self.overrides)
        if any(f"{each}.".startswith(f"{name}.") or f"{name}.".startswith(f"{each}.") for each in given):
            return f"stages[{self.number}].{line.lstrip('-')}"
        return f"stages[{self.number}]: {line}"


def read_stages(arguments: list[str]) -> list[Stage]:
    """The stages of the last page among the arguments of `fit` that has any; none where no page has.

    Raises:
        ValueError: for stages that are no list of mappings, or that set what holds for the whole run.
    """
    found: list[Stage] = []
    for path, behind in given_pages(arguments):
        try:
            page = read_yaml(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            continue  # the parser says what is wrong with it
        if not isinstance(page, dict) or "stages" not in page:
            continue
        given = page["stages"]
        if not isinstance(given, list) or not given or not all(isinstance(each, dict) for each in given):
            raise ValueError(f"--config {path}: stages: got {given!r}, expected a list of overrides, one a stage")
        found = []
        for number, overrides in enumerate(given, 1):
            for name, value in dotted(overrides).items():
                start = name == "model.pretrained" and number > 1 and value not in (None, dotted(page).get(name))
                if start or name in WHOLE:
                    why = "a stage starts from the one before it" if start else "it is for all stages, on the page"
                    raise ValueError(f"--config {path}: stages[{number}].{name}: got {value!r}; {why}")
            words = [*arguments[:behind], "--config", json.dumps(overrides), *arguments[behind:]]
            found.append(Stage(number, overrides, words))
    return found


def stage_arguments(arguments: list[str]) -> list[list[str]]:
    """The arguments of `fit` for each stage; as they are for a page without."""
    return [stage.arguments for stage in read_stages(arguments)] or [arguments]


def page_of(configs: list[dict[str, Any]]) -> dict[str, Any]:
    """One page of the complete configs of its stages: the first, and what each changes of it."""
    first, *_ = configs
    return first | {"stages": [_changes(first, config) for config in configs]}


def _changes(page: dict[str, Any], stage: dict[str, Any]) -> dict[str, Any]:
    """What a stage has otherwise. Options of one class are told apart, other values are whole."""
    changed = {}
    for name, value in stage.items():
        before = page.get(name)
        if value == before and name in page:
            continue
        if isinstance(value, dict) and isinstance(before, dict) and (name in SECTIONS or "class_path" in value):
            alike = value.get("class_path") == before.get("class_path")
            changed[name] = _changes(before, value) if alike else value
        else:
            changed[name] = value
    return changed
