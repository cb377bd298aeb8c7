"""The rows of SHARDS for a search: those that `mmtrain embed` wrote, or made here."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datamodules.reading.whole import WholeSample, WholeSamples, runs
from datamodules.shards.samples import read_features
from mmtrain.embedding.processes import Processes
from mmtrain.embedding.rewriting import RewrittenShards, Sizes, described, shard_name
from mmtrain.embedding.rows import DESCRIPTION, TEXT_ROWS, RowFiles, row_shards
from mmtrain.evaluation.ranking.tiles import Similarity
from mmtrain.models.encoder import Encoder
from mmtrain.models.loading import load

OTHERS = "holds rows of other samples than --data, or broken ones; embed these anew"


@dataclass
class RowSample:
    """A sample with its rows.

    Attributes:
        row: Its place among all samples of SHARDS.
        sample: As it lies in the shard of rows.
        image: float32 [D] or [P, W]; None without a picture.
        rows: Of "captions", "query" and so on float32 [n, D].
    """

    row: int
    sample: WholeSample
    image: np.ndarray | None
    rows: dict[str, np.ndarray]


@dataclass
class Rows:
    """Where the rows of SHARDS are.

    Attributes:
        identity: Equal for equal rows.
        similarity: What they are compared by.
        encoder: The model; None where the rows were there already.
    """

    identity: str
    similarity: Similarity
    encoder: Encoder | None
    _shards: Sequence[Path]
    _runs: Sequence[range]
    _to_make: tuple[RewrittenShards, RowFiles] | None = None

    def make(self, processes: Processes, workers: int) -> bool:
        """Makes them with the other processes; False in one that is no longer needed or waits in vain."""
        if self._to_make is None:
            return True
        shards, files = self._to_make
        shards.make(processes, lambda number: files, workers, "embedding")
        return processes.rank == 0 or shards.division.wait()

    def remove(self, processes: Processes) -> None:
        """Removes those that were made, as `Division.remove` does."""
        if self._to_make is not None:
            self._to_make[0].division.remove(processes)

    def read(self, samples: WholeSamples) -> Iterator[RowSample]:
        """The samples that have rows, in the order of `samples`, those of SHARDS.

        Raises:
            ValueError: when the rows are of other samples.
        """
        for shard, run in zip(self._shards, self._runs, strict=True):
            found, rows = WholeSamples([str(shard)], features=True), iter(run)
            for number in range(len(found)):
                sample = found[number]
                row = next((row for row in rows if samples.key(row) == found.key(number)), None)
                if row is None or not isinstance(sample, WholeSample):
                    raise ValueError(f"{shard}: {OTHERS}")
                own = {
                    name: read_features(sample.files[file]) for name, file in TEXT_ROWS.items() if sample.texts[name]
                }
                yield RowSample(row, sample, sample.image, own)


def open_rows(
    model: str,
    data: str,
    folder: Path,
    sizes: Sizes,
    *,
    device: str,
    trust: Sequence[str] | None,
) -> Rows:
    """The rows of SHARDS under a MODEL, to be made in `folder`; or those in the folder that `embed` wrote of them.

    Raises:
        ValueError: for a MODEL that cannot be loaded, and for tokens in place of rows.
    """
    written = described(Path(model), DESCRIPTION)
    if written is None:
        encoder = load(model, device=device, trust=trust)
        shards, files, _ = row_shards(folder, encoder, data, sizes)
        paths = [shards.division.path(number, "tar") for number in range(shards.division.count)]
        return Rows(shards.identity, encoder.metric, encoder, paths, shards.runs, (shards, files))
    if written["tokens"]:
        raise ValueError(f"{model}: holds tokens in place of rows; embed without --tokens")
    made_from = runs(WholeSamples.named(data), written["samples_per_shard"])
    there = {path: run for number, run in enumerate(made_from) if (path := Path(model) / shard_name(number)).is_file()}
    if len(there) < len(list(Path(model).glob("*.tar"))):
        raise ValueError(f"{model}: {OTHERS}")
    return Rows(written["identity"], written["similarity"], None, list(there), list(there.values()))
