"""`mmtrain index`: the pictures of SHARDS as an index folder."""

from pathlib import Path
from typing import Any, Literal

from mmtrain.commands.usage import Adapter, BatchSize, Device, Folder, Model, Shards, Trust, Workers


def index(
    model: Model,
    *,
    data: Shards,
    out: Folder,
    kind: Literal["flat", "ivf", "hnsw", "pq"] = "flat",
    candidates: int = 100,
    tokens: Literal["float16", "int8"] | None = None,
    budget: int | None = None,
    pooling: Literal["kmeans", "attention"] = "kmeans",
    adapter: Adapter | None = None,
    languages: list[str] | None = None,
    batch_size: BatchSize = 64,
    part_size: int = 1024,
    picture_side: int = 512,
    workers: Workers = 2,
    device: Device | None = None,
    trust: Trust | None = None,
) -> Path:
    """Embeds the pictures of SHARDS and writes a folder: a FAISS index, rows, ids, captions and thumbnails.

    Under torchrun, srun or as a SLURM array every process embeds its share; process 0 joins the parts, which lie in
    `out`.parts until the index is written. An embedding that was stopped goes on with them.

    Args:
        out: Gets a FAISS index, ids, thumbnails and captions.
        kind: Default: flat, which is exact; what the others lose is measured, printed and written to index.json.
        candidates: Pictures that an inexact index proposes, to be scored in full, and those that token rows rank.
        tokens: Keep the pictures' token rows, in this type, by which a text ranks the candidates; what the type loses
            is measured, printed and written to index.json.
        budget: The most token rows of a picture; what is more is pooled.
        pooling: How; default: kmeans, the means of clusters; attention: what the rows that differ most attend to.
        languages: Captions to show; default: all. Samples with none are left out.
        part_size: Samples embedded between two files; a kill costs no more.
        picture_side: Pixels of the longer side of the pictures kept to be shown; smaller ones stay as they are.

    Raises:
        ValueError: when `out` holds something else, nothing can be read, or there are too few pictures for the kind.
    """
    from datamodules.files import room_for, whole_folder
    from mmtrain.embedding.division import parts_beside
    from mmtrain.embedding.parts import EmbeddingParts, TokenOptions
    from mmtrain.embedding.processes import Processes
    from mmtrain.embedding.splits import MeasuredShards
    from mmtrain.evaluation.ranking.nearest import import_faiss
    from mmtrain.models.fingerprint import fingerprint, stamp
    from mmtrain.models.loading import load
    from mmtrain.models.network import NO_HEAD
    from mmtrain.search.building import (
        MEASURED,
        check_target,
        is_done,
        lasting,
        older,
        print_index,
        write_index,
    )
    from mmtrain.search.kinds import describe_kind

    target = Path(out)
    check_target(target)
    sizes = {"candidates": candidates, "part_size": part_size, "picture_side": picture_side, "budget": budget}
    for option, value in sizes.items():
        if value is not None and value < 1:
            raise ValueError(f"--{option}: got {value}, expected at least 1")
    if budget is not None and tokens is None:
        raise ValueError(f"--budget: got {budget} without --tokens, whose number it limits")
    if pooling != "kmeans" and budget is None:
        raise ValueError(f"--pooling: got {pooling} without --budget, which it keeps to")
    import_faiss()
    processes = Processes.launched()
    with parts_beside(target, processes.rank) as folder_of_parts:
        encoder = load(model, device=processes.device(device), trust=trust, adapter=adapter)
        if tokens is not None and encoder.model.multi_dimension is None:
            raise ValueError(f"--tokens: {NO_HEAD}")
        shards = MeasuredShards(
            encoder, data, languages, batch_size, workers, tokenised=False, preview_side=picture_side
        )
        identity = fingerprint(encoder)
        if processes.rank and is_done(target, identity, data):
            return target  # the others needed no help: this one came late
        exact = kind == "flat" and encoder.metric == "cosine"
        samples = len(shards)
        describe_kind(kind, samples, encoder.model.dimension)
        parts = EmbeddingParts(
            folder_of_parts,
            encoder,
            shards,
            fingerprint=identity,
            batch_size=batch_size,
            part_size=part_size,
            text_every=None if exact and tokens is None else -(-samples // MEASURED),
            tokens=None if tokens is None else TokenOptions(tokens, budget, pooling),
        )
        if processes.rank == 0 and (replaced := older(target)) is not None:
            print(f"{target}: replaces the index of {replaced['data']} by {replaced['model']}")
        with room_for(target, parts.room()):
            parts.embed(processes, workers)
            if processes.rank:
                return target
            description: dict[str, Any] = {"model": lasting(model), "fingerprint": identity, "weights": stamp(model)}
            description |= {} if adapter is None else {"adapter": lasting(adapter)}
            description |= {"similarity": encoder.metric, "data": data, "kind": kind, "candidates": candidates}
            with whole_folder(target, check_target) as folder:
                facts = write_index(folder, description, encoder.model.dimension, shards, parts)
        parts.division.remove(processes)
    print_index(target, facts)
    return target
