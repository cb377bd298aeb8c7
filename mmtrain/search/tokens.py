"""Token rows of the pictures of an index, on disk until read, and late interaction with them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmtrain.embedding.parts import PartTokens
from mmtrain.models.token_rows import restored

TOKENS, STARTS, CLUSTERS = "tokens.npy", "token_starts.npy", "token_clusters.npy"
TOKEN_FILES = (TOKENS, STARTS, CLUSTERS)
QUERIES = 1000  # captions, at most, by which the loss of fewer bits is measured


class TokenStore:
    """The token rows of an index folder.

    Attributes:
        clusters: int16 [N, P], the row that stands for each patch of a picture; [N, 0] where there are no patches.

    Raises:
        ValueError: where a file is missing or does not fit the others.
    """

    def __init__(self, folder: Path, items: int) -> None:
        try:
            self._rows, self._starts, self.clusters = (np.load(folder / name, mmap_mode="r") for name in TOKEN_FILES)
        except (OSError, ValueError) as error:
            raise ValueError(f"DIR: {folder} is no complete index ({error}); index again") from error
        if self._starts.shape != (items + 1,) or self._starts[-1] != len(self._rows) or len(self.clusters) != items:
            raise ValueError(f"DIR: {folder} is no complete index ({TOKENS} and {STARTS} differ); index again")

    @property
    def width(self) -> int:
        """d, of a token row."""
        return self._rows.shape[1]

    @property
    def count(self) -> int:
        """Rows of all items together."""
        return len(self._rows)

    def rows(self, number: int) -> np.ndarray:
        """Unit rows float32 [l, d] of an item."""
        return restored(self._stored(number))

    def scores(self, query: np.ndarray, numbers: Sequence[int] | np.ndarray) -> np.ndarray:
        """`late_scores` of a query's token rows [L, d] and the items of these numbers: float32 [C]."""
        return late_scores(query, [self._stored(number) for number in numbers])

    def _stored(self, number: int) -> np.ndarray:
        return self._rows[self._starts[number] : self._starts[number + 1]]


def late_scores(query: np.ndarray, items: Sequence[np.ndarray]) -> np.ndarray:
    """The mean over a query's token rows of the largest cosine with any of an item's: float32 [C].

    Args:
        query: float32 [L, d], unit rows.
        items: C of [l, d] each, of any length and type: the cosine is that of their directions.
    """
    if not items:
        return np.zeros(0, np.float32)
    rows = np.concatenate(items).astype(np.float32)
    cosines = query @ rows.T / np.sqrt(np.einsum("nd,nd->n", rows, rows)).clip(1e-12)
    starts = np.cumsum([0, *map(len, items[:-1])])
    return np.maximum.reduceat(cosines, starts, axis=1).mean(0)


class TokenWriter:
    """Writes the token rows of items in their order; the files are complete after `close`."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._counts = folder, [0]
        self._clusters: list[np.ndarray] = []
        self._file: Any = None

    def add(self, tokens: PartTokens, chosen: Iterable[int]) -> None:
        """Adds those of these pictures of a part."""
        ends = np.cumsum(tokens.counts)
        if self._file is None:  # the header says how many rows there are, and is written again at the end
            self._file, self._layout = (self._folder / TOKENS).open("wb"), (tokens.rows.dtype, tokens.rows.shape[1])
            self._write_header(0)
        for place in chosen:
            self._file.write(tokens.rows[ends[place] - tokens.counts[place] : ends[place]].tobytes())
            self._counts.append(int(tokens.counts[place]))
            self._clusters.append(tokens.clusters[place])

    def close(self) -> None:
        starts = np.cumsum(self._counts)
        self._file.seek(0)
        self._write_header(int(starts[-1]))
        self._file.close()
        np.save(self._folder / STARTS, starts)
        np.save(self._folder / CLUSTERS, np.stack(self._clusters))

    def _write_header(self, rows: int) -> None:
        dtype, width = self._layout
        # as long for any number of rows: numpy leaves room for a growing first axis
        header = {"descr": dtype.str, "fortran_order": False, "shape": (rows, width)}
        np.lib.format.write_array_header_1_0(self._file, header)


@dataclass
class Measured:
    """Exact token rows of sampled items, and of captions with the items that they belong to."""

    items: dict[int, np.ndarray]
    texts: list[tuple[np.ndarray, int]]

    def add(self, tokens: PartTokens, items: np.ndarray, item_of_text: np.ndarray) -> None:
        """Adds a part's, whose pictures are `items` [n]."""
        exact = np.split(tokens.exact, np.cumsum(tokens.exact_counts)[:-1])
        self.items |= {int(item): rows for item, rows in zip(items, exact, strict=True) if len(rows)}
        texts = np.split(tokens.texts, np.cumsum(tokens.text_counts)[:-1]) if len(item_of_text) else []
        self.texts += zip(texts, item_of_text.tolist(), strict=True)

    def loss(self, store: TokenStore) -> dict[str, Any] | None:
        """What the stored rows lose, by captions of sampled pictures among these pictures; None without captions.

        {"queries", "items", "R@1_exact", "R@1", "largest"}: percent with exact and with stored rows, and the largest
        difference of a score.
        """
        step = max(1, -(-len(self.texts) // QUERIES))
        texts, numbers = self.texts[::step], np.array(sorted(self.items))
        if not texts:
            return None
        rows = {True: [self.items[number] for number in numbers], False: [store.rows(number) for number in numbers]}
        hits, largest = {True: 0, False: 0}, 0.0
        for query, item in texts:
            scores = {exact: late_scores(query, each) for exact, each in rows.items()}
            largest = max(largest, float(np.abs(scores[True] - scores[False]).max()))
            for exact, each in scores.items():
                hits[exact] += int(each[numbers == item].max() >= each.max())
        shares = {
            name: round(100 * hits[exact] / len(texts), 2) for name, exact in (("R@1_exact", True), ("R@1", False))
        }
        return {"queries": len(texts), "items": len(numbers), **shares, "largest": round(largest, 5)}
