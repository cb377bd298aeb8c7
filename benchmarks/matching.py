"""Matching heads on a frozen space, trained on the features of its training split, which stay in memory.

The part `negatives` of benchmarks/relation.py. Losses, mining and re-ranking are those of `mmtrain fit` and `mmtrain
evaluate`; only the towers do not run again for every batch, and pictures are not augmented.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datamodules.batch import text_id
from datamodules.numbers.corpus import words
from losses import Embeddings, ItmLoss, TokenFeatures
from mmtrain import load
from mmtrain.embedding.collected import Embedded
from mmtrain.embedding.one_pass import Features, embed, padded
from mmtrain.embedding.splits import open_split
from mmtrain.evaluation import rank_retrieval
from mmtrain.evaluation.measuring.reranking import matcher_of, rerank_retrieval
from mmtrain.fusion import CrossAttentionFusion, Fusion, MatchingHead, RowFusion, TextToImageAttention
from mmtrain.models.encoder import Encoder
from mmtrain.models.image_text import ImageTextModel
from mmtrain.training.mining import near_samples

LANGUAGES = ["en", "lv"]
NEIGHBOURS, BESIDE = 8, 2  # mined of each sample, and drawn of them for each in a batch


@dataclass
class Head:
    """A way to train a matching head; `mined` says whether neighbours join the batch, which is as large in any case."""

    fusion: Callable[[], Fusion]
    scale: float | None = 14.0
    negatives: str = "hard"
    candidates: int | None = 8
    mined: bool = True
    batch: int = 48


HEADS = {
    "rows": Head(lambda: RowFusion(256)),
    "rows, the batch alone": Head(lambda: RowFusion(256), mined=False),
    "tokens, one query": Head(lambda: TextToImageAttention(256)),
    "tokens, cross-attention": Head(lambda: CrossAttentionFusion(64, layers=1), candidates=4, batch=36),
    "no similarity, hard": Head(lambda: TextToImageAttention(256), None, candidates=None, mined=False),
    "no similarity, random": Head(lambda: TextToImageAttention(256), None, "random", candidates=None, mined=False),
}


@dataclass
class Split:
    """Rows of a split, token features of its pictures [N, 1 + P, Wi] and of its captions [1 + L, Wt]."""

    rows: Embedded
    images: Tensor
    texts: list[Tensor]

    def of(self, split: Embedded) -> tuple[Tensor, list[Tensor]]:
        """As `Features.of`, as often as asked."""
        return self.images, self.texts

    @property
    def numbers(self) -> list[int]:
        """Of each picture."""
        return [int(name.split("-")[1]) for name in self.rows.ids]


def embedded(encoder: Encoder, data: Path) -> Split:
    """Shards in English and Latvian."""
    features = Features()
    rows = embed(encoder, open_split(encoder, str(data), LANGUAGES, 64, 0), [features], tokens=True)
    return Split(rows, *features.of(rows))


class Material:
    """The training split as batches of embeddings."""

    def __init__(self, train: Split) -> None:
        self.images, self.texts, rows = train.images, train.texts, train.rows
        self.v, self.t = torch.from_numpy(rows.images), torch.from_numpy(rows.texts)
        self.words = torch.tensor([text_id(caption) for caption in rows.captions])
        self.captions = [np.flatnonzero(rows.image_of_text == image) for image in range(len(rows.images))]
        assert (rows.rows == np.arange(len(rows.rows))).all()
        self.near = near_samples(rows, len(rows.rows), NEIGHBOURS, "cosine")

    def batch(self, size: int, mined: bool, random: np.random.Generator) -> Embeddings:
        """Pictures with a caption each; `mined` puts neighbours beside a third of them."""
        image = random.choice(len(self.v), size // (1 + BESIDE) if mined else size, replace=False)
        if mined:
            image = np.r_[image, random.permuted(self.near[image], axis=1)[:, :BESIDE].ravel()]
        caption = [random.choice(self.captions[each]) for each in image]
        tokens, mask = padded([self.texts[each] for each in caption])
        return Embeddings(
            image=self.v[image],
            texts=self.t[caption][:, None],
            image_ids=torch.from_numpy(image),
            text_ids=self.words[caption][:, None],
            image_tokens=TokenFeatures(self.images[image].float()),
            text_tokens=TokenFeatures(tokens[:, None], mask[:, None]),
        )


def trained(encoder: Encoder, material: Material, kind: Head, rate: float, seed: int, steps: int) -> MatchingHead:
    """A head after so many steps of AdamW, the rate falling to 0."""
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    head = MatchingHead(kind.fusion(), kind.scale)
    objective = ItmLoss(head, kind.negatives, candidates=kind.candidates)
    objective.connect(encoder.model)
    optimiser = torch.optim.AdamW(objective.parameters(), lr=rate, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        optimiser.zero_grad()
        objective(material.batch(kind.batch, kind.mined, random)).backward()
        optimiser.step()
        schedule.step()
    return head.eval().requires_grad_(False)


def neighbours(number: int) -> list[int]:
    """27 numbers of 0 to 999 that differ in one digit; zeros in front are digits."""
    digits = f"{number:03d}"
    return [int(digits[:i] + d + digits[i + 1 :]) for i in range(3) for d in "0123456789" if d != digits[i]]


def all_words(encoder: Encoder, language: str) -> tuple[np.ndarray, list[Tensor]]:
    """Rows and token features of the words for 0 to 999."""
    model = encoder.model
    assert isinstance(model, ImageTextModel)
    tokens, mask = encoder.tokenizer(list(words(language)), [language] * 1000)
    index = torch.full((1000,), encoder.languages.index(language))
    with torch.inference_mode():
        pooled, of_tokens = model.text(tokens, mask, index)
        rows = torch.nn.functional.normalize(model.text_projection(pooled), dim=1)
    features = torch.cat([pooled[:, None], of_tokens], 1)
    return rows.numpy(), [each[: int(n) + 1] for each, n in zip(features, mask.sum(1), strict=True)]


def measured(encoder: Encoder, head: MatchingHead, split: Split) -> dict[str, float]:
    """In percent, means over English and Latvian: R@1 of both directions by similarity and after the head sorted the
    best ten again, and the right caption among those of the 27 neighbours, by similarity and by the head.
    """
    encoder.head, rows = head, split.rows
    languages = [LANGUAGES[index] for index in rows.language_of_text]
    ranks = rank_retrieval(rows.images, rows.texts, rows.image_of_text, languages)
    table = rerank_retrieval(encoder, ranks, rows, split, 10)
    means = [table[direction]["mean"] for direction in ("text_to_image", "image_to_text")]
    choices = np.array([[number, *neighbours(number)] for number in split.numbers])
    images = np.broadcast_to(np.arange(len(choices))[:, None], choices.shape)
    near = []
    for language in LANGUAGES:
        text_rows, features = all_words(encoder, language)
        every = Split(replace(rows, texts=text_rows), split.images, features)
        judged = matcher_of(encoder, every.rows, every)(images, choices)
        similar = (rows.images[:, None] * text_rows[choices]).sum(2)
        near.append([100 * float((each[:, 0] > each[:, 1:].max(1)).mean()) for each in (similar, judged)])
    by_similarity, by_head = np.mean(near, axis=0).tolist()
    before, after = (float(np.mean([mean[name] for mean in means])) for name in ("R@1_before", "R@1"))
    return {"similarity": before, "sorted again": after, "neighbours": by_similarity, "neighbours by the head": by_head}


def compare(
    space: Path, numbers: Path, heads: Sequence[str], rates: Sequence[float], seeds: int, steps: int
) -> dict[str, list[dict[str, float]]]:
    """The figures of each head and seed on the test split; the rate is chosen on val, by another seed."""
    encoder = load(space)
    material = Material(embedded(encoder, numbers / "few"))
    val, test = (embedded(encoder, numbers / name) for name in ("val", "test"))
    found: dict[str, list[dict[str, float]]] = {}
    for name in heads:
        kind, by_rate = HEADS[name], {}
        for rate in rates:
            figures = measured(encoder, trained(encoder, material, kind, rate, 100, steps), val)
            by_rate[rate] = figures["sorted again"] + figures["neighbours by the head"]
            print(f"  {name}, rate {rate}, val: {shown(figures)}", flush=True)
        best = max(by_rate, key=lambda rate: by_rate[rate])
        for seed in range(seeds):
            figures = measured(encoder, trained(encoder, material, kind, best, seed, steps), test)
            found.setdefault(name, []).append(figures)
            print(f"  {name}, rate {best}, seed {seed}: {shown(figures)}", flush=True)
    return found


def shown(figures: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.1f}" for name, value in figures.items())
