"""The files of somebody else's model: a folder, or a hub's files in one, read for what would open or run more."""

import itertools
import json
import re
from pathlib import Path
from typing import Any

from mmtrain.display.messages import first_line

# Fields with which a file would have a library run code, or open and fetch what is not beside it.
REFUSED = frozenset(
    {
        "auto_map",
        "base_model_name_or_path",
        "cache_dir",
        "checkpoint_path",
        "code_revision",
        "custom_pipelines",
        "model_name_or_path",
        "pretrained_model_name_or_path",
        "quantization_config",
        "transformers_weights",
        "trust_remote_code",
        "use_pretrained_backbone",
    }
)
# What timm.create_model and the function behind it take besides; its networks have no argument of these names.
TIMM = frozenset({"pretrained", "feature_cfg", "kwargs_filter", "model_cfg"})
SOURCE = re.compile(r"(hf[-_]hub|local-dir):", re.IGNORECASE)  # a name that timm and open_clip fetch or open

SETTINGS = ("*.json", "*.txt", "*.model", "*.spm", "*.codes", "*.tiktoken")
WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")


def pretrained_folder(name: str, weights: tuple[str, ...] = WEIGHTS) -> Path:
    """The folder of a pretrained model, with nothing in its settings that runs code or leaves it.

    Args:
        name: A folder, or NAME or NAME@COMMIT of a hub, whose settings and weights are fetched, and no code.
        weights: Patterns of files with weights, of which a hub's first that there is is fetched.

    Raises:
        ValueError: when there is no such folder or repository, or a setting is refused.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        folder = _fetched(name, weights)
    if (folder / "adapter_config.json").is_file():
        raise ValueError(f"{folder} is an adapter, whose file names another model; merge it into that first")
    for path in sorted(folder.glob("*config.json")):
        check_settings(read_settings(path), str(path))
    for path in sorted(folder.glob("*.index.json")):
        for shard in set(read_settings(path).get("weight_map", {}).values()):
            if Path(shard).name != shard:
                raise ValueError(f"{path}: weights lie in {shard!r}, expected a file of the same folder")
    return folder


def _fetched(name: str, weights: tuple[str, ...]) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    repository, _, commit = name.partition("@")

    def fetch(*patterns: str) -> Path:
        # files of the repository itself; its folders hold other formats
        folder = snapshot_download(
            repository,
            revision=commit or None,
            allow_patterns=list(patterns),
            ignore_patterns=["*/*"],
            local_files_only=constants.HF_HUB_OFFLINE,  # huggingface_hub 1 asks for a commit's files even then
        )
        return Path(folder)

    try:
        folder = fetch(*SETTINGS, *weights[:1])
        for pattern, other in itertools.pairwise(weights):
            if not any(folder.glob(pattern)):
                fetch(other)
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise ValueError(f"{name} is no folder, and no hub's repository to be had ({first_line(error)})") from error
    return folder


def read_settings(path: Path) -> Any:
    """What is in a JSON file. Raises ValueError naming it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read ({first_line(error)})") from error


def check_settings(settings: Any, source: str, options: bool = False) -> None:
    """Refuses what would have a library run code, or open or fetch further files, however deep it lies.

    Args:
        settings: Of a JSON file.
        source: The file.
        options: Whether these are arguments of towers, so that those of timm are refused too.

    Raises:
        ValueError: naming file, field and value.
    """
    if isinstance(settings, dict):
        for name, value in settings.items():
            if is_refused(name, value, options):
                raise ValueError(
                    f"{source}: {name} is {str(value)[:100]!r}, which would run code or open what is not beside the"
                    " file; expected a file without it"
                )
            check_settings(value, source, options or name == "model_args")
    elif isinstance(settings, list):
        for value in settings:
            check_settings(value, source, options)


def is_refused(name: str, value: Any, options: bool = False) -> bool:
    """Whether a field with a value would have a library run code, or open or fetch further files."""
    if not value:
        return False
    if name in REFUSED or (isinstance(value, str) and SOURCE.match(value)):
        return True
    if name.endswith("attn_implementation"):
        return "/" in str(value)  # a hub's kernels
    return options and (name in TIMM or name.startswith("pretrained_"))
