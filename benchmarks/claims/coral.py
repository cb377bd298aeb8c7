"""Composed queries with and without reconstruction, beside the sum of single rows.

MERIT's task in small (Chow et al. 2025): a query shows two products and asks for the number of one and the ink or the
paper of the other, in either order; a product is a number in one of six inks on one of five papers, with a title. A
picture is five tokens: the three places of a handwritten number as a frozen network sees them, the ink and the paper.
Each word is a token. Asked are new queries with new renderings in trained hands among all products: the best one meets
both conditions ("both"), the number, or the other. The sum is trained as the others are, with rows of single inputs.
"""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.claims.record import Claim, Expected, Figures, Recipe, Runs
from benchmarks.claims.symile import WordBag
from benchmarks.number_features import HIDDEN, PLACES, Pictures, Schedule, optimise
from datamodules.batch import Batch, Field
from datamodules.numbers.corpus import numbers_of
from datamodules.numbers.products import INKS, LANGUAGES, PAPERS
from losses import InfoNceLoss, Objective
from mmtrain.fusion import ComposedQuery
from mmtrain.models.batches import PICTURES, embed_batch
from mmtrain.models.image_text import ImageTextModel
from mmtrain.objectives import Reconstruction
from mmtrain.towers import FeatureTower

SIZES = 70, len(INKS), len(PAPERS)  # numbers, inks, papers
TOKENS = PLACES + 2
WIDTH = HIDDEN + 8  # of a token: what it holds, and a one-hot of its place
HELD_OUT = {"test": (0, 1), "val": (2, 3)}  # renderings that are not trained: of queries, and of the catalogue
DIMENSION, BATCH, QUERIES, NOISE, RATE, STEPS = 128, 256, 1_000, 0.1, 2e-3, 3_000  # of probes on validation
WEIGHT = 0.1  # of both terms of the reconstruction, likewise


class Words:
    """Ids of words: what is asked, and each number, ink and paper, in each language."""

    vocabulary_size = len(LANGUAGES) * (3 + sum(SIZES))
    special_ids = frozenset[int]()

    def __call__(self, captions: Any, languages: Any) -> tuple[Tensor, Tensor]:
        return torch.zeros(len(captions), 1, dtype=torch.int64), torch.ones(len(captions), 1, dtype=torch.bool)

    def ids(self, languages: np.ndarray, kinds: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Of words of a kind: 0 what is asked, 1 numbers, 2 inks, 3 papers."""
        starts = np.cumsum([0, 3, *SIZES[:2]])
        return languages * (3 + sum(SIZES)) + starts[kinds] + values


class Catalogue:
    """Products of numbers, inks and papers as tokens, and queries."""

    def __init__(self, pictures: Pictures) -> None:
        count = len(numbers_of("train"))
        self.digits = pictures.features.unflatten(0, (-1, count))[:, : SIZES[0]].unflatten(2, (PLACES, HIDDEN))
        fixed = torch.Generator().manual_seed(0)
        self.colours = [torch.tensor(each) / 255 @ torch.randn(3, HIDDEN, generator=fixed) for each in (INKS, PAPERS)]
        self.words = Words()

    def shown(self, products: np.ndarray, renderings: np.ndarray) -> Tensor:
        """Products int64 [..., 3] as tokens float [..., 5, 72]."""
        number, ink, paper = (torch.from_numpy(each) for each in np.moveaxis(products, -1, 0))
        places = self.digits[torch.from_numpy(renderings), number]
        tokens = torch.cat([places, self.colours[0][ink][..., None, :], self.colours[1][paper][..., None, :]], -2)
        tokens = tokens + NOISE * torch.randn_like(tokens)
        return torch.cat([tokens, torch.eye(TOKENS, 8).expand(*tokens.shape[:-1], 8)], -1)

    def batch(self, size: int, random: np.random.Generator, renderings: np.ndarray) -> tuple[Batch, np.ndarray]:
        """Queries drawn anew, and of each the answer and the condition beside the number, int64 [size, 4]."""
        answer = random.integers(SIZES, size=(size, 3))
        others = (answer[:, None] + random.integers(1, SIZES, size=(size, 2, 3))) % SIZES
        asked = np.stack([np.zeros(size, np.int64), random.integers(1, 3, size=size)], 1)
        asked = random.permuted(asked, axis=1)
        each = np.arange(size)[:, None]
        others[each, np.arange(2), asked] = answer[each, asked]
        drawn = random.choice(renderings, (size, 2))
        languages = random.integers(len(LANGUAGES), size=(2, size, 1))
        words = self.words.ids(languages[0], np.zeros_like(asked), asked)
        fields = self.fields("query", words[:, :, None], self.shown(others, drawn), np.arange(size))
        fields |= self.products(answer, random.choice(renderings, size), languages[1])
        return self.holding(fields), np.concatenate([answer, asked.max(1, keepdims=True)], 1)

    def products(self, products: np.ndarray, renderings: np.ndarray, languages: np.ndarray) -> dict[str, Field]:
        """Products [N, 3] with titles in languages [N, 1]."""
        titles = self.words.ids(languages, np.array([1, 2, 3]), products)
        ids = np.ravel_multi_index(tuple(products.T), SIZES)
        return self.fields("positive", titles[:, None], self.shown(products, renderings)[:, None], ids)

    @staticmethod
    def fields(name: str, words: np.ndarray, pictures: Tensor, ids: np.ndarray) -> dict[str, Field]:
        tokens = torch.from_numpy(words)
        there = torch.ones(tokens.shape[:2], dtype=torch.bool)
        mask, numbers = torch.ones_like(tokens, dtype=torch.bool), torch.from_numpy(ids)[:, None].expand(there.shape)
        seen = torch.ones(pictures.shape[:2], dtype=torch.bool)
        return {
            name: Field("text", tokens, there, mask, torch.zeros_like(tokens[:, :, 0]), numbers),
            f"{name}{PICTURES}": Field("features", pictures, seen, ids=torch.zeros_like(seen, dtype=torch.int64)),
        }

    @staticmethod
    def holding(fields: dict[str, Field]) -> Batch:
        """A batch of these fields alone."""
        size = len(next(iter(fields.values())).present)
        nothing, each = torch.zeros(size, 0, dtype=torch.int64), torch.zeros(size, dtype=torch.int64)
        of_captions = dict.fromkeys(("tokens", "token_mask", "present", "languages", "text_ids"), nothing)
        of_samples = dict.fromkeys(("image_ids", "rows", "sources"), each)
        return Batch(images=None, ids=[""] * size, captions=[[]] * size, fields=fields, **of_captions, **of_samples)


def measured(pictures: Pictures, layers: int, weight: float, seed: int, split: str) -> Figures:
    """In percent: the share of queries whose best product meets both conditions, the number, and the other."""
    torch.manual_seed(seed)
    random, catalogue = np.random.default_rng(seed), Catalogue(pictures)
    tower = FeatureTower(WIDTH, pooling="attention")
    text = WordBag(Words.vocabulary_size, 64)
    composition = ComposedQuery(layers, width=64, heads=4)
    model = ImageTextModel(tower, text, DIMENSION, projection="mlp", composition=composition)
    objectives: list[Objective] = [InfoNceLoss(both=False)]
    if weight:
        objectives.append(Reconstruction(l1=weight, l2=weight, heads=4))
        objectives[1].connect(model)
        objectives[1].prepare(SimpleNamespace(tokenizer=catalogue.words, languages=["und"]))
    trained = np.setdiff1d(np.arange(len(catalogue.digits)), [n for two in HELD_OUT.values() for n in two])

    def loss() -> Tensor:
        batch, _ = catalogue.batch(BATCH, random, trained)
        embeddings = embed_batch(model, batch)
        return torch.stack([each.loss(batch, embeddings, model) for each in objectives]).sum()

    parameters = [parameter for part in (model, *objectives) for parameter in part.parameters()]
    optimise(parameters, loss, Schedule(STEPS, BATCH), RATE)
    return asked(model.eval(), catalogue, split)


@torch.no_grad()
def asked(model: ImageTextModel, catalogue: Catalogue, split: str) -> Figures:
    torch.manual_seed(0)
    random = np.random.default_rng(10_000 + HELD_OUT[split][0])
    batch, wanted = catalogue.batch(QUERIES, random, np.array(HELD_OUT[split][:1]))
    products = np.stack(np.unravel_index(np.arange(np.prod(SIZES)), SIZES), 1)
    languages = random.integers(len(LANGUAGES), size=(len(products), 1))
    items = catalogue.holding(catalogue.products(products, np.full(len(products), HELD_OUT[split][1]), languages))
    queries, rows = (embed_batch(model, each).fields for each in (batch, items))
    best = products[(queries["query"].rows[:, 0] @ rows["positive"].rows[:, 0].T).argmax(1).numpy()]
    each = np.arange(QUERIES)
    number, other = best[:, 0] == wanted[:, 0], best[each, wanted[:, 3]] == wanted[each, wanted[:, 3]]
    met = {"both": number & other, "number": number, "other": other}
    return {name: 100 * float(share.mean()) for name, share in met.items()}


SUM, CONTRAST, BOTH = "sum", "contrast", "contrast + reconstruction"


def recipes(runs: Runs) -> dict[str, Recipe]:
    pictures = runs.pictures()["train"]
    kinds = {SUM: (0, 0.0), CONTRAST: (2, 0.0), BOTH: (2, WEIGHT)}
    return {name: Recipe(partial(measured, pictures, *kind)) for name, kind in kinds.items()}


CLAIM = Claim(
    "Coral (MERIT, Chow et al. 2025)",
    "reconstruction raises the share of queries of two pictures whose best product meets both conditions, to 15 points"
    " or more above the sum of rows",
    recipes,
    [(BOTH, CONTRAST), (BOTH, SUM), (CONTRAST, SUM)],
    [
        Expected(f"{BOTH} over {CONTRAST}", "both", above=0),
        Expected(f"{BOTH} over {SUM}", "both", above=15),
    ],
)
