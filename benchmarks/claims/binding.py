"""Two numbers one above the other, and every page's swap in the pool: what one row of a page and what many can tell.

jina-embeddings-v4 (Günther et al. 2025) trains one row and token rows together, and pulls the scores of both together.
A page is six strips, hundreds, tens and units of both numbers, as features of a frozen network; an English caption says
which number stands above which. The picture side is a layer of attention over the strips, with a learned vector for
each place or without. Asked are pages of trained numbers in hands that training does not show: R@1 among all pages and
their swaps, and how often a caption is nearer to its page than to the swap. KL is that of the two scores of a caption,
over 100 pages, at the loss's temperature.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.claims.record import Claim, Expected, Figures, Recipe, Runs
from benchmarks.number_features import HIDDEN, PLACES, Pictures, Schedule, optimise, word_tokenizer
from datamodules.numbers.corpus import words
from losses import (
    Embeddings,
    InfoNceLoss,
    LateInteractionLoss,
    MultiEmbeddings,
    Objective,
    ScoreDistillationLoss,
    late_interaction,
    score_distillation_loss,
)
from mmtrain.models.image_text import ImageTextModel
from mmtrain.towers import ImageTower, WordGRU

SCHEDULE, RATE = Schedule(steps=400, batch=64), 4e-3  # not searched
WIDTH, DIMENSION, TOKEN_WIDTH, WORD_WIDTH = 96, 64, 32, 48
PAGES = 200  # asked, beside the swap of each
SCALE = 50.0  # of the distillation
SHOWN = {"train": "train", "val": "trained numbers, val scans", "test": "trained numbers, test scans"}
ALONE, BOTH = "a row alone", "both"
PULLED, BLIND = "both, scores pulled together", "both, no places"
SIDES = {"queries": "texts", "targets": "image"}


class Strips(ImageTower):
    """A layer of attention over strips [N, 6, 64] and the mean of what it gives.

    Args:
        places: Whether each strip is told from the others by where it stands.
    """

    def __init__(self, places: bool) -> None:
        super().__init__()
        self.places, self.width = places, WIDTH
        self.read = nn.Linear(HIDDEN, WIDTH)
        self.place = nn.Parameter(torch.randn(2 * PLACES, WIDTH) * WIDTH**-0.5 * places, requires_grad=places)
        self.layer = nn.TransformerEncoderLayer(WIDTH, 4, 2 * WIDTH, dropout=0.0, batch_first=True, norm_first=True)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.layer(self.read(images) + self.place)
        return tokens.mean(1), tokens


class World:
    """Pictures of single numbers by split, and the tokenizer of captions."""

    def __init__(self, pictures: dict[str, Pictures]) -> None:
        self.pictures = pictures
        self.tokenizer = word_tokenizer({"en": [f"{word} above" for word in words("en")]})
        self.numbers = pictures["train"].numbers.unique().numpy()  # those of all that is shown

    def pages(self, split: str, pairs: np.ndarray, random: np.random.Generator) -> Tensor:
        """Features [N, 6, 64] of pairs of places among a split's numbers, each in a rendering drawn at random."""
        pictures = self.pictures[SHOWN[split]]
        renderings = pictures.features.unflatten(0, (-1, len(self.numbers)))
        drawn = random.integers(len(renderings), size=pairs.shape)
        return renderings[torch.from_numpy(drawn), torch.from_numpy(pairs)].unflatten(2, (PLACES, HIDDEN)).flatten(1, 2)

    def captions(self, pairs: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens, mask and languages of "FIRST above SECOND"."""
        numbers = self.numbers[pairs].tolist()
        texts = [f"{words('en')[above]} above {words('en')[below]}" for above, below in numbers]
        return *self.tokenizer(texts, ["en"] * len(texts)), torch.zeros(len(texts), dtype=torch.int64)

    def pairs(self, count: int, random: np.random.Generator) -> np.ndarray:
        """int64 [count, 2] of places among the numbers, none twice."""
        return random.permutation(len(self.numbers))[: 2 * count].reshape(count, 2)


def objectives_of(recipe: str) -> list[Objective]:
    dense, late = InfoNceLoss(**SIDES), LateInteractionLoss(**SIDES)
    pulled = ScoreDistillationLoss(**SIDES, scale=SCALE)
    return {ALONE: [dense], PULLED: [dense, late, pulled]}.get(recipe, [dense, late])


def measured(world: World, recipe: str, seed: int, split: str) -> Figures:
    torch.manual_seed(seed)
    text = WordGRU(1, world.tokenizer.vocabulary_size, WIDTH, WORD_WIDTH)
    model = ImageTextModel(Strips(recipe != BLIND), text, DIMENSION, buckets=1, multi={"dimension": TOKEN_WIDTH})
    objectives, random = objectives_of(recipe), np.random.default_rng(seed)

    def loss() -> Tensor:
        embeddings = embedded(model, world, "train", world.pairs(SCHEDULE.batch, random), random)
        return torch.stack([objective(embeddings) for objective in objectives]).sum()

    owned = [parameter for objective in objectives for parameter in objective.parameters()]
    trained = [each for each in (*model.parameters(), *owned) if each.requires_grad]
    optimise(trained, loss, SCHEDULE, RATE)
    return asked(model.eval(), world, recipe, split)


def embedded(
    model: ImageTextModel, world: World, split: str, pairs: np.ndarray, random: np.random.Generator
) -> Embeddings:
    image, strips, there = model.encode_image_multi(world.pages(split, pairs, random))
    texts, tokens, mask = model.encode_text_multi(*world.captions(pairs))
    ones = torch.ones(len(pairs), 1, dtype=torch.bool)
    multi = {"image": MultiEmbeddings(strips[:, None], there[:, None])}
    multi["texts"] = MultiEmbeddings(tokens[:, None], mask[:, None])
    return Embeddings(image=image, texts=texts[:, None], present=ones, languages=ones.long(), multi=multi)


@torch.no_grad()
def asked(model: ImageTextModel, world: World, recipe: str, split: str) -> Figures:
    """R@1 among pages and swaps, how many captions are nearer to their page than to its swap, 100 times the KL."""
    random = np.random.default_rng(0)
    pairs = world.pairs(PAGES, random)
    found = embedded(model, world, split, np.concatenate([pairs, pairs[:, ::-1]]), random)
    assert found.image is not None and found.texts is not None
    (text, text_mask), (page, page_mask) = (flat(found.multi[side]) for side in ("texts", "image"))
    dense, late = found.texts[:, 0] @ found.image.T, late_interaction(text, text_mask, page, page_mask, mean=True)
    figures = told(dense, "row, ")
    if recipe == ALONE:
        return figures
    figures |= told(late, "token rows, ")
    figures["token rows over row, R@1"] = figures["token rows, R@1"] - figures["row, R@1"]
    return figures | {
        "100 KL": 100 * score_distillation_loss(dense[:PAGES, :PAGES], late[:PAGES, :PAGES], SCALE).item()
    }


def flat(many: MultiEmbeddings) -> tuple[Tensor, Tensor]:
    """Token rows [N, L, d] and mask [N, L] of inputs that come once."""
    assert many.mask is not None
    return many.rows[:, 0], many.mask[:, 0]


def told(scores: Tensor, prefix: str) -> Figures:
    """Of captions by pages [2 N, 2 N], whose second half is the first one's swaps; a tie is no hit."""
    own, swap = scores.diagonal(), scores.roll(PAGES, 1).diagonal()
    first = (scores >= own[:, None]).sum(1) == 1
    shares = {"R@1": first, "own swap told": own > swap}
    return {f"{prefix}{name}": 100 * share.float().mean().item() for name, share in shares.items()}


def recipes(runs: Runs) -> dict[str, Recipe]:
    world = World(runs.pictures())
    return {name: Recipe(partial(measured, world, name)) for name in (ALONE, BOTH, PULLED, BLIND)}


CLAIM = Claim(
    "jina-embeddings-v4 (Günther et al. 2025)",
    "among swaps late interaction is 20 points above a row; with scores pulled together the row rises, the KL falls",
    recipes,
    [(PULLED, BOTH)],
    [
        Expected(BOTH, "token rows over row, R@1", above=20),
        Expected(f"{PULLED} over {BOTH}", "row, R@1", above=0),
        Expected(f"{PULLED} over {BOTH}", "100 KL", below=0),
    ],
)
