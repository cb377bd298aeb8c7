"""`mmtrain mine`: hard negatives of SHARDS, or the items that questions are hard for."""

from pathlib import Path

from mmtrain.commands.usage import BatchSize, Device, File, Folder, Model, Shards, Trust, Workers

DESCRIPTION = "mining.json"


def mine(
    model: Model,
    *,
    data: Shards,
    out: Folder,
    negatives: int = 7,
    across: bool = False,
    languages: list[str] | None = None,
    min_margin: float | None = None,
    max_margin: float | None = None,
    min_score: float | None = None,
    max_score: float | None = None,
    batch_size: BatchSize = 64,
    questions: File | None = None,
    pool: int | None = None,
    samples_per_shard: int = 1024,
    workers: Workers = 2,
    device: Device | None = None,
    trust: Trust | None = None,
) -> Path:
    """Writes SHARDS again with hard negatives: wrong texts that are nearest to a picture or to a query.

    A record gets "negatives" and "negative_ids" (the samples they are from), both by language, and "negative_images",
    the samples whose pictures are nearest to its captions; negatives that it had make room. negatives.jsonl
    shows them for every caption, with scores. Nothing that is said of the same picture or query anywhere in SHARDS is a
    negative. The search is exact.

    Under torchrun, srun or as a SLURM array the processes share the work as in `embed`.

    Args:
        model: A MODEL, or the folder that `embed` wrote of these SHARDS.
        out: Gets the shards, shards.json, negatives.jsonl and mining.json.
        negatives: The most of each caption.
        across: Negatives of any language; without, of the caption's own.
        languages: Of the captions that get negatives and are some; default: all.
        min_margin: How far a negative's score is below the right one's at least.
        max_margin: How far at most.
        min_score: The lowest score of a negative.
        max_score: The highest.
        questions: Writes, in place of negatives, the samples that these questions are hard for: of each question the
            --pool nearest, and what is relevant to it. JSON Lines {"id", "text", "language", "relevant": {id: grade}}.
            pool.jsonl lists them, questions.jsonl has the questions with the names of their pools.
        pool: How many are nearest to a question.
        samples_per_shard: The most samples of a shard; a kill costs no more.

    Raises:
        ValueError: when `out` holds something else, or nothing can be read.
    """
    from datamodules.files import room_for
    from datamodules.reading.whole import WholeSamples
    from mmtrain.display.messages import say
    from mmtrain.embedding.division import parts_beside
    from mmtrain.embedding.processes import Processes
    from mmtrain.embedding.rewriting import RewrittenShards, Sizes, check_folder, said_skips
    from mmtrain.evaluation.questions import read_questions
    from mmtrain.evaluation.ranking.nearest import import_faiss
    from mmtrain.search.building import lasting
    from mmtrain.search.contrasts import read_contrasts
    from mmtrain.search.negatives import LINES, Hardness, MinedShards
    from mmtrain.search.pools import PooledShards
    from mmtrain.search.rows import open_rows

    target = Path(out)
    check_folder(target, DESCRIPTION)
    if (questions is None) != (pool is None) or (pool is not None and pool < 1):
        raise ValueError(f"--questions, --pool: got {questions} and {pool}, expected both or none, --pool at least 1")
    import_faiss()
    sizes = Sizes(batch_size, samples_per_shard)
    hardness = Hardness(negatives, across, min_margin, max_margin, min_score, max_score)
    asked = [] if questions is None else read_questions(questions)
    processes = Processes.launched()
    with parts_beside(target, processes.rank) as parts:
        rows = open_rows(model, data, parts, sizes, device=processes.device(device), trust=trust)
        samples = WholeSamples.named(data)
        what = [rows.identity, vars(hardness), languages, pool, [each.record for each in asked]]
        shards = RewrittenShards(parts, samples, ["mined", what], sizes, further=[] if asked else [LINES])

        if shards.is_done(target, DESCRIPTION, processes):
            return target
        with room_for(target):
            if not rows.make(processes, workers):
                return target  # process 0 does the rest
            found = rows.read(samples)
            mined: MinedShards | PooledShards
            if pool is None:
                contrasts = read_contrasts(found, len(samples), languages)
                mined = MinedShards(contrasts, hardness, rows.similarity, shards)
            else:
                mined = PooledShards(asked, found, pool, rows.similarity, rows.encoder)
            shards.make(processes, mined.begin, workers, "mining")
            if processes.rank:
                return target
            facts = {"model": lasting(model), "data": data, "similarity": rows.similarity, **vars(hardness)}
            facts |= {"languages": languages, "questions": questions, "pool": pool}
            listing = shards.put(target, DESCRIPTION, facts, mined.join)
        shards.division.remove(processes)
    written = f"{listing['samples']:,} samples in {len(listing['shards'])} shards"
    say(f"{target}: {mined.said}; {written}{said_skips(listing)}")
    return target
