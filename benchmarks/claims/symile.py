"""Symile beside pairwise CLIP where a picture follows from two further modalities together.

Symile-M3 in small (Saporta et al., NeurIPS 2024, section 5.2): the text is w number words in w languages, the "audio" a
noisy one-hot of one of these languages, the picture that of the number said in this language. Asked are new texts of
the first 70 trained numbers: which of 70 pictures, new renderings in trained hands, is it? The pictures of all w
numbers are among them, so that the text alone is right in one of w cases. A query is the product of the rows of text
and audio under Symile, their sum under CLIP. Half missing: in training each modality of a sample is missing in half
of the cases, and a learned row stands for it.
"""

from __future__ import annotations

from functools import partial
from itertools import combinations

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.claims.numbers import BYTE_WIDTH, GRU_WIDTH
from benchmarks.claims.record import Claim, Expected, Figures, Recipe, Runs
from benchmarks.number_features import WIDTH, Pictures, Schedule, optimise
from datamodules import ByteTokenizer
from datamodules.batch import Batch, Field
from datamodules.numbers.corpus import numbers_of, words
from losses import Embeddings, Objective, SymileLoss, clip_loss
from losses.embeddings import modalities_of
from losses.objective import ALL_FIELDS, image_of, texts_of
from losses.temperature import ScaledObjective, clamped_scale
from mmtrain.evaluation import rank_retrieval
from mmtrain.models.batches import as_queries, embed_batch
from mmtrain.models.image_text import ImageTextModel
from mmtrain.towers import ByteGRU, FeatureTower, TextTower

LANGUAGES = ("en", "es", "fr", "lv", "tr")
NUMBERS = numbers_of("train")[:70]
HELD_OUT = {"test": 0, "val": 1}  # renderings that are not trained
DIMENSION, BATCH, QUERIES, NOISE, SCALE, RATE = 256, 128, 1_000, 0.2, 30.0, 4e-3  # of a probe, not searched
STEPS = {"words": 1500, "bytes": 1800}
MISSING = ("image", "text", "audio")


class WordBag(TextTower):
    """The mean of an embedding for each word of each language."""

    def __init__(self, words: int, width: int) -> None:
        super().__init__(False)
        self.width = width
        self.embed = nn.Embedding(words, width)

    def forward(self, tokens: Tensor, mask: Tensor, languages: Tensor | None = None) -> tuple[Tensor, Tensor]:
        rows = self.embed(tokens)
        return rows.mean(1), rows


class PairwiseClip(ScaledObjective):
    """The sum of clip_loss over all pairs of modalities, with one learned temperature."""

    needs = frozenset({"image", "texts", ALL_FIELDS})

    def __init__(self) -> None:
        super().__init__(1 / 0.07, True)

    def forward(self, embeddings: Embeddings) -> Tensor:
        rows = [image_of(embeddings), texts_of(embeddings)[:, 0], *modalities_of(embeddings).values()]
        losses = [clip_loss(one, other, clamped_scale(self.log_scale)) for one, other in combinations(rows, 2)]
        return torch.stack(losses).sum()


class World:
    """Samples of w number words, a language and a picture.

    Args:
        reads: What the text is to the model: "words", an id each, or "bytes".
    """

    def __init__(self, pictures: Pictures, w: int, reads: str) -> None:
        self.w, self.reads = w, reads
        self.features = pictures.features.unflatten(0, (-1, len(numbers_of("train"))))[:, : len(NUMBERS)]
        self.words = [[words(language)[number] for number in NUMBERS] for language in LANGUAGES[:w]]

    def batch(self, size: int, random: np.random.Generator, missing: float, renderings: np.ndarray) -> Batch:
        """Samples drawn anew; `said` are in the order of the languages, and the text in any order."""
        said, language = random.integers(len(NUMBERS), size=(size, self.w)), random.integers(self.w, size=size)
        shown = said[np.arange(size), language]
        orders = random.permuted(np.tile(np.arange(self.w), (size, 1)), axis=1)
        tokens, mask = self.tokens(said, orders)
        audio = np.eye(self.w)[language] + NOISE * random.standard_normal((size, self.w))
        there = torch.from_numpy(random.random((size, 3)) >= missing)
        ids = torch.arange(size)
        values = torch.from_numpy(audio).float()[:, None]
        return Batch(
            images=self.features[random.choice(renderings, size), shown],
            tokens=tokens[:, None],
            token_mask=mask[:, None],
            present=there[:, 1:2],
            languages=torch.zeros(size, 1, dtype=torch.int64),
            image_ids=ids,
            text_ids=ids[:, None],
            rows=torch.from_numpy(shown),
            sources=torch.zeros(size, dtype=torch.int64),
            ids=[""] * size,
            captions=[[""]] * size,
            fields={"audio": Field("features", values, there[:, 2:])},
            pictured=there[:, 0] if missing else None,
        )

    def tokens(self, said: np.ndarray, orders: np.ndarray) -> tuple[Tensor, Tensor]:
        if self.reads == "words":
            tokens = torch.from_numpy(said + np.arange(self.w) * len(NUMBERS))
            return tokens, torch.ones_like(tokens, dtype=torch.bool)
        texts = [" ".join(self.words[k][row[k]] for k in order) for row, order in zip(said, orders, strict=True)]
        return ByteTokenizer(256)(texts, ["und"] * len(texts))


def measured(
    pictures: Pictures, reads: str, w: int, objective: type[Objective], missing: float, seed: int, split: str
) -> Figures:
    """R@1 in percent of texts and audio among the pictures of all numbers."""
    torch.manual_seed(seed)
    world = World(pictures, w, reads)
    text = WordBag(w * len(NUMBERS), GRU_WIDTH) if reads == "words" else ByteGRU(GRU_WIDTH, BYTE_WIDTH)
    loss_of = objective(SCALE) if objective is SymileLoss else objective()
    model = ImageTextModel(
        FeatureTower(WIDTH, normalise=True),
        text,
        DIMENSION,
        modalities={"audio": FeatureTower(w)},
        missing=MISSING if missing else (),
        composition=loss_of.composition,
    )
    random = np.random.default_rng(seed)
    trained = np.setdiff1d(np.arange(len(world.features)), list(HELD_OUT.values()))

    def loss() -> Tensor:
        batch = world.batch(BATCH, random, missing, trained)
        return loss_of.loss(batch, embed_batch(model, batch), model)

    optimise([*model.parameters(), *loss_of.parameters()], loss, Schedule(STEPS[reads], BATCH), RATE)
    return {"R@1": asked(model.eval(), world, split), "scale": loss_of.logged().get("scale", torch.tensor(0.0)).item()}


@torch.no_grad()
def asked(model: ImageTextModel, world: World, split: str) -> float:
    batch = world.batch(QUERIES, np.random.default_rng(10_000 + HELD_OUT[split]), 0.0, np.array([HELD_OUT[split]]))
    embeddings = embed_batch(model, batch)
    queries = as_queries(model, embeddings).texts[:, 0]
    if model.composition == "sum":
        queries = queries + modalities_of(embeddings)["audio"]
    images = model.encode_image(world.features[HELD_OUT[split]])
    ranks = rank_retrieval(images, queries, batch.rows, ["und"] * QUERIES).text_to_image["und"]
    return 100 * float(np.mean(ranks.rank == 0))


def named(kind: str, reads: str, w: int, missing: str = "") -> str:
    return f"{kind}, w = {w}, {reads}{missing}"


def recipes(runs: Runs) -> dict[str, Recipe]:
    pictures = runs.pictures()["train"]
    made: dict[str, Recipe] = {}
    for reads, w in (("words", 2), ("words", 5), ("bytes", 2)):
        for kind, objective in (("Symile", SymileLoss), ("CLIP", PairwiseClip)):
            made[named(kind, reads, w)] = Recipe(partial(measured, pictures, reads, w, objective, 0.0))
        if (reads, w) == ("words", 2):
            made[HALF] = Recipe(partial(measured, pictures, reads, w, SymileLoss, 0.5))
    return made


HALF = named("Symile", "words", 2, ", half missing")
WHOLE = named("Symile", "words", 2)
CLAIM = Claim(
    "Symile (Saporta et al. 2024)",
    "the product of text and language finds the picture that pairwise CLIP cannot, half missing costs under 10 points",
    recipes,
    [(HALF, WHOLE)],
    [
        Expected(named("Symile", "bytes", 2), "R@1", above=93),
        Expected(named("CLIP", "bytes", 2), "R@1", below=55),
        Expected(named("Symile", "words", 5), "R@1", above=85),
        Expected(named("CLIP", "words", 5), "R@1", below=30),
        Expected(f"{HALF} over {WHOLE}", "R@1", above=-10),
    ],
)
