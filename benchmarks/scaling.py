"""Scaling on paper: what a step of ViT-B/16 and XLM-R base should take on 8 and on 64 H200, from counted work.

    python -m benchmarks.scaling    # the tables of docs/scaling.md

No figure here was measured on a GPU. ASSUMED holds what was not counted; put in what `benchmarks.device` measures.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

K, D = 4, 512  # captions of a picture, width of the rows
PICTURE, TEXT = 105.1e9, 11.1e9  # operations, forward and backward, by device_steps.flops_of; TEXT: mean of LENGTHS
PARAMETERS = 364e6
RUN = 1e9  # pictures seen in a training


class Assumption(NamedTuple):
    """A number that nothing here counts."""

    value: float
    meaning: str


ASSUMED = {
    "bf16": Assumption(989e12, "FLOP/s, the data sheet's dense bfloat16"),
    "mfu": Assumption(0.40, "of it that the towers reach; public CLIP runs come to 0.11 to 0.16 on A100"),
    "tf32": Assumption(495e12, "FLOP/s, the data sheet's dense TF32"),
    "product": Assumption(0.60, "of it that the loss's products reach"),
    "memory": Assumption(3.8e12, "bytes/s, 80 % of the data sheet's 4.8 TB/s"),
    "node": Assumption(360e9, "bytes/s of a GPU to the others of its node of 8, 80 % of NVLink's 450 GB/s"),
    "network": Assumption(40e9, "bytes/s of a GPU to other nodes, 80 % of a 400 Gb/s card"),
    "passes": Assumption(18, "times that the loss's plain path goes over a tile of logits, forward and backward"),
    "activations": Assumption(75e6, "bytes that a picture's activations keep; a caption's are a tenth"),
    "room": Assumption(110e9, "bytes of a GPU's 141 GB that activations may have"),
    "price": Assumption(3.0, "USD for a GPU and hour"),
}


@dataclass(frozen=True)
class Step:
    """One step of B pictures with K captions each on n GPUs; times in seconds, sizes in bytes, all of one GPU.

    B x B K logits are never whole: a GPU makes those of its own b K captions with all B pictures. What travels is the
    pictures' rows, B D numbers of 4 bytes, and their gradients; captions stay where they are.
    """

    n: int
    B: int

    @property
    def b(self) -> int:
        return self.B // self.n

    @property
    def parts(self) -> int:
        """Micro-batches that the activations fit into."""
        return -int(-self.b * of("activations") * (1 + K / 10) // of("room"))

    @property
    def towers(self) -> float:
        """Forward and backward; in several parts once more forward, a third."""
        again = 4 / 3 if self.parts > 1 else 1
        return again * self.b * (PICTURE + K * TEXT) / (of("mfu") * of("bf16"))

    @property
    def loss(self) -> float:
        """Four products of b K x B x D, the logits twice, and the passes over tiles of 4 bytes."""
        logits = self.b * K * self.B
        return 4 * 2 * logits * D / (of("product") * of("tf32")) + of("passes") * 4 * logits / of("memory")

    @property
    def gathered(self) -> float:
        """Bytes that come in: rows of the other GPUs' pictures."""
        return (self.n - 1) / self.n * self.B * D * 4

    @property
    def gather(self) -> float:
        """There, and back as gradients."""
        return 2 * self.gathered / self.wire

    @property
    def gradients(self) -> float:
        """A ring's 2 (n - 1) / n of 4 bytes a parameter, none of it hidden behind the backward pass."""
        return 2 * (self.n - 1) / self.n * PARAMETERS * 4 / self.wire

    @property
    def optimiser(self) -> float:
        """Fused AdamW reads weights, gradients and two moments and writes three of them, 4 bytes each."""
        return 7 * 4 * PARAMETERS / of("memory")

    @property
    def wire(self) -> float:
        return of("node" if self.n <= 8 else "network")

    @property
    def seconds(self) -> float:
        return self.towers + self.loss + self.gather + self.gradients + self.optimiser

    @property
    def memory(self) -> float:
        """Weights, gradients, moments; activations of a part; rows of all pictures and of b K captions, each twice."""
        activations = self.b / self.parts * of("activations") * (1 + K / 10)
        return 16 * PARAMETERS + activations + 2 * 4 * D * (self.B + self.b * K)


def of(name: str) -> float:
    return ASSUMED[name].value


STEPS = [Step(n, B) for B in (32768, 262144) for n in (8, 64)]
HEADERS = (
    "| GPUs | B | b | parts | towers, s | loss, ms | gather, ms | gradients, ms | AdamW, ms | step, s | loss, gather |",
    "| GPUs | B | gathered, MB | texts instead, MB | memory, GB | images/s | hours for 1e9 pictures | USD |",
)


def lines() -> Iterator[str]:
    """The tables."""
    yield from (HEADERS[0], "|" + "---|" * 11)
    for each in STEPS:
        small = (each.loss, each.gather, each.gradients, each.optimiser)
        times = " | ".join(f"{1e3 * value:,.0f}" for value in small)
        share = f"{(each.loss + each.gather) / each.seconds:.1%}"
        sizes = f"{each.n} | {each.B:,} | {each.b:,} | {each.parts}"
        yield f"| {sizes} | {each.towers:.2f} | {times} | {each.seconds:.2f} | {share} |"
    yield from ("", HEADERS[1], "|" + "---|" * 8)
    for each in STEPS:
        hours = RUN / each.B * each.seconds / 3600
        sizes = f"{each.gathered / 1e6:,.0f} | {K * each.gathered / 1e6:,.0f} | {each.memory / 1e9:.0f}"
        rate, cost = f"{each.B / each.seconds:,.0f}", f"{hours * each.n * of('price'):,.0f}"
        yield f"| {each.n} | {each.B:,} | {sizes} | {rate} | {hours:.1f} | {cost} |"
    yield from ("", "| assumed | value | what it is |", "|---|---|---|")
    yield from (f"| {name} | {each.value:g} | {each.meaning} |" for name, each in ASSUMED.items())


if __name__ == "__main__":
    print("\n".join(lines()))
