"""The FAISS index of each kind, filled in linear memory.

flat   every row, exact
ivf    rows in lists around centroids; the lists nearest to the query are read
hnsw   a graph of near neighbours, walked from the top
pq     rows as codes of a byte for each few coordinates
"""

from typing import TYPE_CHECKING, Literal

import numpy as np

from mmtrain.evaluation.ranking.nearest import import_faiss
from mmtrain.evaluation.ranking.tiles import Similarity

if TYPE_CHECKING:
    import faiss

Kind = Literal["flat", "ivf", "hnsw", "pq"]
CHUNK = 65_536  # rows added at once
PQ_CENTROIDS = 256
ROWS_A_CENTROID = 39  # FAISS warns below


def describe_kind(kind: Kind, rows: int, width: int) -> str:
    """FAISS's factory string for so many rows. Raises ValueError for too few rows for pq to learn its codes."""
    if kind == "ivf":
        return f"IVF{max(1, min(round(4 * rows**0.5), rows // ROWS_A_CENTROID))},Flat"
    if kind == "pq":
        if rows < PQ_CENTROIDS:
            raise ValueError(f"--kind: pq learns its codes from at least {PQ_CENTROIDS} pictures, got {rows}; flat")
        codes = next(count for count in range(max(1, width // 4), 0, -1) if width % count == 0)
        return f"PQ{codes}np"  # no polysemous codes: slow to learn, and not used here
    return {"flat": "Flat", "hnsw": "HNSW32,Flat"}[kind]


def build_index(rows: np.ndarray, kind: Kind, similarity: Similarity) -> "faiss.Index":
    """A FAISS index by inner product of rows float32 [N, D], which may lie on disk: they are read in chunks.

    IVF is trained and filled on the GPU where FAISS has one; the index returned is on the CPU.
    """
    faiss = import_faiss()
    index = faiss.index_factory(rows.shape[1], describe_kind(kind, *rows.shape), faiss.METRIC_INNER_PRODUCT)
    if kind == "ivf":
        index.nprobe = max(1, index.nlist // 16)
    if kind == "hnsw":
        index.hnsw.efConstruction, index.hnsw.efSearch = 200, 128
    gpu = kind == "ivf" and hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0
    filled = faiss.index_cpu_to_all_gpus(index, ngpu=1) if gpu else index
    if not filled.is_trained:
        centroids = index.nlist if kind == "ivf" else PQ_CENTROIDS
        count = min(len(rows), 256 * centroids)  # more FAISS does not use
        sample = np.sort(np.random.default_rng(0).choice(len(rows), count, replace=False))
        filled.train(comparable(rows[sample], similarity))
    for start in range(0, len(rows), CHUNK):
        filled.add(comparable(rows[start : start + CHUNK], similarity))
    if gpu:
        nprobe, index = index.nprobe, faiss.index_gpu_to_cpu(filled)
        index.nprobe = nprobe
    return index


def comparable(rows: np.ndarray, similarity: Similarity) -> np.ndarray:
    """Rows float32 [N, D] whose inner products stand for the similarity.

    For unit rows the asymmetric one is near to a product of absolute values:
    ||max(0, |b| - |a|)||^2 + ||max(0, |a| - |b|)||^2 = 2 - 2 <|a|, |b|>.
    """
    return np.ascontiguousarray(np.abs(rows) if similarity == "asymmetric" else rows, dtype=np.float32)
