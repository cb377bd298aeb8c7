"""InfoNCE with negatives beside sentence-transformers, forward and backward on the same rows, in one run.

    pip install sentence-transformers      # beside mmtrain; nothing else of mmtrain needs it
    python -m benchmarks.info_nce          # B = 8192 queries with 7 negatives each, D = 512; an hour on two busy cores
    python -m benchmarks.info_nce --quick  # B = 1024, half a minute

Ours is `losses.info_nce_loss`; theirs are MultipleNegativesRankingLoss and its cached form (which goes through the
scores in mini-batches of 32, their default), given rows in place of a model. First the queries' own softmax alone,
their default, then the mean with the reverse. Time: all alternate in this process, the fastest repetition counts.
Memory: each runs once more in a process of its own; what its resident set grows beyond the rows at its peak counts,
with the rows' gradients. Values and gradients, the temperature's too, are compared with a loop over pairs in float64.
"""

import argparse
import subprocess
import sys
import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import losses
from benchmarks.losses import resident_growth

SCALE = 20.0
D = 512


def rows_of(B: int, n: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Queries [B, D], targets [B, D] and negatives [B, n, D]."""
    random = torch.Generator().manual_seed(0)
    shapes = (B, D), (B, D), (B, n, D)
    return [functional.normalize(torch.randn(each, generator=random), dim=-1).to(dtype) for each in shapes]


class Ours:
    """`info_nce_loss`, forward and backward."""

    name = "info_nce_loss"

    def __init__(self, rows: list[Tensor], both: bool, mini_batch: int) -> None:
        self.leaves = [each.requires_grad_() for each in (*rows, torch.tensor(SCALE))]
        self.both = both

    def step(self) -> float:
        for leaf in self.leaves:
            leaf.grad = None
        queries, targets, negatives, scale = self.leaves
        loss = losses.info_nce_loss(queries, targets, scale, negatives, both=self.both)
        loss.backward()
        return loss.item()

    def gradients(self) -> list[Tensor | None]:
        return [leaf.grad for leaf in self.leaves]


class Theirs:
    """Their plain loss, of one leaf a column."""

    name = "their plain loss"
    kind = "MultipleNegativesRankingLoss"

    def __init__(self, rows: list[Tensor], both: bool, mini_batch: int) -> None:
        from sentence_transformers.sentence_transformer import losses as peers
        from sentence_transformers.util import dot_score

        options: dict[str, Any] = {"scale": SCALE, "similarity_fct": dot_score}  # the rows have unit length already
        if both:
            options |= {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"}
        queries, targets, negatives = rows
        self.parts(queries, targets, *negatives.unbind(1), size=mini_batch)
        self.loss = getattr(peers, self.kind)(nn.Sequential(nn.Identity()), **options, **self.more(mini_batch))

    def parts(self, *columns: Tensor, size: int) -> None:
        self.columns = [each.contiguous().requires_grad_() for each in columns]

    def more(self, mini_batch: int) -> dict[str, int]:
        return {}

    def step(self) -> float:
        for column in self.columns:
            column.grad = None
        loss = self.loss.compute_loss_from_embeddings(self.columns, None)
        loss.backward()
        return loss.item()

    def gradients(self) -> list[Tensor | None]:
        return self.as_ours([column.grad for column in self.columns])

    def as_ours(self, gradients: list[Tensor]) -> list[Tensor | None]:
        return [*gradients[:2], torch.stack(gradients[2:], 1), None]


class TheirsCached(Theirs):
    """The middle step of their gradient cache: the loss and the rows' gradients, mini-batch by mini-batch."""

    name = "their cached loss"
    kind = "CachedMultipleNegativesRankingLoss"

    def parts(self, *columns: Tensor, size: int) -> None:
        self.leaves = [[part.detach().requires_grad_() for part in each.contiguous().split(size)] for each in columns]

    def more(self, mini_batch: int) -> dict[str, int]:
        return {"mini_batch_size": mini_batch}

    def step(self) -> float:
        for leaf in (leaf for column in self.leaves for leaf in column):
            leaf.grad = None
        return self.loss.calculate_loss(self.leaves, with_backward=True).item()

    def gradients(self) -> list[Tensor | None]:
        return self.as_ours([torch.cat([leaf.grad for leaf in column]) for column in self.leaves])


KINDS = {each.name: each for each in (Ours, TheirsCached, Theirs)}


def by_loops(queries: Tensor, targets: Tensor, negatives: Tensor, scale: Tensor, both: bool) -> Tensor:
    """The loss of each query and target by itself, over every pair."""
    everything, terms = torch.cat([targets, negatives.flatten(0, 1)]), []
    for i in range(len(queries)):
        positive = scale * queries[i] @ targets[i]
        terms.append(torch.stack([scale * queries[i] @ each for each in everything]).logsumexp(0) - positive)
        if both:
            terms.append(torch.stack([scale * each @ targets[i] for each in queries]).logsumexp(0) - positive)
    return torch.stack(terms).mean()


def compare_with_loops(both: bool, B: int = 24, n: int = 3) -> None:
    exact = [each.requires_grad_() for each in (*rows_of(B, n, torch.float64), torch.tensor(SCALE).double())]
    right = by_loops(*exact, both)
    expected = torch.autograd.grad(right, exact)
    for name, kind in KINDS.items():
        case = kind(rows_of(B, n), both, 8)
        off = abs(case.step() - right.item())
        pairs = zip(case.gradients(), expected, strict=True)
        errors = [((found - each).norm() / each.norm()).item() for found, each in pairs if found is not None]
        of = "rows and temperature" if len(errors) == 4 else "rows; their temperature is fixed"
        print(f"  {name:18s} value off by {off:.1e}, gradients by {max(errors):.1e} ({of})")


def memory_apart(name: str, options: argparse.Namespace, both: bool) -> float | None:
    """MiB beyond the rows at the peak, in a process of its own; None where it ran out of memory."""
    command = [sys.executable, "-m", "benchmarks.info_nce", "--memory_of", name]
    command += [f"--{each}={getattr(options, each)}" for each in ("B", "n", "mini_batch")]
    answer = subprocess.run(command + ["--both"] * both, capture_output=True, text=True)
    return float(answer.stdout) if answer.returncode == 0 else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="B = 1024")
    parser.add_argument("--B", type=int, default=8192, help="queries")
    parser.add_argument("--n", type=int, default=7, help="negatives of each")
    parser.add_argument("--mini_batch", type=int, default=32, help="of their cached loss")
    parser.add_argument("--repeats", type=int, default=2, help="repetitions of which the fastest counts")
    parser.add_argument("--memory_of", help=argparse.SUPPRESS)
    parser.add_argument("--both", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.B = 1024 if options.quick else options.B
    if options.memory_of:
        kind = KINDS[options.memory_of]
        kind(rows_of(8, options.n), options.both, 8).step()  # what is loaded once does not count
        case = kind(rows_of(options.B, options.n), options.both, options.mini_batch)
        print(resident_growth(case.step))
        return
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} CPU threads; B = {options.B}, n = {options.n}, D = {D}"
    )
    for both in (False, True):
        print(f"\n{'both directions' if both else 'queries alone'}; beside loops in float64 at B = 24, n = 3:")
        compare_with_loops(both)
        memory = {name: memory_apart(name, options, both) for name in KINDS}
        cases = {
            name: KINDS[name](rows_of(options.B, options.n), both, options.mini_batch)
            for name, used in memory.items()
            if used is not None
        }
        times: dict[str, list[float]] = {name: [] for name in cases}
        for _ in range(options.repeats):
            for name, case in cases.items():
                start = time.perf_counter()
                case.step()
                times[name].append(time.perf_counter() - start)
        ours, mine = min(times[Ours.name]), memory[Ours.name]
        for name, used in memory.items():
            if used is None or mine is None:
                print(f"  {name:18s} out of memory")
                continue
            best = min(times[name])
            ratio = f"   ours: {ours / best:.2f} of the time, {mine / used:.2f} of the memory" * (name != Ours.name)
            print(f"  {name:18s} {best:8.2f} s  {used:8.0f} MiB{ratio}")


if __name__ == "__main__":
    main()
