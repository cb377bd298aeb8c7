"""Many rows an item, compared by late interaction: the mean over a query's tokens of the largest product with any token
of the item (Khattab and Zaharia, "ColBERT", SIGIR 2020, equation 3, divided by the number of tokens).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

ITEM_TOKENS, QUERY_TOKENS = 3200, 1280  # that meet at once: 16 MiB of float32 products, near the cache
PAIR_BLOCK = 2**22  # numbers of single pairs that are scored at once


@dataclass(frozen=True)
class TokenRows:
    """Token rows of N items one after another, without padding.

    Args:
        values: float [T, d], unit rows.
        edges: int64 [N + 1]; item i has the rows edges[i] to edges[i + 1].
    """

    values: Tensor
    edges: np.ndarray

    @classmethod
    def of(cls, items: "Iterable[np.ndarray | Tensor] | TokenRows") -> "TokenRows":
        """Items [L, d] of any lengths L. Raises ValueError unless all are such arrays of one width."""
        if isinstance(items, TokenRows):
            return items
        rows = [torch.as_tensor(each) for each in items]
        for number, each in enumerate(rows):
            if each.ndim != 2 or not each.is_floating_point() or each.shape[1] != rows[0].shape[1]:
                seen = f"{each.dtype} of shape {list(each.shape)}"
                raise ValueError(f"token rows: item {number} is {seen}, expected floating numbers [tokens, width]")
        values = torch.cat(rows) if rows else torch.empty(0, 0)
        return cls(values, np.cumsum([0, *map(len, rows)]))

    @classmethod
    def joined(cls, first: "TokenRows", last: "TokenRows") -> "TokenRows":
        """The items of both; those of one share its rows where the other has none."""
        if not len(first) or not len(last):
            return first if len(first) else last
        return cls(torch.cat([first.values, last.values]), np.r_[first.edges, first.edges[-1] + last.edges[1:]])

    def __len__(self) -> int:
        return len(self.edges) - 1

    def __getitem__(self, items: slice | np.ndarray | Tensor) -> "TokenRows":
        """Some items; consecutive ones share their rows."""
        if isinstance(items, slice):
            first, last, _ = items.indices(len(self))
            edges = self.edges[first : max(first, last) + 1]
            return TokenRows(self.values[edges[0] : edges[-1]], edges - edges[0])
        numbers = np.asarray(items.cpu() if isinstance(items, Tensor) else items)
        edges = np.r_[0, np.cumsum(self.lengths[numbers])]
        rows = np.arange(edges[-1]) + np.repeat(self.edges[numbers] - edges[:-1], self.lengths[numbers])
        return TokenRows(self.values[torch.from_numpy(rows).to(self.device)], edges)

    @property
    def lengths(self) -> np.ndarray:
        """int64 [N], the number of tokens of each item."""
        return np.diff(self.edges)

    @property
    def device(self) -> torch.device:
        return self.values.device

    def to(self, target: torch.device | torch.dtype | str) -> "TokenRows":
        """On another device, or in another precision."""
        return TokenRows(self.values.to(target), self.edges)

    def padded(self) -> Tensor:
        """float [N, L, d]; a shorter item repeats its last token, which changes no maximum."""
        longest = int(self.lengths.max())
        if (self.lengths == longest).all():
            return self.values.view(len(self), longest, -1)
        places = self.edges[:-1, None] + np.minimum(np.arange(longest), self.lengths[:, None] - 1)
        return self.values[torch.from_numpy(places).to(self.device)]

    def shares(self, dtype: torch.dtype) -> Tensor:
        """[T, N]: how much each row counts in the mean of each item."""
        owner = torch.from_numpy(np.repeat(np.arange(len(self)), self.lengths)).to(self.device)
        shares = torch.zeros(len(self.values), len(self), dtype=dtype, device=self.device)
        counts = torch.from_numpy(self.lengths).to(self.device, dtype)
        shares[torch.arange(len(owner), device=self.device), owner] = 1 / counts[owner]
        return shares

    def blocks(self, tokens: int) -> Iterator[slice]:
        """Consecutive items that have at most so many tokens together, or one."""
        first = 0
        while first < len(self):
            last = int(np.searchsorted(self.edges, self.edges[first] + tokens, side="right")) - 1
            yield slice(first, max(last, first + 1))
            first = max(last, first + 1)


def token_scores(items: TokenRows, queries: TokenRows, out: Tensor | None = None) -> Tensor:
    """Scores [N, M] of items and queries in float32, or in float64 where they are; written to `out` where given."""
    dtype = torch.promote_types(items.values.dtype, torch.float32)
    scores = items.values.new_empty(len(items), len(queries), dtype=dtype) if out is None else out
    for q in queries.blocks(QUERY_TOKENS):
        part = queries[q]
        tokens, shares = part.values.to(dtype).T, part.shares(dtype)
        for i in items.blocks(ITEM_TOKENS):
            rows = items[i].padded().to(dtype)
            products = rows.flatten(0, 1) @ tokens
            # the maximum runs over whole rows of the products, several times as fast as within them
            scores[i, q] = products.view(*rows.shape[:2], -1).amax(1) @ shares
    return scores


def pair_token_scores(items: TokenRows, queries: TokenRows, item: np.ndarray, query: np.ndarray) -> np.ndarray:
    """float64 scores [P] of the pairs (item[p], query[p])."""
    scores = np.empty(len(item))
    longest, width = (int(each.lengths.max()) for each in (items, queries)), items.values.shape[1]
    P, L = longest
    step = max(1, PAIR_BLOCK // ((P + L) * width + P * L))
    for start in range(0, len(scores), step):
        part = slice(start, start + step)
        asked = queries[query[part]]
        best = (asked.padded().double() @ items[item[part]].padded().double().mT).amax(2).cpu().numpy()
        there = np.arange(best.shape[1]) < asked.lengths[:, None]
        scores[part] = np.where(there, best, 0).sum(1) / asked.lengths
    return scores
