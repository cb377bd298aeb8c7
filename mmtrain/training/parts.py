"""Which objective sees which part of a step, and what each part's samples must hold for them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor, nn

from datamodules.batch import Batch
from losses import Embeddings, Objective
from losses.engine.distributed import shared_gathers
from losses.objective import ALL_FIELDS, needs_of
from mmtrain.models.image_text import ImageTextModel

FROM_TOWERS = frozenset({"tokens", "multi"})  # needs that the model meets, and not the data


def objectives_on(
    part: str, brings: frozenset[str] | None, objectives: Mapping[str, Objective], on: Mapping[str, list[str]]
) -> dict[str, Objective]:
    """The objectives that see a part: those that `on` sends there, and of the others those whose needs it meets.

    Args:
        part: Its name, "" where there are no parts, which all objectives see.
        brings: What its samples hold; None for anything.
    """
    if not part:
        return dict(objectives)
    there = None if brings is None else brings | {ALL_FIELDS}
    return {
        name: objective
        for name, objective in objectives.items()
        if (part in on[name] if name in on else there is None or from_data(objective) <= there)
    }


def needs_on(
    part: str, brings: frozenset[str] | None, objectives: Mapping[str, Objective], on: Mapping[str, list[str]]
) -> frozenset[str]:
    """What the objectives that see a part need of its samples.

    Raises:
        ValueError: one line, for an objective that `on` sends to a part that lacks what it needs.
    """
    seeing = objectives_on(part, brings, objectives, on)
    for name, objective in seeing.items():
        if brings is not None and (missing := from_data(objective) - brings - {ALL_FIELDS}):
            there = ", ".join(sorted(brings))
            raise ValueError(f"model.on.{name}: it needs {', '.join(sorted(missing))}; part {part} brings {there}")
    return frozenset().union(*map(from_data, seeing.values()))


def from_data(objective: Objective) -> frozenset[str]:
    """What an objective needs of the samples."""
    return needs_of(objective) - FROM_TOWERS


def without_uncounted(counted: Sequence[bool], batch: Batch, embeddings: Embeddings) -> Embeddings:
    """Embeddings without the captions of sources that do not count; their images stay negatives."""
    if not counted or embeddings.present is None or embeddings.languages is None:
        return embeddings
    counts = torch.tensor(counted, device=embeddings.present.device)[batch.sources]
    present = embeddings.present & counts[:, None]
    return replace(embeddings, present=present, languages=embeddings.languages.masked_fill(~present, -1))


def terms(
    objectives: Mapping[str, Objective],
    counts_for: Mapping[str, Sequence[bool]],
    batch: Batch,
    embeddings: Embeddings,
    model: ImageTextModel,
    wire: torch.dtype | None = None,
) -> dict[str, Tensor]:
    """The losses (0-d) of a batch by objective; they share what they gather from other processes.

    Args:
        counts_for: Of an objective, which sources' captions count for it; all where it is not named.
        wire: What rows are rounded to on their way to other processes.
    """
    sources = {name: tuple(counts_for.get(name, ())) for name in objectives}
    seen = {counted: without_uncounted(counted, batch, embeddings) for counted in set(sources.values())}
    with shared_gathers(wire):
        return {name: each.loss(batch, seen[sources[name]], model) for name, each in objectives.items()}


def check_parts(
    objectives: Mapping[str, Objective], on: Mapping[str, list[str]], brings: Mapping[str, frozenset[str]]
) -> None:
    """Refuses objectives that see no part, and parts that no objective sees.

    Args:
        brings: What each part's batches hold.

    Raises:
        ValueError: one line, naming the option.
    """
    parts = ", ".join(brings)
    for name, of_objective in on.items():
        if name not in objectives:
            raise ValueError(f"model.on.{name}: no such objective; model.objectives has {', '.join(objectives)}")
        unknown = [part for part in of_objective if part not in brings]
        if unknown or not of_objective:
            there = f"data.parts has {parts}" if "" not in brings else "there are no data.parts"
            raise ValueError(f"model.on.{name}: no such part {', '.join(unknown) or '[]'}; {there}")
    if "" in brings:
        return
    seen = {part: objectives_on(part, there, objectives, on) for part, there in brings.items()}
    for name, objective in objectives.items():
        if not any(name in names for names in seen.values()):
            needs = ", ".join(sorted(from_data(objective)))
            raise ValueError(f"model.objectives.{name}: no part has what it needs ({needs}); the parts are {parts}")
    for part, names in seen.items():
        if not names:
            raise ValueError(f"data.parts.{part}: no objective sees it; name it under model.on, or leave it out")


def rest_unread(model: ImageTextModel, kinds: frozenset[str]) -> None:
    """Takes what no part of the step reads out of the training, for other processes would wait for it.

    Args:
        kinds: "image", "text": what the parts bring. A shared tower reads both.
    """
    towers = {"image": model.image, "text": None if model.one_tower else model.text}
    projections = {"image": model.image_projection, "text": model.text_projection}
    for side in ("image", "text"):
        if side in kinds:
            continue
        tower: nn.Module | None = towers[side]
        if side == "image" and model.one_tower and model.image is not None and "text" in kinds:
            tower = model.image.unread_by_texts()
        head = dict(model.multi.items()).get(side)
        unread = [module for module in (tower, projections[side], head) if module is not None]
        parameters = [each for module in unread for each in module.parameters()]
        parameters += [bank[side] for bank in (model.absent, model.observed) if side in bank]
        trained = [each for each in parameters if each.requires_grad]
        for parameter in trained:
            parameter.requires_grad_(False)
        if trained:
            rank_zero_info(f"model.{side}: no part of the step reads it; its weights stay as they are")
