"""An exported folder made ready for a model hub, and sent there."""

import re
from pathlib import Path
from typing import Any

from datamodules.files import write_whole
from mmtrain.display.messages import first_line, say
from mmtrain.models.yaml12 import read_yaml, yaml_text

PICKLES = (".bin", ".ckpt", ".pkl", ".pickle", ".pt", ".pth")


def prepare(folder: str | Path, repository: str, licence: str) -> None:
    """Completes the model card of an export and lists the files to send.

    Args:
        repository: OWNER/NAME on the hub.
        licence: As the hub spells it, e.g. apache-2.0; goes into the card.

    Raises:
        ValueError: for a folder that is no export, files that can carry code, or a name that is no repository's.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    folder = Path(folder)
    card = folder / "README.md"
    if not card.is_file():
        raise ValueError(f"push: {folder} has no README.md; a folder that mmtrain export wrote")
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise ValueError(f"push: {repository} names no repository ({first_line(error)})") from error
    if repository.count("/") != 1:
        raise ValueError(f"push: {repository} names no repository; OWNER/NAME")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in files:
        if path.suffix in PICKLES:
            raise ValueError(f"push: {path} can carry code; export without pickles first")
    text = card.read_text(encoding="utf-8")
    header: dict[str, Any] = {}
    if parts := re.fullmatch("---\n(.*?)---\n(.*)", text, flags=re.DOTALL):
        header, text = read_yaml(parts[1]) or {}, parts[2]
    write_whole(card, f"---\n{yaml_text(header | {'license': licence})}---\n{text}")
    for path in files:
        say(f"{path.relative_to(folder)}  {path.stat().st_size:,} bytes")


def send(folder: str | Path, repository: str, private: bool) -> None:
    """Sends the folder with the token that the hub's library has stored. Raises ValueError when the hub refuses."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message="mmtrain push")
    except (HfHubHTTPError, OSError) as error:
        raise ValueError(f"push: the hub refused ({first_line(error)})") from error
