"""An exported folder made ready for a model hub, and sent there."""

import glob
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmtrain.display.messages import first_line, say
from mmtrain.export.marker import read_marker, rewrite
from mmtrain.export.paths import first_path
from mmtrain.models.leaderboard import META, read_meta
from mmtrain.models.yaml12 import read_yaml

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, EvalResultEntry

PICKLES = (".bin", ".ckpt", ".dill", ".joblib", ".pickle", ".pkl", ".pt", ".pth")
CARD = "README.md"
RESULTS = ".eval_results/retrieval.yaml"


def prepare(
    folder: str | Path,
    repository: str,
    licence: str,
    *,
    datasets: Sequence[str] = (),
    measured_on: str | None = None,
    tasks: Mapping[str, str] | None = None,
) -> list[str]:
    """Completes the model card of an export and prints the files to send, which are those that export wrote.

    Args:
        repository: OWNER/NAME on the hub; open_clip's settings get it in place of the folder's path.
        licence: As the hub spells it, e.g. apache-2.0; goes into the card.
        datasets: OWNER/NAME of the hub's datasets that the model was trained on, for the card.
        measured_on: OWNER/NAME of the hub's dataset that the card's figures are of.
        tasks: Task of that dataset, as the eval.yaml of its repository calls it -> the card's figure that is its
            result, such as text_to_image/lv/R@1. They go into .eval_results, for the hub refuses a task that no
            eval.yaml names.

    Returns:
        The files' names.

    Raises:
        ValueError: for a folder that is no export, files that can carry code, absolute paths in what would be sent, a
            name that is no repository's, a card without the figures that were measured_on something, or tasks without
            a dataset or of no figure.
    """
    folder = Path(folder)
    if tasks and measured_on is None:
        raise ValueError(f"push: tasks {', '.join(tasks)} of no dataset; --measured_on OWNER/NAME")
    marker = read_marker(folder)
    if marker is None:
        raise ValueError(f"push: {folder} is no export; a folder that mmtrain export wrote")
    for name in (repository, *datasets, *([measured_on] if measured_on is not None else [])):
        _check_name(name)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in files:
        if path.suffix.lower() in PICKLES:
            raise ValueError(f"push: {path} can carry code; export without pickles first")
    names = [str(path.relative_to(folder)) for path in files if not path.is_symlink()]
    sent = [name for name in names if name in marker["files"]]
    missing = sorted(marker["files"].keys() - set(sent))
    if missing:
        raise ValueError(f"push: {folder / missing[0]} is missing, or a link; export again")
    if "open_clip_config.json" in sent:
        config = json.loads((folder / "open_clip_config.json").read_text(encoding="utf-8"))
        config["model_cfg"]["text_cfg"] |= {"hf_model_name": repository, "hf_tokenizer_name": repository}
        rewrite(folder, marker, "open_clip_config.json", json.dumps(config, ensure_ascii=False, indent=2))
    for name in sent:
        if found := first_path(folder, name):
            raise ValueError(f"push: {folder / name} names a place of this machine, {found}; take it out first")
    _complete_card(folder, marker, repository, licence, datasets, measured_on, tasks or {})
    if META in sent:
        meta = read_meta(folder) | {"name": repository, "license": None if licence == "other" else licence}
        rewrite(folder, marker, META, json.dumps(meta, ensure_ascii=False, indent=1) + "\n")
    sent = sorted({*sent, *marker["files"]})
    for name in sent:
        say(f"{name}  {(folder / name).stat().st_size:,} bytes")
    others = [name for name in names if name not in sent and name != "export.json"]
    if others:
        say(f"not sent, for export did not write them: {', '.join(others[:5])}{' ...' * (len(others) > 5)}")
    return sent


def _check_name(name: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ValueError(f"push: {name} names no repository ({first_line(error)})") from error
    if name.count("/") != 1:
        raise ValueError(f"push: {name} names no repository; OWNER/NAME")


def _complete_card(
    folder: Path,
    marker: dict[str, Any],
    repository: str,
    licence: str,
    datasets: Sequence[str],
    measured_on: str | None,
    tasks: Mapping[str, str],
) -> None:
    """Licence, data sets and names into the card's header; the figures of tasks into .eval_results."""
    from huggingface_hub import ModelCardData, eval_result_entries_to_yaml
    from huggingface_hub.utils import yaml_dump
    from yaml import YAMLError

    text = (folder / CARD).read_text(encoding="utf-8")
    header: dict[str, Any] = {}
    try:
        if parts := re.fullmatch("---\n(.*?\n|)---\n(.*)", text, flags=re.DOTALL):
            header, text = read_yaml(parts[1]) or {}, parts[2]
        card = ModelCardData(**header)
    except (YAMLError, TypeError, ValueError) as error:
        raise ValueError(f"push: the header of {folder / CARD} cannot be read ({first_line(error)})") from error
    card.license = licence
    if datasets:
        card.datasets = list(datasets)
    results = card.eval_results or []
    if results:
        card.model_name = repository.rpartition("/")[2]
    if measured_on is not None:
        if not results:
            raise ValueError(f"push: {folder / CARD} has no figures; mmtrain evaluate, then export again")
        for result in results:
            result.dataset_type = measured_on
    if tasks:
        entries = list(_entries(results, str(measured_on), tasks))
        if (folder / RESULTS).exists() and RESULTS not in marker["files"]:
            raise ValueError(f"push: {folder / RESULTS} was not written by mmtrain; move it away first")
        rewrite(folder, marker, RESULTS, yaml_dump(eval_result_entries_to_yaml(entries), sort_keys=False))
    rewrite(folder, marker, CARD, f"---\n{card.to_yaml(original_order=list(header))}\n---\n{text}")


def _entries(results: "Sequence[EvalResult]", dataset: str, tasks: Mapping[str, str]) -> "Iterator[EvalResultEntry]":
    """The result of each task of a dataset, from the figures of a card."""
    from huggingface_hub import EvalResultEntry

    figures = {}
    for result in results:
        direction, recall = result.task_type.removesuffix("-retrieval"), result.metric_type.removeprefix("recall_at_")
        figures[f"{direction.replace('-', '_')}/{result.dataset_config}/R@{recall}"] = result
    for task, name in tasks.items():
        if name not in figures:
            raise ValueError(f"push: tasks: {task}: {name!r} is no figure of the card; {', '.join(figures)}")
        result = figures[name]
        notes = f"{name.partition('/')[0].replace('_', ' ')}, {result.dataset_config}: {result.metric_name}"
        yield EvalResultEntry(dataset_id=dataset, task_id=task, value=result.metric_value, notes=notes)


def send(folder: str | Path, names: list[str], repository: str, private: bool) -> str:
    """Sends files of the folder with the token that the hub's library has stored; the commit, in hexadecimal.

    Raises ValueError when the hub refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        allowed = [glob.escape(name) for name in names]
        done = api.upload_folder(
            repo_id=repository, folder_path=folder, allow_patterns=allowed, commit_message="mmtrain push"
        )
    except (HfHubHTTPError, OSError) as error:
        raise ValueError(f"push: the hub refused ({first_line(error)})") from error
    return done.oid
