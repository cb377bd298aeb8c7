"""Time and extra peak memory of our losses beside their peers', forward and backward, in one run.

    python -m benchmarks.losses            # the sizes of the README's table; about ten minutes on two cores
    python -m benchmarks.losses --quick    # a minute

Time: ours and the peer's alternate in this process, the minimum of the repetitions counts. Memory: each runs once more
in a process of its own; what its resident set grows beyond the inputs at its peak (on CUDA: what the allocator hands
out beyond them) counts, gradients of the inputs included. Peers: open_clip's ClipLoss from PyPI, and the dense forms of
the 1-to-K loss (label matrices over all pairs, as CCRK's code), of the pivot ranking loss (B x B x D in parts) and of
the cross-entropy of 64 x 64 tokens over 262,144 words. Hard negatives of ITM are drawn beside a loop over the rows, as
ALBEF's code draws them; that is time alone.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import losses

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def open_clip_loss(image: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    from open_clip.loss import ClipLoss

    return ClipLoss()(image, texts[:, 0], scale)


def dense_one_to_k(image: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    """Logits [B, B K] and a label matrix for each direction."""
    B, K, _ = texts.shape
    logits = scale * image @ texts.flatten(0, 1).T
    labels = torch.eye(B, device=image.device).repeat_interleave(K, 1)
    image_to_text = -(logits.log_softmax(1) * labels).sum(1).mean() / K
    text_to_image = -(logits.T.log_softmax(1) * labels.T).sum(1).mean()
    return (image_to_text + text_to_image) / 2


def dense_pivot(image: Tensor, texts: Tensor, scale: Tensor, rows: int = 32, margin: float = 0.05) -> Tensor:
    """The B x B x D tensor of excesses, some rows at a time, recomputed in the backward pass."""

    def part(image: Tensor, text: Tensor) -> Tensor:
        return -(text.abs()[None] - image.abs()[:, None]).relu().square().sum(2)

    text = texts[:, 0]
    scores = torch.cat([checkpoint(part, some, text, use_reentrant=False) for some in image.split(rows)])
    positive = scores.diagonal()
    hinges = (margin - positive[:, None] + scores).relu() + (margin - positive[None] + scores).relu()
    return hinges.masked_fill(torch.eye(len(image), dtype=torch.bool, device=image.device), 0.0).sum()


def token_inputs(image: Tensor, texts: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features [N, 64, D], the rows of B K words, a token for each place, and a mask of all."""
    tokens = torch.arange(len(image), device=image.device).view(-1, 64) * 7919 % (texts.shape[0] * texts.shape[1])
    return image.view(-1, 64, image.shape[1]), texts.flatten(0, 1), tokens, torch.ones_like(tokens, dtype=torch.bool)


def tiled_tokens(image: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    return losses.linear_token_loss(*token_inputs(image, texts))


def dense_tokens(image: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    features, weight, tokens, mask = token_inputs(image, texts)
    return losses.token_loss(features @ weight.T, tokens, mask)


@dataclass
class Case:
    """One loss at one size: ours and the peer's take image [B, D], texts [B, K, D] and the scale."""

    name: str
    peer: str
    ours: Loss
    theirs: Loss
    B: int
    K: int
    D: int

    def inputs(self, device: str) -> list[Tensor]:
        dtype = torch.bfloat16 if device == "cuda" else torch.float32
        random = torch.Generator(device).manual_seed(0)
        tensors = []
        for shape in ((self.B, self.D), (self.B, self.K, self.D)):
            rows = torch.randn(shape, generator=random, device=device)
            rows /= rows.norm(dim=-1, keepdim=True)
            tensors.append(rows.to(dtype).requires_grad_())
        return [*tensors, torch.tensor(20.0, device=device, requires_grad=True)]


def cases(device: str, quick: bool) -> dict[str, Case]:
    def clip(image: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
        return losses.clip_loss(image, texts[:, 0], scale)

    def pivot(image: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
        return losses.pivot_ranking_loss(image, texts)

    sizes = {"clip": (16384, 1, 512), "one_to_k": (4096, 8, 512), "pivot": (1024, 1, 1024), "tokens": (4096, 64, 64)}
    if device == "cuda":
        sizes = {
            "clip": (65536, 1, 1024),
            "one_to_k": (8192, 8, 1024),
            "pivot": (1024, 1, 1024),
            "tokens": (4096, 64, 768),
        }
    if quick:
        sizes = {"clip": (2048, 1, 512), "one_to_k": (512, 8, 512), "pivot": (256, 1, 1024), "tokens": (1024, 16, 64)}
    return {
        "clip": Case("clip_loss", "open_clip ClipLoss", clip, open_clip_loss, *sizes["clip"]),
        "one_to_k": Case(
            "one_to_k_loss", "dense, label matrices", losses.one_to_k_loss, dense_one_to_k, *sizes["one_to_k"]
        ),
        "pivot": Case("pivot_ranking_loss, asymmetric", "dense, in parts", pivot, dense_pivot, *sizes["pivot"]),
        "tokens": Case("linear_token_loss of B K words", "token_loss", tiled_tokens, dense_tokens, *sizes["tokens"]),
    }


def seconds(loss: Loss, inputs: list[Tensor]) -> float:
    """One forward and backward pass."""
    for tensor in inputs:
        tensor.grad = None
    if inputs[0].is_cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    loss(*inputs).backward()
    if inputs[0].is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def resident(field: str) -> float:
    """VmRSS (now) or VmHWM (peak) of this process in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def resident_growth(work: Callable[[], object]) -> float:
    """MiB that this process grows by at the peak of the work."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from what is resident now
    before = resident("VmRSS")
    work()
    return resident("VmHWM") - before


def extra_memory(loss: Loss, case: Case, device: str) -> float:
    """MiB beyond the inputs at the peak of one pass; to be called in a fresh process."""
    small = Case(case.name, case.peer, case.ours, case.theirs, 64, case.K, 8)
    seconds(loss, small.inputs(device))  # threads and libraries are loaded before anything is measured
    inputs = case.inputs(device)
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        seconds(loss, inputs)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    return resident_growth(lambda: seconds(loss, inputs))


def measured_apart(case: str, whose: str, device: str, quick: bool) -> float | None:
    """`extra_memory` in a process of its own; None where it ran out of memory."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.losses",
        "--memory_of",
        case,
        whose,
        "--device",
        device,
        *(["--quick"] if quick else []),
    ]
    answer = subprocess.run(command, capture_output=True, text=True)
    return float(answer.stdout) if answer.returncode == 0 else None


def table(device: str, quick: bool, repeats: int, only: list[str]) -> None:
    for key, case in cases(device, quick).items():
        if only and key not in only:
            continue
        memory = {whose: measured_apart(key, whose, device, quick) for whose in ("ours", "theirs")}
        times: dict[str, list[float]] = {"ours": [], "theirs": []}
        inputs = case.inputs(device)
        for _ in range(repeats + 1):
            for whose, found in times.items():
                if memory[whose] is not None:
                    found.append(seconds(getattr(case, whose), inputs))
        best = {whose: min(found[1:], default=float("nan")) for whose, found in times.items()}
        print(f"\n{case.name}  B = {case.B}, K = {case.K}, D = {case.D}, {device}, {inputs[0].dtype}")
        for whose, name in (("ours", "ours"), ("theirs", case.peer)):
            size = "out of memory" if memory[whose] is None else f"{memory[whose]:9.0f} MiB"
            print(f"  {name:26s} {best[whose]:8.3f} s  {size}")
        if None not in memory.values():
            time_ratio, memory_ratio = best["ours"] / best["theirs"], memory["theirs"] / memory["ours"]
            print(f"  {'ratio':26s} {time_ratio:8.2f}    1/{memory_ratio:.1f}")
    if not only or "drawing" in only:
        drawing(device, quick, repeats)


def draw_in_a_loop(scores: Tensor, positives: Tensor) -> Tensor:
    weights = scores.softmax(1).masked_fill(positives, 0.0)
    return torch.tensor([torch.multinomial(row, 1).item() for row in weights])


def drawing(device: str, quick: bool, repeats: int) -> None:
    """A hard negative for each of B rows among B columns."""
    B = 512 if quick else 4096
    random = torch.Generator(device).manual_seed(0)
    scores = torch.randn(B, B, generator=random, device=device)
    positives = torch.eye(B, dtype=torch.bool, device=device)
    times: dict[str, list[float]] = {"hard_negatives": [], "a loop over the rows": []}
    for _ in range(repeats + 1):
        for draw, found in zip((losses.hard_negatives, draw_in_a_loop), times.values(), strict=True):
            start = time.perf_counter()
            draw(scores, positives).tolist()  # waits for a GPU too
            found.append(time.perf_counter() - start)
    print(f"\nhard negatives drawn  B = {B}, {device}")
    for name, found in times.items():
        print(f"  {name:26s} {min(found[1:]):8.3f} s")


def largest_batch(device: str) -> None:
    """Doubles B until clip_loss no longer fits."""
    case = cases(device, quick=False)["clip"]
    for whose in ("ours", "theirs"):
        case.B, fits = 65536, 0
        while case.B <= 2**22:
            try:
                seconds(getattr(case, whose), case.inputs(device))
            except torch.OutOfMemoryError:
                break
            fits, case.B = case.B, 2 * case.B
            torch.cuda.empty_cache()
        print(f"  largest power of two that fits, {whose}: B = {fits}{'' if case.B <= 2**22 else ' or more'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--repeats", type=int, default=3, help="repetitions of which the fastest counts")
    parser.add_argument(
        "--case",
        action="append",
        default=[],
        choices=["clip", "one_to_k", "pivot", "tokens", "drawing"],
        help="default: all",
    )
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help=argparse.SUPPRESS)
    parser.add_argument("--memory_of", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        case = cases(options.device, options.quick)[options.memory_of[0]]
        print(extra_memory(getattr(case, options.memory_of[1]), case, options.device))
        return
    print(f"torch {torch.__version__}, {torch.get_num_threads()} CPU threads")
    table("cpu", options.quick, options.repeats, options.case)
    if torch.cuda.is_available():
        # bfloat16 rows are exact in TF32, and so are the logits made of them.
        torch.set_float32_matmul_precision("high")
        print(f"\n{torch.cuda.get_device_name()}, float32 products in TF32")
        table("cuda", options.quick, options.repeats, options.case)
        if not options.quick:
            largest_batch("cuda")
    else:
        print("\nCUDA, bfloat16 rows, B = 65536, D = 1024: not measured (no CUDA device here)")


if __name__ == "__main__":
    main()
