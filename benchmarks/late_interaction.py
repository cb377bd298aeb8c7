"""How long do exact ranks by late interaction take, and how much memory, beside the scores of two other libraries?

    python -m benchmarks.late_interaction                       # 2,000 queries x 20 tokens, 20,000 items x 50 tokens
    python -m benchmarks.late_interaction --items 4000 --rounds 3
    python -m benchmarks.late_interaction --training            # peak memory of the loss and its gradients

The ways, each in a process of its own, in turn; the best of the rounds is shown:
    ours                   rank_retrieval(similarity="late"): exact ranks of both directions, ties counted in float64
    sentence-transformers  util.maxsim (MultiVectorEncoder.similarity), then the rank of each query's own item
    pylate                 scores.colbert_scores on 50 items at a time (its whole scores would not fit), then the same

CPU seconds are those of all threads of the process; beside other jobs they tell more than the clock. Memory is the peak
above the token rows. What is not installed is skipped and said.
"""

import argparse
import multiprocessing
import resource
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

L, P, D = 20, 50, 128
ITEMS_AT_ONCE = 50
NOISE = 2.0  # length of the noise on a token of unit length
BATCHES = (256, 512, 1024, 2048)


def collection(queries: int, items: int) -> tuple[Tensor, Tensor]:
    """Unit rows: items [M, P, D], and queries [N, L, D] whose tokens lie around those of the item of their number."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.empty(items, P, D).normal_(generator=generator)
    rows /= rows.norm(dim=2, keepdim=True)
    asked = torch.empty(queries, L, D).normal_(generator=generator).mul_(NOISE / D**0.5).add_(rows[:queries, :L])
    return functional.normalize(asked, dim=2), rows


def ours(queries: Tensor, items: Tensor) -> float:
    from mmtrain.evaluation import rank_retrieval
    from mmtrain.evaluation.ranking.token_rows import TokenRows

    asked, rows = (TokenRows(each.flatten(0, 1), np.arange(len(each) + 1) * each.shape[1]) for each in (queries, items))
    ranks = rank_retrieval(rows, asked, np.arange(len(queries)), ["en"] * len(queries), similarity="late")
    return 100 * float((ranks.text_to_image["en"].rank == 0).mean())


def recall(scores: Tensor) -> float:
    """R@1 of queries [N, M] whose own item has their number; a tie counts against it."""
    return 100 * ((scores >= scores.diagonal()[:, None]).sum(1) == 1).float().mean().item()


def sentence_transformers(queries: Tensor, items: Tensor) -> float:
    from sentence_transformers.util import maxsim

    return recall(maxsim(queries, items))


def pylate(queries: Tensor, items: Tensor) -> float:
    from pylate.scores import colbert_scores

    return recall(torch.cat([colbert_scores(queries, some) for some in items.split(ITEMS_AT_ONCE)], 1))


WAYS: dict[str, Callable[[Tensor, Tensor], float]] = {
    "ours": ours,
    "sentence-transformers": sentence_transformers,
    "pylate": pylate,
}


@contextmanager
def measured() -> Iterator[list[float]]:
    """Fills in seconds, CPU seconds and megabytes of the peak above what is there."""
    figures: list[float] = []
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start, busy = time.perf_counter(), time.process_time()
    yield figures
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    figures += [time.perf_counter() - start, time.process_time() - busy, peak]


def ranked(way: str, queries: int, items: int, threads: int) -> list[float]:
    torch.set_num_threads(threads)
    WAYS[way](*collection(8, 64))  # what is imported at the first call counts for nobody
    rows = collection(queries, items)
    with measured() as figures, torch.inference_mode():
        r1 = WAYS[way](*rows)
    return [*figures, r1]


def trained(batch: int, threads: int) -> list[float]:
    import losses

    torch.set_num_threads(threads)
    masks = torch.ones(batch, L, dtype=torch.bool), torch.ones(batch, P, dtype=torch.bool)
    few = [each.requires_grad_() for each in collection(8, 8)]
    losses.late_interaction_loss(few[0], masks[0][:8], few[1], masks[1][:8], 20.0).backward()
    queries, items = (each.requires_grad_() for each in collection(batch, batch))
    with measured() as figures:
        losses.late_interaction_loss(queries, masks[0], items, masks[1], 20.0).backward()
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=2_000)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--training", action="store_true")
    options = parser.parse_args()

    def alone(function: Callable[..., list[float]], *arguments: object) -> list[float]:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
            return process.submit(function, *arguments).result()

    if options.training:
        print(f"{'batch':>6} {'seconds':>8} {'CPU s':>8} {'peak MB':>8} {'kB a pair':>10}")
        for batch in BATCHES:
            seconds, busy, megabytes = alone(trained, batch, options.threads)
            print(f"{batch:>6} {seconds:>8.2f} {busy:>8.2f} {megabytes:>8.0f} {1024 * megabytes / batch:>10.0f}")
        return
    best: dict[str, list[float]] = {}
    for _ in range(options.rounds):
        for way in options.only:
            if way != "ours" and find_spec(way.replace("-", "_")) is None:
                print(f"{way}: not installed, skipped")
                continue
            figures = alone(ranked, way, options.queries, options.items, options.threads)
            best[way] = min(best.get(way, figures), figures, key=lambda each: each[1])
    print(f"{options.queries:,} queries x {L} tokens, {options.items:,} items x {P} tokens, width {D}")
    print(f"{'way':<22} {'seconds':>8} {'CPU s':>8} {'times ours':>11} {'peak MB':>9} {'R@1':>7}")
    for way, (seconds, busy, megabytes, r1) in best.items():
        times = busy / best["ours"][1] if "ours" in best else float("nan")
        print(f"{way:<22} {seconds:>8.2f} {busy:>8.2f} {times:>11.2f} {megabytes:>9.0f} {r1:>7.2f}")


if __name__ == "__main__":
    main()
