"""CLIP-Italian's recipe on little data: projections first, then everything; a scale that is fixed at 20.

Bianchi et al. (2021) bring an image tower trained in English and an Italian text tower together on little data: first
the projections alone, then everything, with AdaBelief, adaptive clipping and a scale of 20 that does not train. Here
the image tower was trained with English captions of all trained pictures, the text tower on pairs of English and
Italian words without a picture. One picture of each trained number has an Italian caption. All train as many steps.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial

import torch
from timm.optim import AdaBelief
from torch import Tensor, nn

from benchmarks.claims.numbers import BYTE_WIDTH, GRU_WIDTH, pair_shards, picture_shards, trained
from benchmarks.claims.record import CHOOSING_SEEDS, Claim, Expected, Figures, Recipe, Runs
from benchmarks.number_features import WIDTH, Corpus, Pictures, Schedule, encoded
from datamodules.files import whole_file
from datamodules.numbers.corpus import numbers_of
from datamodules.reading.parts import Part
from losses import ClipLoss, InfoNceLoss, Objective, clip_loss
from mmtrain.evaluation import retrieval_metrics
from mmtrain.models.image_text import ImageTextModel
from mmtrain.phases import Phase, Phases
from mmtrain.towers import ByteGRU, FeatureTower, ImageTower

LAYER = 256
TOWERS, TOWERS_RATE, TOWERS_SEED = Schedule(steps=300, batch=64), 8e-3, 300
SCHEDULE, RATES = Schedule(steps=200, batch=64), (2e-3, 8e-3)
SCALE, CLIPPING = 20.0, 0.01
RECALL, LOSS = "R@1, image from it", "100 x loss"
TWO, WHOLE = "two phases", "everything from the start"
TWO_LEARNED, WHOLE_LEARNED = f"{TWO}, learned scale", f"{WHOLE}, learned scale"


class OneLayer(ImageTower):
    """A layer over the features: the tower that has weights to keep."""

    def __init__(self) -> None:
        super().__init__()
        self.width, self.features, self.layer = LAYER, FeatureTower(WIDTH, normalise=True), nn.Linear(WIDTH, LAYER)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        rows = self.layer(self.features(images)[0]).relu()
        return rows, rows[:, None]


@dataclass(frozen=True)
class World:
    """The Italian corpus, its training shards, and the weights that both towers begin with."""

    corpus: Corpus
    shards: str
    image: dict[str, Tensor]
    text: dict[str, Tensor]

    @classmethod
    def build(cls, runs: Runs) -> World:
        pictures, folder = runs.pictures(), runs.folder / "shards"
        count = len(numbers_of("train"))
        few = Pictures(pictures["train"].features[:count], pictures["train"].numbers[:count])
        path = runs.folder / "towers.pt"
        if not path.is_file():
            english = Part(picture_shards(folder / "en", pictures["train"], ["en"]), TOWERS.batch)
            pairs = Part(pair_shards(folder / "pairs", numbers_of("train"), ["it"]), TOWERS.batch)

            def tower(part: Part, objective: Objective) -> ImageTextModel:
                torch.manual_seed(TOWERS_SEED)
                return trained({"": part}, {"it": objective}, TOWERS, TOWERS_RATE, TOWERS_SEED, image=OneLayer())

            states = tower(english, ClipLoss()).image.state_dict(), tower(pairs, InfoNceLoss()).text.state_dict()
            with whole_file(path) as unfinished:
                torch.save(states, unfinished)
        return cls(Corpus.build(["it"], pictures), picture_shards(folder / "it", few, ["it"]), *torch.load(path))


def recipes(runs: Runs) -> dict[str, Recipe]:
    """The rate by R@1 on validation; with a learned scale that of the same recipe with a fixed one."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    world = World.build(runs)
    options = [(rate,) for rate in RATES]
    chosen: dict[str, Recipe] = {}
    for searched, beside in ((TWO, TWO_LEARNED), (WHOLE, WHOLE_LEARNED)):
        results = {name: partial(measured, world, name) for name in (searched, beside)}
        rate = runs.choose(searched, options, results[searched], lambda found: found[RECALL], CHOOSING_SEEDS[:1])
        chosen |= {name: Recipe(result, rate) for name, result in results.items()}
    return chosen


def measured(world: World, recipe: str, rate: float, seed: int, split: str) -> Figures:
    """R@1 in percent, and 100 times the loss of the whole split at the recipe's scale."""
    torch.manual_seed(seed)
    image, text = OneLayer(), ByteGRU(GRU_WIDTH, BYTE_WIDTH)
    image.load_state_dict(world.image)
    text.load_state_dict(world.text)
    loss = ClipLoss(SCALE, learnable=recipe in (TWO_LEARNED, WHOLE_LEARNED))
    phases = [Phase(0, image=0, text=0), Phase(SCHEDULE.steps // 2, image="all", text="all")]
    model = trained(
        {"": Part(world.shards, SCHEDULE.batch)},
        {"clip": loss},
        SCHEDULE,
        rate,
        seed,
        image=image,
        text=text,
        optimizer=AdaBelief,
        adaptive_clipping=CLIPPING,
        callbacks=[Phases(phases)] if recipe in (TWO, TWO_LEARNED) else [],
    )
    rows = encoded(model, world.corpus, split)
    found, scale = retrieval_metrics(*rows, bootstrap=0), loss.log_scale.exp().item()
    return {
        RECALL: found["text_to_image"]["it"]["R@1"],
        "MRR@10, image from it": found["text_to_image"]["it"]["MRR@10"],
        "R@1, from image to it": found["image_to_text"]["it"]["R@1"],
        LOSS: 100 * float(clip_loss(rows[0], rows[1], scale)),
        "scale": scale,
    }


CLAIM = Claim(
    "CLIP-Italian (Bianchi et al. 2021)",
    "on little data projections first, then everything, is ahead of everything from the start, and a scale fixed at 20"
    " of a learned one",
    recipes,
    [(TWO, WHOLE), (TWO, TWO_LEARNED), (WHOLE, WHOLE_LEARNED)],
    [
        Expected(f"{TWO} over {WHOLE}", RECALL, above=0),
        Expected(f"{TWO} over {WHOLE}", LOSS, below=0),
        Expected(f"{TWO} over {TWO_LEARNED}", RECALL, above=0),
    ],
)
