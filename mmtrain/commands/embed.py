"""`mmtrain embed`: the rows of SHARDS as shards."""

from pathlib import Path
from typing import Literal

from mmtrain.commands.usage import Adapter, BatchSize, Device, Folder, Model, Shards, Trust, Workers


def embed(
    model: Model,
    *,
    data: Shards,
    out: Folder,
    tokens: bool = False,
    multi: bool = False,
    dtype: Literal["float16", "float32"] = "float32",
    batch_size: BatchSize = 64,
    samples_per_shard: int = 1024,
    workers: Workers = 2,
    device: Device | None = None,
    adapter: Adapter | None = None,
    trust: Trust | None = None,
) -> Path:
    """Embeds SHARDS and writes them again with rows in the place of pictures, for a FeatureTower, a teacher or `mine`.

    <key>.npy is the picture's row [D], <key>.texts.npy the rows [n, D] of the captions in the order of the record,
    <key>.query.npy, positive.npy and negatives.npy those of such texts. The record and all other files stay as they
    are; a sample without a picture has rows of texts alone.

    Under torchrun, srun or as a SLURM array every process makes its share of the shards; process 0 puts them into
    `out`. They lie in `out`.parts until all are there; what was stopped goes on with them.

    Args:
        out: Gets the shards, shards.json and embedding.json, which says of what model the rows are.
        tokens: <key>.npy is the image tower's tokens [P, W].
        multi: All are token rows of a model with a head for them: [P, d] of a picture, [n, L, d] of texts.
        dtype: Of the rows.
        samples_per_shard: The most samples of a shard; a kill costs no more.

    Raises:
        ValueError: when `out` holds something else, or nothing can be read.
    """
    from datamodules.files import room_for
    from mmtrain.display.messages import say
    from mmtrain.embedding.division import parts_beside
    from mmtrain.embedding.processes import Processes
    from mmtrain.embedding.rewriting import Sizes, check_folder, said_skips
    from mmtrain.embedding.rows import DESCRIPTION, row_shards
    from mmtrain.models.loading import load
    from mmtrain.search.building import lasting

    target = Path(out)
    check_folder(target, DESCRIPTION)
    sizes = Sizes(batch_size, samples_per_shard)
    processes = Processes.launched()
    with parts_beside(target, processes.rank) as parts:
        encoder = load(model, device=processes.device(device), trust=trust, adapter=adapter)
        shards, rows, facts = row_shards(parts, encoder, data, sizes, dtype=dtype, tokens=tokens, multi=multi)
        if shards.is_done(target, DESCRIPTION, processes):
            return target
        with room_for(target):
            shards.make(processes, lambda number: rows, workers, "embedding")
            if processes.rank:
                return target
            facts |= {"model": lasting(model), "data": data} | (
                {} if adapter is None else {"adapter": lasting(adapter)}
            )
            listing = shards.put(target, DESCRIPTION, facts)
        shards.division.remove(processes)
    what = "token rows" if multi else "tokens" if tokens else f"rows of {facts['width']}"
    say(
        f"{target}: {listing['samples']:,} samples in {len(listing['shards'])} shards, {what}, {dtype}"
        + said_skips(listing)
    )
    return target
