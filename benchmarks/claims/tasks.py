"""One adapter a task, or one for both: scans that are to be found by their number, and by their hand.

jina-embeddings-v4 (Günther et al. 2025) keeps a low-rank adapter for each task beside one frozen model. Two tasks that
pull apart: by number, a scan of a handwritten digit is to be near all scans of that digit; by hand, near that very scan
alone, of which half of the pixels were lost. A small network learns both at once, and is frozen. Then adapters learn on
the same batches: one for each task, one for both of the same rank, one for both of twice the rank, which has as many
weights. Scikit-learn's scans; training and test share none. By number: mean average precision of test scans among each
other, right are those of the same digit. By hand: R@1 among all test scans.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from benchmarks.claims.record import Claim, Expected, Figures, Recipe, Runs
from benchmarks.number_features import Schedule, optimise
from datamodules.numbers.corpus import SCANS
from losses import info_nce_loss
from mmtrain.models.adapters import Adapter
from mmtrain.models.image_text import ImageTextModel
from mmtrain.towers import ByteGRU, ImageTower

PIXELS, WIDTH, DIMENSION, RANK = 64, 128, 32, 8
BASE, SCHEDULE = Schedule(steps=300, batch=64), Schedule(steps=600, batch=64)
BASE_RATE, RATE, SCALE = 2e-3, 8e-3, 20.0  # not searched
LOST = 0.5  # share of the pixels
OWN, SHARED, WIDER = "an adapter each", "one for both", "one for both, twice the rank"
FROZEN = "none, the frozen model"
ADAPTERS = {
    FROZEN: {},
    OWN: {"number": Adapter(RANK), "hand": Adapter(RANK)},
    SHARED: {"both": Adapter(RANK)},
    WIDER: {"both": Adapter(2 * RANK)},
}


class Scans(ImageTower):
    """Three linear layers over pixels [N, 64]."""

    def __init__(self) -> None:
        super().__init__()
        self.width = WIDTH
        layers = (nn.Linear(PIXELS, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH))
        self.network = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        pooled = self.network(images)
        return pooled, pooled[:, None]


def scans(split: str) -> tuple[Tensor, Tensor]:
    """Pixels float [N, 64] from 0 to 1 and digits int64 [N]."""
    digits = load_digits()
    part = SCANS[split]
    return torch.from_numpy(digits.data[part]).float() / 16, torch.from_numpy(digits.target[part]).long()


def damaged(pixels: Tensor, random: np.random.Generator) -> Tensor:
    return pixels * torch.from_numpy(random.random(pixels.shape) >= LOST).float()


def measured(recipe: str, seed: int, split: str) -> Figures:
    """Mean average precision by number and R@1 by hand, in percent."""
    torch.manual_seed(seed)
    model, random = ImageTextModel(Scans(), ByteGRU(2, 2), DIMENSION), np.random.default_rng(seed)
    pixels, digits = scans("train")
    of_digit = [(digits == digit).nonzero()[:, 0].numpy() for digit in range(10)]

    def loss() -> Tensor:
        places = random.permutation(len(pixels))[: SCHEDULE.batch]
        alike = np.array([random.choice(of_digit[digit]) for digit in digits[places].tolist()])
        inputs = damaged(pixels[places], random), pixels[places], pixels[places], pixels[alike]
        broken, whole, queries, others = rows_of(model, ("hand", "hand", "number", "number"), *inputs)
        by_hand = info_nce_loss(broken, whole, SCALE)
        by_number = info_nce_loss(queries, others, SCALE, query_ids=digits[places], target_ids=digits[places])
        return by_hand + by_number

    optimise([*model.image.parameters(), *model.image_projection.parameters()], loss, BASE, BASE_RATE)
    if ADAPTERS[recipe]:
        model.add_adapters(ADAPTERS[recipe])
        optimise([each for each in model.parameters() if each.requires_grad], loss, SCHEDULE, RATE)
    return asked(model.eval(), split)


def rows_of(model: ImageTextModel, tasks: tuple[str, ...], *inputs: Tensor) -> tuple[Tensor, ...]:
    """The rows of each input under the adapter of its task, that of both, or none; all in one batch."""
    names = list(model.bank.settings)
    numbers = [names.index(task) if task in names else len(names) - 1 for task in tasks]
    adapters = torch.tensor(numbers).repeat_interleave(torch.tensor([len(each) for each in inputs]))
    return model.encode_image(torch.cat(inputs), adapters).split([len(each) for each in inputs])


@torch.no_grad()
def asked(model: ImageTextModel, split: str) -> Figures:
    pixels, digits = scans(split)
    inputs = pixels, pixels, damaged(pixels, np.random.default_rng(0))
    by_number, whole, broken = rows_of(model, ("number", "hand", "hand"), *inputs)
    scores = by_number @ by_number.T
    order = scores.fill_diagonal_(-2).argsort(1, descending=True)[:, :-1]  # not itself
    right = (digits[order] == digits[:, None]).double()
    precision = (right * right.cumsum(1) / torch.arange(1, len(pixels))).sum(1) / right.sum(1)
    found = (broken @ whole.T).argmax(1) == torch.arange(len(pixels))
    return {"by number, mAP": 100 * precision.mean().item(), "by hand, R@1": 100 * found.double().mean().item()}


def recipes(runs: Runs) -> dict[str, Recipe]:
    return {name: Recipe(partial(measured, name)) for name in ADAPTERS}


CLAIM = Claim(
    "jina-embeddings-v4 (Günther et al. 2025)",
    "of two tasks in conflict, by number and by hand, an adapter each is ahead of one for both in both",
    recipes,
    [(OWN, SHARED), (OWN, WIDER)],
    [
        Expected(f"{OWN} over {other}", metric, above=0)
        for other in (SHARED, WIDER)
        for metric in ("by number, mAP", "by hand, R@1")
    ],
)
