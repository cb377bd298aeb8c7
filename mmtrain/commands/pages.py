"""The pages of configs/ by name: `--config pretrain/tiny` from any folder."""

import re
from collections.abc import Iterator
from pathlib import Path

from mmtrain.commands.usage import UsageError


def with_pages(arguments: list[str]) -> list[str]:
    """The arguments of `fit` with the files of pages in place of their names. What is a file stays as it is.

    Raises:
        UsageError: for a name that no page has.
    """
    found, pages = list(arguments), shipped_pages()
    for name, behind in given_pages(arguments):
        if not re.fullmatch(r"[\w/-]+", name) or (Path(name).exists() and not Path(name).is_dir()):
            continue
        if name not in pages:
            raise UsageError(f"--config: {name} is no file and no page of mmtrain; pages: {', '.join(pages)}")
        found[behind - 1] = found[behind - 1].removesuffix(name) + str(pages[name])
    return found


def shipped_pages() -> dict[str, Path]:
    """The pages that came with mmtrain, by name: quickstart, pretrain/tiny."""
    package = Path(__file__).parents[1]
    folder = package / "configs"  # in a wheel; beside the package in a checkout
    folder = folder if folder.is_dir() else package.with_name("configs")
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in sorted(folder.rglob("*.yaml"))}


def given_pages(arguments: list[str]) -> Iterator[tuple[str, int]]:
    """What each --config gives, and the place behind it."""
    for place, word in enumerate(arguments):
        name, sign, value = word.partition("=")
        if name in ("--config", "-c") and (sign or place + 1 < len(arguments)):
            yield (value, place + 1) if sign else (arguments[place + 1], place + 2)
