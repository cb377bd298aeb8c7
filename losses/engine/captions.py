"""K captions an image, some of them missing, on many processes: as columns beside the images' rows."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.nn import functional

from losses.engine.checks import check_mask
from losses.engine.distributed import gather, once, rank_and_size
from losses.engine.pairs import Labels, Pairs, shared_labels


@dataclass
class Captions:
    """The present captions of all processes and how this process's b images relate to them.

    Args:
        columns: float [C, D], captions in the order of rank, image, slot.
        owner: int64 [C], each caption's image, counted over all processes.
        slot: int64 [C], each caption's slot.
        mine: which captions belong to this process.
        pairs: this process's images as rows; their own captions and those that share ids.
    """

    columns: Tensor
    owner: Tensor
    slot: Tensor
    mine: slice
    pairs: Pairs

    def add(self, further: Tensor) -> Tensor:
        """Appends columns that belong to no image and share no ids; returns their numbers."""
        before, more = len(self.columns), len(further)
        self.columns = torch.cat([self.columns, further])
        self.owner = functional.pad(self.owner, (0, more), value=-1)
        for kind in self.pairs.labels:
            kind.columns = functional.pad(kind.columns, (0, 0, 0, more), value=-2)
        return torch.arange(before, before + more, device=further.device)


def caption_columns(
    texts: Tensor,
    present: Tensor | None,
    image_ids: Tensor | None,
    text_ids: Tensor | None,
    group: ProcessGroup | None,
) -> Captions:
    """Gathers texts [b, K, D] with present bool [b, K] and ids, and drops the absent captions."""
    b, K, _ = texts.shape
    rank, _ = rank_and_size(group)
    columns = gather(texts, group, exact=False).flatten(0, 1)
    everywhere = everywhere_present(present, texts, group)
    filled = everywhere.flatten().nonzero()[:, 0]
    if len(filled) < len(columns):
        columns = columns[filled]
    owner, slot = filled // K, filled % K
    start, stop = torch.searchsorted(
        filled, torch.tensor([rank * b * K, (rank + 1) * b * K], device=filled.device)
    ).tolist()
    own_columns = torch.arange(start, stop, device=filled.device)
    pairs = Pairs(own_rows=owner[start:stop] - rank * b, own_columns=own_columns)
    labels = caption_labels(image_ids, text_ids, everywhere, group)
    pairs.label([Labels(kind.rows[rank * b : (rank + 1) * b], kind.columns[:, filled]) for kind in labels])
    return Captions(columns, owner, slot, slice(start, stop), pairs)


@dataclass
class OwnCaptions:
    """This process's captions as rows beside the images of all processes as columns: K times less to gather.

    Args:
        rows: float [c + n, D], its c present captions in the order of image and slot, then n distractors.
        images: float [B, D].
        pairs: the captions' own images, and the images that share ids with a caption.
        mine: which images belong to this process.
        count: c.
    """

    rows: Tensor
    images: Tensor
    pairs: Pairs
    mine: slice
    count: int


def own_captions(
    image: Tensor,
    texts: Tensor,
    present: Tensor | None,
    image_ids: Tensor | None,
    text_ids: Tensor | None,
    distractors: Tensor | None,
    distractors_present: Tensor | None,
    group: ProcessGroup | None,
) -> OwnCaptions:
    """Gathers images [b, D]; drops the absent captions of texts [b, K, D] and the absent distractors [b, n, D]."""
    b, K, _ = texts.shape
    first = rank_and_size(group)[0] * b
    rows = texts.flatten(0, 1)
    filled = torch.arange(len(rows), device=rows.device)
    if present is not None:
        filled = present.flatten().nonzero()[:, 0]
        rows = rows[filled]
    images, count = gather(image, group, exact=False), len(rows)
    further = distractor_rows(image, distractors, distractors_present, None)
    pairs = Pairs(own_rows=torch.arange(count, device=rows.device), own_columns=first + filled // K)
    kinds = []
    if image_ids is not None or text_ids is not None:
        everywhere = everywhere_present(present, texts, group)
        for kind in caption_labels(image_ids, text_ids, everywhere, group):
            ours = functional.pad(kind.columns[0, first * K + filled], (0, 0, 0, len(further)), value=-2)
            kinds.append(Labels(ours, kind.rows[None]))
    pairs.label(kinds)
    return OwnCaptions(torch.cat([rows, further]), images, pairs, slice(first, first + b), count)


def distractor_rows(
    image: Tensor, distractors: Tensor | None, present: Tensor | None, group: ProcessGroup | None
) -> Tensor:
    """float [C, D], the distractors [b, n, D] of a group that are there, present bool [b, n]; [0, D] for None.

    Raises:
        ValueError: wrong shapes, or `present` without distractors.
    """
    b, D = image.shape
    if distractors is None:
        if present is not None:
            raise ValueError("distractors_present: it is about distractors, of which there are none")
        return image.new_zeros(0, D)
    if distractors.dim() != 3 or distractors.shape[::2] != (b, D):
        raise ValueError(f"distractors: got shape {list(distractors.shape)}, expected [{b}, n, {D}]")
    check_mask("distractors_present", present, tuple(distractors.shape[:2]))
    rows = gather(distractors.to(image.dtype), group).flatten(0, 1)
    return rows if present is None else rows[gather(present, group).flatten()]


def labels_of(ids: Tensor, group: ProcessGroup | None) -> Tensor:
    """int64 [B, 1], the ids [b] of all processes renumbered by `shared_labels`."""
    return once("labels", lambda: shared_labels(gather(ids, group)[:, None]), ids)


def everywhere_present(present: Tensor | None, texts: Tensor, group: ProcessGroup | None) -> Tensor:
    """bool [B, K], which slots of all processes hold a caption; present [b, K] of texts [b, K, D], None for all."""
    if present is not None:
        return gather(present, group)
    b, K, _ = texts.shape
    count = rank_and_size(group)[1] * b
    return once(("present", count, K), lambda: torch.ones(count, K, dtype=torch.bool, device=texts.device))


def shared_ids(image_ids: Tensor, text_ids: Tensor, group: ProcessGroup | None) -> Tensor:
    """bool [b, B], whether a sample of this process is, or shares the id of its image or of a caption with, one of any.

    Args:
        image_ids: int64 [b].
        text_ids: int64 [b, K], -1 for no caption.
        group: Processes that hold the rest of the batch.
    """
    kinds = caption_labels(image_ids, text_ids, gather(text_ids, group) >= 0, group)
    every = torch.arange(len(kinds[0].rows), device=image_ids.device)
    b = len(image_ids)
    mine = every[rank_and_size(group)[0] * b :][:b]
    same = mine[:, None] == every
    for kind in kinds:
        same |= Labels(kind.rows, kind.rows.where(kind.rows >= 0, -2)[None]).equal(mine, every)[:, 0]
    return same


def caption_labels(
    image_ids: Tensor | None, text_ids: Tensor | None, everywhere: Tensor, group: ProcessGroup | None
) -> list[Labels]:
    """Ids of all processes as labels: rows are the B images, columns their B K slots, absent ones included.

    A caption and another image share an id when the caption's own image has that image's id, or when that image has a
    caption of the same words.
    """
    B, K = everywhere.shape
    kinds = []
    if image_ids is not None:
        labels = labels_of(image_ids, group)
        kinds.append((labels, labels.expand(B, K)))
    if text_ids is not None:
        ids = gather(text_ids, group)
        slots = ids if ids.dim() == 2 else ids[:, None].expand(B, K)
        labels = once("text labels", lambda: shared_labels(slots, everywhere), ids, everywhere)
        kinds.append((labels, labels))
    return [Labels(rows, columns.where(columns >= 0, -2).reshape(1, B * K, 1)) for rows, columns in kinds]
