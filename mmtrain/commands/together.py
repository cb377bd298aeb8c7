"""Which options of `mmtrain evaluate` go together."""

from typing import Any

from mmtrain.commands.usage import UsageError

# option -> those of which one must stand beside it
DETAILS_OF = {
    "images": ["protocol NAME"],
    "prompts": ["zero_shot TASK"],
    "patches": ["probe TASK"],
    "train": ["baselines", "probe TASK"],
    "beams": ["generate"],
    "rerank_by": ["rerank K"],
    "task": ["classes FILE"],
    "templates": ["classes FILE"],
}


def check_together(retrieval: dict[str, Any], details: dict[str, Any], classes: str | None, sts: bool) -> None:
    """Refuses options of retrieval beside --classes and --sts, and details without what they are of."""
    if classes is not None and sts:
        raise UsageError("--sts: not allowed with argument --classes")
    for name, value in retrieval.items():
        if value and (classes is not None or sts):
            raise ValueError(f"--{name}: says nothing about {'--sts' if sts else '--classes'}; without it")
    for name, value in details.items():
        needed = DETAILS_OF[name]
        if value and not any((retrieval | {"classes": classes}).get(other.partition(" ")[0]) for other in needed):
            shown = "" if value is True else f"{value} "
            raise ValueError(f"--{name}: {shown}says nothing by itself; it needs --{' or --'.join(needed)}")
