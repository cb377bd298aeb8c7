"""An exported folder made ready for a model hub, and sent there."""

import glob
import json
import re
from pathlib import Path
from typing import Any

from mmtrain.display.messages import first_line, say
from mmtrain.export.marker import read_marker, rewrite
from mmtrain.export.paths import first_path
from mmtrain.models.yaml12 import read_yaml, yaml_text

PICKLES = (".bin", ".ckpt", ".dill", ".joblib", ".pickle", ".pkl", ".pt", ".pth")
CARD = "README.md"


def prepare(folder: str | Path, repository: str, licence: str) -> list[str]:
    """Completes the model card of an export and prints the files to send, which are those that export wrote.

    Args:
        repository: OWNER/NAME on the hub; open_clip's settings get it in place of the folder's path.
        licence: As the hub spells it, e.g. apache-2.0; goes into the card.

    Returns:
        The files' names.

    Raises:
        ValueError: for a folder that is no export, files that can carry code, absolute paths in what would be sent, or
            a name that is no repository's.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    folder = Path(folder)
    marker = read_marker(folder)
    if marker is None:
        raise ValueError(f"push: {folder} is no export; a folder that mmtrain export wrote")
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise ValueError(f"push: {repository} names no repository ({first_line(error)})") from error
    if repository.count("/") != 1:
        raise ValueError(f"push: {repository} names no repository; OWNER/NAME")
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
    text = (folder / CARD).read_text(encoding="utf-8")
    header: dict[str, Any] = {}
    if parts := re.fullmatch("---\n(.*?)---\n(.*)", text, flags=re.DOTALL):
        header, text = read_yaml(parts[1]) or {}, parts[2]
    rewrite(folder, marker, CARD, f"---\n{yaml_text(header | {'license': licence})}---\n{text}")
    for name in sent:
        say(f"{name}  {(folder / name).stat().st_size:,} bytes")
    others = [name for name in names if name not in sent and name != "export.json"]
    if others:
        say(f"not sent, for export did not write them: {', '.join(others[:5])}{' ...' * (len(others) > 5)}")
    return sent


def send(folder: str | Path, names: list[str], repository: str, private: bool) -> None:
    """Sends files of the folder with the token that the hub's library has stored.

    Raises ValueError when the hub refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        allowed = [glob.escape(name) for name in names]
        api.upload_folder(repo_id=repository, folder_path=folder, allow_patterns=allowed, commit_message="mmtrain push")
    except (HfHubHTTPError, OSError) as error:
        raise ValueError(f"push: the hub refused ({first_line(error)})") from error
