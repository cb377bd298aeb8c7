"""Which pairs of rows and columns are positives, and which are no negatives although they are not positives.

Rows are images, columns are captions, but nothing here knows that. A row's own columns are its positives. Ids leave
out false negatives: the same image under another key, or the same words under another image.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional


@dataclass
class Labels:
    """One kind of id, renumbered so that only ids which several samples share can ever be equal.

    Args:
        rows: int64 [R, n], the labels of each row, -1 for none.
        columns: int64 [M, C, n'], the labels of each column's M members, -2 for none.
    """

    rows: Tensor
    columns: Tensor

    def equal(self, rows: Tensor, columns: Tensor) -> Tensor:
        """bool [len(rows), M, len(columns)]: whether the row shares a label with the column's member."""
        ours, theirs = self.rows[rows], self.columns[:, columns]
        shared = torch.zeros(len(rows), theirs.shape[0], len(columns), dtype=torch.bool, device=rows.device)
        for label in ours.unbind(1):
            for other in theirs.unbind(2):
                shared |= label[:, None, None] == other
        return shared


@dataclass
class Block:
    """Some pairs of a tile.

    Args:
        at: int64 [r, 1] and [c], rows and columns of the tile; None for all of them.
        mask: bool [r, c], which of their pairs.
    """

    at: tuple[Tensor, Tensor] | None
    mask: Tensor

    def fill(self, tile: Tensor, value: float) -> None:
        """Writes a value where these pairs are, without asking the device how many there are."""
        if self.at is None:
            tile.masked_fill_(self.mask, value)
        else:
            tile[self.at] = tile[self.at].masked_fill(self.mask, value)


@dataclass
class Guide:
    """Another model's scores: a column is left out for a row whose limit they are above.

    Args:
        rows: float [R, G], that model's rows.
        columns: float [C, G], likewise.
        limits: float [R].
    """

    rows: Tensor
    columns: Tensor
    limits: Tensor

    def above(self, rows: slice, columns: slice) -> Tensor:
        """bool [rows, columns] of a tile."""
        return self.rows[rows] @ self.columns[columns].T > self.limits[rows, None]


@dataclass
class Pairs:
    """The pairs of R rows and C columns that are not plain negatives.

    Args:
        own_rows: int64 [P], ascending; with own_columns the pairs that are positives.
        own_columns: int64 [P], ascending.
        labels: kinds of ids. A column is left out for a row when each of its members shares a label of some kind.
        rows: int64, ascending, the rows that any label can leave a column out for.
        columns: int64, ascending, the columns that any label can leave out.
        guide: leaves further pairs out.
    """

    own_rows: Tensor
    own_columns: Tensor
    labels: list[Labels] = field(default_factory=list)
    rows: Tensor | None = None
    columns: Tensor | None = None
    guide: Guide | None = None

    def label(self, kinds: list[Labels]) -> None:
        """Takes kinds of ids, of columns with one member each. Waits for the device twice, where there are any."""
        self.labels = kinds
        if kinds:
            self.rows = torch.stack([(kind.rows >= 0).any(1) for kind in kinds]).any(0).nonzero()[:, 0]
            self.columns = torch.stack([(kind.columns[0] >= 0).any(1) for kind in kinds]).any(0).nonzero()[:, 0]

    def left_out(self, rows: slice, columns: slice, some_rows: slice, some_columns: slice) -> Block | None:
        """The pairs of a tile that share ids or that a guide leaves out; own pairs may be among them.

        Args:
            rows: Of the tile.
            columns: Of the tile.
            some_rows: Which of `self.rows` are in the tile.
            some_columns: Which of `self.columns` are.
        """
        barred = None if self.guide is None else Block(None, self.guide.above(rows, columns))
        if self.rows is None or self.columns is None:
            return barred
        i, j = self.rows[some_rows], self.columns[some_columns]
        if not len(i) or not len(j):
            return barred
        shared = Block((i[:, None] - rows.start, j - columns.start), self.share_ids(i, j))
        if barred is None:
            return shared
        shared.fill(barred.mask, True)
        return barred

    def share_ids(self, rows: Tensor, columns: Tensor) -> Tensor:
        """bool [len(rows), len(columns)]: whether ids leave the column out for the row; for numbers int64."""
        same = torch.zeros(len(rows), 1, len(columns), dtype=torch.bool, device=rows.device)
        for kind in self.labels:
            same = same | kind.equal(rows, columns)
        return same.all(1)


def shared_labels(ids: Tensor, valid: Tensor | None = None) -> Tensor:
    """Renumbers ids [B, n]: equal ids of different samples get equal labels from 0 up, all others -1."""
    B, n = ids.shape
    owner = torch.arange(B, device=ids.device)[:, None].expand(B, n).flatten()
    usable = torch.ones_like(owner, dtype=torch.bool) if valid is None else valid.flatten()
    # without unique, whose number of results the host would wait for: an id's number is its place among the sorted
    ascending, order = ids.flatten().sort()
    place = functional.pad((ascending[1:] != ascending[:-1]).cumsum(0), (1, 0))
    number = torch.empty_like(order).scatter_(0, order, place)
    first = torch.full_like(owner, B).scatter_reduce_(0, number, owner.where(usable, B), "amin")
    last = torch.full_like(owner, -1).scatter_reduce_(0, number, owner.where(usable, -1), "amax")
    return number.where((first < last)[number] & usable, -1).view(B, n)
