"""One table from one GPU: training steps, losses, compile, FSDP2, loader and search, ours beside open_clip's.

    python -m benchmarks.device            # at most eight minutes on an H200
    python -m benchmarks.device --small    # the same rows shrunken, on any machine, in a minute or two

Nothing is fetched: towers have random weights, pictures and tokens are random numbers, shards are made here. A step is
forward, backward and AdamW in bfloat16 autocast. Texts have 8 to 40 tokens, 22 on average: ours reads them by length in
four buckets, open_clip pads to 77 as its tokenizer does, and once more to the longest of the batch. Where a picture has
K captions open_clip sees it K times, since it has no other way. images/s counts each picture once.

MFU = F / (t P). F: floating-point operations of what goes through the towers in a step, forward and backward, which
torch's FlopCounterMode counts on one picture and on one text of each length, without padding, recomputation and the
loss. t: seconds of the step, mean of ten. P: the peak of dense bfloat16 products in the data sheet. tokens/s: patches
and words of the same. Rows stand in the order of their worth, each within a time of its own.
"""

import argparse
from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.capped_rows import HEADER, NONE, Line, Row, markdown, measured
from benchmarks.device_steps import (
    B16,
    B32,
    L14,
    SMALL,
    compiled_row,
    divided_row,
    largest_row,
    loader_row,
    loss_row,
    product_row,
    search_row,
    step_row,
)


def rows(small: bool) -> list[Row]:
    """In the order of their worth."""
    if small:
        return [
            Row("bf16 product", 300, partial(product_row, 64)),
            Row("step, K = 1", 300, partial(step_row, SMALL, 4, 1)),
            Row("step, K = 4", 300, partial(step_row, SMALL, 4, 4)),
            Row("loss", 300, partial(loss_row, 64, 16)),
            Row("loss, K = 4", 300, partial(loss_row, 16, 16, 4)),
            Row("step, micro_batch", 300, partial(step_row, SMALL, 8, 4, False, 2)),
            Row("largest B of the loss", 300, partial(largest_row, 64, 128, 16, 20)),
            Row("step, compiled", 300, partial(compiled_row, SMALL, 4)),
            Row("loader", 300, partial(loader_row, 16, 1, 32, 4)),
            Row("search", 300, partial(search_row, 1000, 16)),
            Row("step, FSDP2", 300, partial(divided_row, SMALL, 4)),
        ]
    return [
        Row("bf16 product, 8,192", 90, partial(product_row, 8192)),
        Row("step, ViT-B/16, K = 1", 75, partial(step_row, B16, 1024, 1)),
        Row("step, ViT-B/16, K = 4", 75, partial(step_row, B16, 256, 4)),
        Row("loss, B = 65,536", 30, partial(loss_row, 65536, 512)),
        Row("step, ViT-L/14, K = 1", 60, partial(step_row, L14, 256, 1)),
        Row("loss, B = 65,536, K = 4", 30, partial(loss_row, 65536, 512, 4)),
        Row("largest B of the loss", 50, partial(largest_row, 65536, 2**20, 512, 20)),
        Row("step, ViT-B/32, K = 1", 45, partial(step_row, B32, 2048, 1)),
        Row("step, ViT-B/16, K = 4, micro_batch 512", 45, partial(step_row, B16, 2048, 4, False, 512)),
        Row("step, ViT-B/16, K = 1, compiled", 120, partial(compiled_row, B16, 1024)),
        Row("loader", 90, partial(loader_row, 8192, 15, 224, 64)),
        Row("search", 30, partial(search_row, 1_000_000, 512)),
        Row("step, ViT-B/16, K = 1, FSDP2", 45, partial(divided_row, B16, 1024)),
    ]


def reached(found: dict[tuple[str, str], Line]) -> Iterator[str]:
    """The figures to reach, of those lines that there are."""
    for K, wanted in ((1, 1.3), (4, 1.8)):
        ours, theirs = (found.get((f"step, ViT-B/16, K = {K}", whose)) for whose in ("ours", "open_clip, 77 tokens"))
        factor = f"{ours.images / theirs.images:.2f}" if ours and theirs and ours.images and theirs.images else NONE
        yield f"- images a second at K = {K} as a multiple of open_clip's: {factor} (wanted: {wanted})"
    large = found.get(("step, ViT-L/14, K = 1", "ours"))
    yield f"- MFU of ViT-L/14: {f'{large.mfu:.1%}' if large and large.mfu else NONE} (wanted: 45%)"
    loss, step = found.get(("loss, B = 65,536", "ours")), found.get(("step, ViT-B/16, K = 1", "ours"))
    share = NONE
    if loss and step and loss.milliseconds and step.images:
        share = f"{loss.milliseconds * step.images / 65536 / 1e3:.1%}"
    yield f"- the loss at B = 65,536 as a share of the towers' time for as many pictures: {share} (wanted: below 10%)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="tiny towers and batches")
    parser.add_argument("--only", default="", help="rows whose name holds this")
    parser.add_argument("--minutes", type=float, default=8, help="for the whole table")
    options = parser.parse_args()
    if not options.small and not torch.cuda.is_available():
        raise SystemExit(f"benchmarks.device: {NONE}: no CUDA device here; --small shows the rows on any machine")
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    print(f"{where}, torch {torch.__version__}, float32 products in TF32\n\n{HEADER}", flush=True)
    found = {}
    for name, each in measured([row for row in rows(options.small) if options.only in row.name], 60 * options.minutes):
        found[name, each.whose] = each
        print(markdown(name, each), flush=True)
    print("\n" + "\n".join(reached(found)))


if __name__ == "__main__":
    main()
