"""K captions an image, some of them missing, on many processes: as columns beside the images' rows."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from losses.engine.distributed import gather, rank_and_size
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
        images: B, all processes' images.
        captioned: 0-d, how many of them have a caption.
    """

    columns: Tensor
    owner: Tensor
    slot: Tensor
    mine: slice
    pairs: Pairs
    images: int
    captioned: Tensor


def caption_columns(
    texts: Tensor,
    present: Tensor | None,
    image_ids: Tensor | None,
    text_ids: Tensor | None,
    group: ProcessGroup | None,
) -> Captions:
    """Gathers texts [b, K, D] with present bool [b, K] and ids, and drops the absent captions."""
    b, K, _ = texts.shape
    rank, size = rank_and_size(group)
    columns = gather(texts, group).flatten(0, 1)
    everywhere = torch.ones(size * b, K, dtype=torch.bool, device=texts.device)
    if present is not None:
        everywhere = gather(present, group)
    filled = everywhere.flatten().nonzero()[:, 0]
    if len(filled) < len(columns):
        columns = columns[filled]
    owner, slot = filled // K, filled % K
    start, stop = torch.searchsorted(
        filled, torch.tensor([rank * b * K, (rank + 1) * b * K], device=filled.device)
    ).tolist()
    own_columns = torch.arange(start, stop, device=filled.device)
    pairs = Pairs(own_rows=owner[start:stop] - rank * b, own_columns=own_columns)
    for kind in caption_labels(image_ids, text_ids, everywhere, group):
        pairs.add(Labels(kind.rows[rank * b : (rank + 1) * b], kind.columns[:, filled]))
    return Captions(columns, owner, slot, slice(start, stop), pairs, size * b, everywhere.any(1).sum())


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
        labels = shared_labels(gather(image_ids, group)[:, None])
        kinds.append((labels, labels.expand(B, K)))
    if text_ids is not None:
        ids = gather(text_ids, group)
        labels = shared_labels(ids if ids.dim() == 2 else ids[:, None].expand(B, K), everywhere)
        kinds.append((labels, labels))
    return [Labels(rows, columns.where(columns >= 0, -2).reshape(1, B * K, 1)) for rows, columns in kinds]
