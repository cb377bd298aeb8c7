"""Which pairs of rows and columns are positives, and which are no negatives although they are not positives.

Rows are images, columns are captions, but nothing here knows that. A row's own columns are its positives. Ids leave
out false negatives: the same image under another key, or the same words under another image.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor


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

    @classmethod
    def none(cls, device: torch.device) -> "Pairs":
        """Where every pair is a plain negative."""
        nothing = torch.zeros(0, dtype=torch.int64, device=device)
        return cls(nothing, nothing)

    def add(self, kind: Labels) -> None:
        """One more kind of id, of columns with one member each."""
        rows, columns = (kind.rows >= 0).any(1).nonzero()[:, 0], (kind.columns[0] >= 0).any(1).nonzero()[:, 0]
        self.labels.append(kind)
        self.rows = rows if self.rows is None else torch.cat([self.rows, rows]).unique()
        self.columns = columns if self.columns is None else torch.cat([self.columns, columns]).unique()

    def left_out(self, rows: slice, columns: slice) -> tuple[Tensor, Tensor] | Tensor | None:
        """An index into the tile: the pairs that share ids or that a guide leaves out; own pairs may be among them."""
        shared = self._sharing(rows, columns)
        if self.guide is None:
            return shared
        barred = self.guide.above(rows, columns)
        if shared is not None:
            barred[shared] = True
        return barred

    def _sharing(self, rows: slice, columns: slice) -> tuple[Tensor, Tensor] | None:
        """Row and column numbers inside the tile of the pairs that share ids."""
        if not self.labels or self.rows is None or self.columns is None:
            return None
        some_rows, some_columns = _inside(self.rows, rows), _inside(self.columns, columns)
        if not len(some_rows) or not len(some_columns):
            return None
        i, j = self.share_ids(some_rows, some_columns).nonzero(as_tuple=True)
        return some_rows[i] - rows.start, some_columns[j] - columns.start

    def share_ids(self, rows: Tensor, columns: Tensor) -> Tensor:
        """bool [len(rows), len(columns)]: whether ids leave the column out for the row; for numbers int64."""
        same = torch.zeros(len(rows), 1, len(columns), dtype=torch.bool, device=rows.device)
        for kind in self.labels:
            same = same | kind.equal(rows, columns)
        return same.all(1)


def _inside(numbers: Tensor, part: slice) -> Tensor:
    return numbers[(numbers >= part.start) & (numbers < part.stop)]


def shared_labels(ids: Tensor, valid: Tensor | None = None) -> Tensor:
    """Renumbers ids [B, n]: equal ids of different samples get equal labels from 0 up, all others -1."""
    B, n = ids.shape
    owner = torch.arange(B, device=ids.device)[:, None].expand(B, n).flatten()
    usable = torch.ones_like(owner, dtype=torch.bool) if valid is None else valid.flatten()
    kinds, number = ids.flatten()[usable].unique(return_inverse=True)
    holders = (number * B + owner[usable]).unique() // B  # an id once for each sample that has it
    several = holders.bincount(minlength=len(kinds)) > 1
    labels = torch.full_like(owner, -1)
    labels[usable] = torch.where(several[number], number, -1) if len(kinds) else number
    return labels.view(B, n)
