"""Handwritten numbers as precomputed features, and a plain training loop: what benchmarks/claims stands on.

A frozen network that tells the digits 0 to 9 and blank paper apart looks at the three places of a picture, one strip
after the other. It has seen training pictures alone, hence training numbers and training scans alone; its last hidden
layer at the three places, scaled to unit length, is the picture's feature vector. So a step costs little more than the
captions it reads, and dozens of trainings fit into minutes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from datamodules import ByteTokenizer, WordTokenizer
from datamodules.files import whole_file
from datamodules.numbers.corpus import RENDERINGS, SPLITS, numbers_of, picture, words
from datamodules.tokenizers.words import split_words
from losses import Embeddings, Objective
from mmtrain.evaluation import retrieval_metrics
from mmtrain.models.image_text import ImageTextModel, Projection
from mmtrain.towers import FeatureTower, TextTower
from mmtrain.training.optimisation import rate_factor

PLACES, PLACE_WIDTH, HIDDEN = 3, 21, 64
WIDTH = PLACES * HIDDEN  # of a feature vector
BLANK = 10
# name -> whose scans, whose numbers, pictures of each: the splits, and trained numbers in hands that are not trained
SHOWN = {split: (split, split, RENDERINGS[split]) for split in SPLITS}
SHOWN |= {f"trained numbers, {split} scans": (split, "train", 1) for split in ("val", "test")}
BUCKETS = 1  # captions this short cost less padded than read in several parts
CLIP_NORM = 2.0  # the 2017 systems' (ivendrov/order-embedding, driver.py)


@dataclass(frozen=True)
class Pictures:
    """One split: features float [N, 192] and the number each picture shows, int64 [N].

    Its numbers come in their order, once in each rendering, one rendering after the other.
    """

    features: Tensor
    numbers: Tensor


@dataclass(frozen=True)
class Corpus:
    """Pictures by split, and every number's caption in K languages: tokens int64 [1000, K, L], mask bool alike."""

    pictures: dict[str, Pictures]
    languages: tuple[str, ...]
    tokens: Tensor
    mask: Tensor

    @classmethod
    def build(cls, languages: Sequence[str], pictures: dict[str, Pictures]) -> Corpus:
        by_language = [words(language) for language in languages]
        captions = [caption for number in zip(*by_language, strict=True) for caption in number]
        tokens, mask = ByteTokenizer()(captions, list(languages) * 1000)
        shape = (1000, len(languages))
        return cls(pictures, tuple(languages), tokens.unflatten(0, shape), mask.unflatten(0, shape))


@dataclass(frozen=True)
class Schedule:
    """Steps of `batch` images each; the learning rate rises over the first twentieth and falls along half a cosine."""

    steps: int
    batch: int


@dataclass(frozen=True)
class Step:
    """What a step reads of B pictures with K slots of captions.

    features float [B, F], ids int64 [B] (of equal ones none is the other's negative), tokens int64 and mask bool
    [B, K, L], languages int64 [B, K], and which slots hold a caption, present bool [B, K].
    """

    features: Tensor
    ids: Tensor
    tokens: Tensor
    mask: Tensor
    languages: Tensor
    present: Tensor


def word_tokenizer(captions: Mapping[str, Iterable[str]]) -> WordTokenizer:
    """Reads every word of these captions, a vocabulary a language."""
    lists = {name: sorted({word for text in texts for word in split_words(text)}) for name, texts in captions.items()}
    with TemporaryDirectory() as folder:
        path = Path(folder) / "words.json"
        path.write_text(json.dumps({"words": lists}), encoding="utf-8")
        return WordTokenizer(str(path))


def small_bert(vocabulary_size: int, width: int) -> dict[str, Any]:
    """What `mmtrain.towers.TransformersTower` makes two layers of four heads from."""
    sizes = {"hidden_size": width, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 2 * width}
    return {"model_type": "bert", "vocab_size": vocabulary_size, **sizes}


def pictures_with_features(seed: int = 0) -> tuple[dict[str, Pictures], dict[str, float]]:
    """All of SHOWN as features, and how often the frozen network reads a strip of each right, in percent."""
    pages, digits = {}, {}
    for name, (split, numbers, renderings) in SHOWN.items():
        shown = [(number, rendering) for rendering in range(renderings) for number in numbers_of(numbers)]
        seeds = [(SPLITS.index(split), number, rendering) for number, rendering in shown]  # as pack numbers draws them
        pages[name] = torch.from_numpy(
            np.stack([picture(str(number), split, s) for (number, _), s in zip(shown, seeds, strict=True)])
        )
        digits[name] = torch.tensor([number for number, _ in shown])
    network, head = _digit_network(_strips(pages["train"]), _digits_of(digits["train"]), seed)
    pictures, accuracy = {}, {}
    with torch.no_grad():
        for split in SHOWN:
            hidden = torch.cat([network(part) for part in _strips(pages[split]).split(1024)])
            right = head(hidden).argmax(1) == _digits_of(digits[split])
            accuracy[split] = 100 * right.float().mean().item()
            pictures[split] = Pictures(hidden.view(-1, WIDTH), digits[split])
    return pictures, accuracy


def kept_pictures(path: Path) -> dict[str, Pictures]:
    """All of SHOWN as features; made once, then read from a file."""
    if not path.is_file():
        pictures, accuracy = pictures_with_features()
        told = ", ".join(f"{name} {value:.1f}" for name, value in accuracy.items())
        print(f"The frozen network reads single digits right (percent): {told}.\n", flush=True)
        with whole_file(path) as unfinished:
            torch.save({name: (each.features, each.numbers) for name, each in pictures.items()}, unfinished)
    return {name: Pictures(*each) for name, each in torch.load(path).items()}


def _strips(pages: Tensor) -> Tensor:
    """uint8 pages [N, 64, 64] -> float [3 N, 1, 64, 21] in 0 to 1, ink high: the places where a digit may stand."""
    width = PLACES * PLACE_WIDTH
    ink = 1 - pages[:, :, 1 : 1 + width].float() / 255
    return ink.unflatten(2, (PLACES, PLACE_WIDTH)).movedim(2, 1).flatten(0, 1).unsqueeze(1)


def _digits_of(numbers: Tensor) -> Tensor:
    """int64 [N] -> [3 N]: hundreds, tens and units, blank to the left of the first digit."""
    places = torch.stack([numbers // 100, numbers // 10 % 10, numbers % 10], 1)
    first = torch.stack([numbers < 100, numbers < 10, torch.zeros_like(numbers, dtype=torch.bool)], 1)
    return places.masked_fill(first, BLANK).flatten()


def _digit_network(strips: Tensor, digits: Tensor, seed: int, epochs: int = 4) -> tuple[nn.Module, nn.Linear]:
    """The network up to its last hidden layer, and the classifier on top; trained on these strips and frozen."""
    torch.manual_seed(seed)
    layers = [nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in ((1, 16), (16, 32), (32, HIDDEN))]
    network = nn.Sequential(*(part for layer in layers for part in (layer, nn.ReLU())))
    network.extend([nn.AdaptiveMaxPool2d(1), nn.Flatten()])
    head = nn.Linear(HIDDEN, 11)
    parameters = [*network.parameters(), *head.parameters()]
    optimizer, order = torch.optim.Adam(parameters, lr=3e-3), torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for part in torch.randperm(len(strips), generator=order).split(256):
            optimizer.zero_grad()
            functional.cross_entropy(head(network(strips[part])), digits[part]).backward()
            optimizer.step()
    return network.requires_grad_(False), head.requires_grad_(False)


def train(
    corpus: Corpus,
    text: Callable[[], TextTower],
    objective: Callable[[], Objective],
    schedule: Schedule,
    *,
    learning_rate: float,
    dimension: int,
    captions: int | None = None,
    projection: Projection = "linear",
    seed: int,
) -> ImageTextModel:
    """A projection of the features and a text tower, trained together with Adam.

    The pictures of every step follow from the seed alone, so objectives are compared on the same ones. `captions` of
    all K languages are drawn for each picture, evenly and without repetition; None takes all of them in their order.
    Pictures of the same number are not each other's negatives.
    """
    torch.manual_seed(seed)
    model = ImageTextModel(FeatureTower(WIDTH, normalise=True), text(), dimension, projection, buckets=BUCKETS)
    loss_of = objective()
    pictures, K = corpus.pictures["train"], len(corpus.languages)
    which, draws = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed + 1_000_000)
    everything = torch.arange(K).expand(schedule.batch, K)

    def draw() -> Step:
        batch = torch.randperm(len(pictures.numbers), generator=which)[: schedule.batch]
        languages = everything
        if captions is not None:
            languages = torch.rand(schedule.batch, K, generator=draws).argsort(1)[:, :captions]
        numbers = pictures.numbers[batch]
        shown, present = (numbers[:, None], languages), torch.ones_like(languages, dtype=torch.bool)
        return Step(pictures.features[batch], numbers, corpus.tokens[shown], corpus.mask[shown], languages, present)

    fit(model, loss_of, draw, schedule, learning_rate)
    return model


def fit(
    model: ImageTextModel, loss_of: Objective, draw: Callable[[], Step], schedule: Schedule, learning_rate: float
) -> None:
    """Trains the model, and what the objective owns, on the steps that are drawn."""

    def loss() -> Tensor:
        batch = draw()
        encoded = model.encode_text(*(each[batch.present] for each in (batch.tokens, batch.mask, batch.languages)))
        texts = encoded.new_zeros(*batch.present.shape, encoded.shape[1])
        texts[batch.present] = encoded
        embeddings = Embeddings(
            image=model.encode_image(batch.features),
            texts=texts,
            present=batch.present,
            languages=batch.languages,
            image_ids=batch.ids,
        )
        return loss_of(embeddings)

    optimise([*model.parameters(), *loss_of.parameters()], loss, schedule, learning_rate)


def optimise(
    parameters: list[nn.Parameter], loss: Callable[[], Tensor], schedule: Schedule, learning_rate: float
) -> None:
    """Adam on the losses of so many steps."""
    optimizer = torch.optim.Adam(parameters, lr=learning_rate)
    for step in range(schedule.steps):
        factor = rate_factor(step + 1, "cosine", warmup_samples=schedule.steps // 20, total_samples=schedule.steps)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * factor
        optimizer.zero_grad()
        loss().backward()
        nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
        optimizer.step()


def measure(model: ImageTextModel, corpus: Corpus, split: str, **options: Any) -> dict[str, Any]:
    """`retrieval_metrics` of a split, one caption of each language a picture; options are passed on."""
    return retrieval_metrics(*encoded(model, corpus, split), bootstrap=0, **options)


@torch.no_grad()
def encoded(model: ImageTextModel, corpus: Corpus, split: str) -> tuple[Tensor, Tensor, np.ndarray, np.ndarray]:
    """Rows of pictures and captions, of each caption its picture and its language."""
    model.eval()
    pictures, K = corpus.pictures[split], len(corpus.languages)
    tokens, mask = corpus.tokens[pictures.numbers].flatten(0, 1), corpus.mask[pictures.numbers].flatten(0, 1)
    texts = model.encode_text(tokens, mask, torch.arange(K).repeat(len(pictures.numbers)))
    images = model.encode_image(pictures.features)
    image_of_text = np.arange(len(pictures.numbers)).repeat(K)
    return images, texts, image_of_text, np.array(corpus.languages * len(pictures.numbers))
