"""Symile beside pairwise CLIP where no two modalities tell anything about the third: the XOR experiment.

    python -m benchmarks.symile_xor            # p = 0.5, 0.75, 1: about eight minutes on two cores
    python -m benchmarks.symile_xor --quick    # a minute, p = 1

Three modalities of v bits: a and b are fair coins; c = a xor b with probability p for each sample, else c = a. Given a
and c, which of the 2^v candidates is b? The best answer is right with p + (1 - p) / 2^v. Linear encoders, unit rows,
AdamW at 0.1, the weights of the best validation loss. Saporta et al., "Contrasting with Symile", NeurIPS 2024, section
5.1 (their set-up: v = 5, d = 16, 10,000 / 1,000 / 5,000 samples, batches of 1,000).
"""

import argparse
import copy
import math
import time
from itertools import combinations

import torch
from torch import Tensor, nn
from torch.nn import functional

import losses


def draw(samples: int, bits: int, p: float, random: torch.Generator) -> list[Tensor]:
    """a, b and c, float [samples, bits]."""
    a, b = torch.randint(0, 2, (2, samples, bits), generator=random)
    mixed = torch.rand(samples, 1, generator=random) < p
    return [a.float(), b.float(), torch.where(mixed, a ^ b, a).float()]


class Encoders(nn.Module):
    """One linear encoder a modality, and the temperature."""

    def __init__(self, bits: int, dimension: int) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(nn.Linear(bits, dimension) for _ in range(3))
        self.log_scale = nn.Parameter(torch.tensor(-0.3))

    def forward(self, bits: list[Tensor]) -> list[Tensor]:
        return [functional.normalize(encode(x), dim=1) for encode, x in zip(self.encoders, bits, strict=True)]


def loss_of(objective: str, model: Encoders, bits: list[Tensor]) -> Tensor:
    rows, scale = model(bits), model.log_scale.exp()
    if objective == "symile":
        return losses.symile_loss(rows, scale)
    return sum(losses.clip_loss(x, y, scale) for x, y in combinations(rows, 2))


@torch.no_grad()
def accuracy(objective: str, model: Encoders, bits: list[Tensor]) -> float:
    """How often the right b scores highest among all candidates, given a and c."""
    a, b, c = bits
    v = b.shape[1]
    places = torch.arange(v)
    candidates = (torch.arange(2**v)[:, None] >> places & 1).float()
    encode = [lambda x, m=m: functional.normalize(model.encoders[m](x), dim=1) for m in range(3)]
    query = encode[0](a) * encode[2](c) if objective == "symile" else encode[0](a) + encode[2](c)
    guess = (query @ encode[1](candidates).T).argmax(1)
    return (guess == (b.long() << places).sum(1)).float().mean().item()


def train(objective: str, p: float, options: argparse.Namespace) -> tuple[float, float]:
    """Test accuracy and learned scale at the best validation loss."""
    random = torch.Generator().manual_seed(options.seed)
    torch.manual_seed(options.seed)
    train_bits, val_bits, test_bits = (draw(n, options.bits, p, random) for n in (10_000, 1_000, 5_000))
    model = Encoders(options.bits, options.dimension)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.01)
    best, kept = math.inf, model.state_dict()
    for epoch in range(options.epochs):
        for batch in torch.randperm(10_000, generator=random).split(options.batch):
            optimizer.zero_grad()
            loss_of(objective, model, [x[batch] for x in train_bits]).backward()
            optimizer.step()
        if epoch % 5 == 4:
            with torch.no_grad():  # the shuffled loss is a draw: the mean of a few
                value = sum(loss_of(objective, model, val_bits) for _ in range(3)).item() / 3
            if value < best:
                best, kept = value, copy.deepcopy(model.state_dict())
    model.load_state_dict(kept)
    return accuracy(objective, model, test_bits), model.log_scale.exp().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="p = 1 and 15 epochs")
    parser.add_argument("--p", type=float, nargs="+", default=[0.5, 0.75, 1.0], help="shares of c = a xor b")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--bits", type=int, default=5, help="v")
    parser.add_argument("--dimension", type=int, default=16, help="d")
    parser.add_argument("--batch", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.quick:
        options.p, options.epochs = [1.0], 15
    print(f"v = {options.bits}, d = {options.dimension}, {options.epochs} epochs, seed {options.seed}")
    print(
        f"{'p':>5s} {'best possible':>14s} {'Symile':>8s} {'(scale)':>9s} {'CLIP':>8s} {'chance':>8s} {'seconds':>8s}"
    )
    for p in options.p:
        start, chance = time.perf_counter(), 2.0**-options.bits
        (symile, scale), (clip, _) = train("symile", p, options), train("clip", p, options)
        bound, took = p + (1 - p) * chance, time.perf_counter() - start
        print(f"{p:5.2f} {bound:14.3f} {symile:8.3f} {scale:9.1f} {clip:8.3f} {chance:8.3f} {took:8.0f}")


if __name__ == "__main__":
    main()
