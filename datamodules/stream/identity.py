"""What a place in the stream belongs to: the data and options that a resumed run, and every process, must share."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from typing import TypeVar

import torch.distributed
from torch import nn

from datamodules.stream.mixture import SurveyedSource

SHOWN = 60
T = TypeVar("T")


def shards_digest(sources: Sequence[SurveyedSource]) -> str:
    """Names and sizes of the shards, weights of the sources, what is kept and filters leave, as a few characters."""
    shards = [[[shard.name.rsplit("/", 1)[-1], len(shard)] for shard in source.shards] for source in sources]
    weights = None if sources[0].weight is None else [source.weight for source in sources]
    kept = [[source.kept and source.kept.digest for source in sources]] if any(one.kept for one in sources) else []
    digest = hashlib.sha256(json.dumps([shards, weights, *kept]).encode())
    for shard in (shard for source in sources for shard in source.shards):
        if shard.let_go is not None:
            digest.update(shard.let_go.tobytes() + shard.numbers.tobytes())
    return digest.hexdigest()[:16]


def described(thing: object) -> str:
    """An option, or an object with its public attributes, as text that is equal for equal options."""
    if isinstance(thing, dict):
        return "{" + ", ".join(f"{key}: {described(thing[key])}" for key in sorted(thing)) + "}"
    if isinstance(thing, (list, tuple)):
        return "[" + ", ".join(map(described, thing)) + "]"
    if isinstance(thing, nn.Module) or not hasattr(thing, "__dict__"):
        return repr(thing)
    public = {name: value for name, value in vars(thing).items() if not name.startswith("_")}
    return f"{type(thing).__qualname__}({', '.join(f'{name}={described(public[name])}' for name in sorted(public))})"


def check_resumed(before: dict[str, dict], now: dict[str, dict]) -> None:
    """Compares two descriptions {"data": {...}, "options": {...}} of a run.

    Raises ValueError, one line, where the data differ, for then a place in the stream means another sample. Other
    options that differ are logged.
    """
    for part in now["data"] | before["data"]:
        was, this = (one["data"].get(part) for one in (before, now))
        if was != this:
            raise ValueError(
                f"data.train: the checkpoint's place belongs to other data ({part} was {_short(was)}, is "
                f"{_short(this)}); resume with the same shards, languages, seed and shuffle_window"
            )
    for part, this in now["options"].items():
        was = before["options"].get(part, this)  # an older version had no such option
        if was != this:
            inform(f"train: {part} was {_short(was)} in the checkpoint and is now {_short(this)}")


def rank_and_world() -> tuple[int, int]:
    """This process's number in the default group and how many there are; 0 and 1 without a group."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def inform(message: str) -> None:
    """Logs a message, on one process."""
    if rank_and_world()[0] == 0:
        _LOG.info(message)


_LOG = logging.getLogger("datamodules")
_LOG.setLevel(logging.INFO)
if not logging.getLogger().hasHandlers():  # a program that logs nothing sees it nevertheless
    _LOG.addHandler(logging.StreamHandler())
    _LOG.propagate = False


def gathered(mine: T) -> list[T]:
    """What each process of the default group holds, in their order. Collective where there is a group."""
    parts = [mine] * rank_and_world()[1]
    if len(parts) > 1:
        torch.distributed.all_gather_object(parts, mine)
    return parts


def check_all_alike(mine: dict | ValueError) -> None:
    """Compares what the processes surveyed; one with other shards would make the others wait for ever. Collective.

    Args:
        mine: This process's facts by name, or the error that it met.

    Raises:
        ValueError: on every process, in one line, when one met an error or its facts differ from process 0's.
    """
    facts: list = gathered(str(mine) if isinstance(mine, ValueError) else mine)
    if isinstance(mine, ValueError):
        raise mine
    for rank, theirs in enumerate(facts):
        if isinstance(theirs, str):
            raise ValueError(f"{theirs} (met by process {rank})")
        for part, value in facts[0].items():
            if theirs.get(part) != value:
                raise ValueError(
                    f"data: process {rank} found other shards than process 0 ({part} is {_short(theirs.get(part))}, "
                    f"not {_short(value)}); every process must see the same files"
                )


def _short(value: object) -> str:
    return f"{str(value)[:SHOWN]}..." if len(str(value)) > SHOWN else str(value)
