"""`mmtrain push`: an exported folder made ready for a model hub, and sent there when asked."""

from pathlib import Path

PICKLES = (".bin", ".ckpt", ".pkl", ".pickle", ".pt", ".pth")


def push(folder: str | Path, repository: str, *, licence: str, upload: bool = False, private: bool = False) -> None:
    """Completes the model card of an export, lists what would be sent, and sends it with `upload`.

    Args:
        folder: What `mmtrain export` wrote.
        repository: OWNER/NAME on the hub.
        licence: As the hub spells licences, e.g. apache-2.0 or cc-by-4.0; goes into the card.
        upload: Send it; the hub's token is taken from where its library keeps it.
        private: Whether a new repository is private.

    Raises:
        ValueError: for a folder that is no export, files that can carry code, or a name that is no repository's.
    """
    from huggingface_hub import HfApi, ModelCard
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    from huggingface_hub.utils import validate_repo_id

    folder = Path(folder)
    card = folder / "README.md"
    if not card.is_file():
        raise ValueError(f"push: {folder} has no README.md; a folder that mmtrain export wrote")
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise ValueError(f"push: {repository} names no repository ({str(error).splitlines()[0]})") from error
    if repository.count("/") != 1:
        raise ValueError(f"push: {repository} names no repository; OWNER/NAME")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in files:
        if path.suffix in PICKLES:
            raise ValueError(f"push: {path} can carry code; export without pickles first")
    written = ModelCard.load(card)
    written.data.license = licence
    written.save(card)
    for path in files:
        print(f"{path.relative_to(folder)}  {path.stat().st_size:,} bytes")
    if not upload:
        print(f"{folder} is ready; --upload sends it to {repository}")
        return
    api = HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message="mmtrain push")
    except (HfHubHTTPError, OSError) as error:
        raise ValueError(f"push: the hub refused ({str(error).splitlines()[0]})") from error
    print(f"sent to {repository}")
