"""Masked words with the picture and without it, and matching on the hardest caption; three minutes a training.

CCRK (Nie et al. 2024) trains 1-to-K beside a fusion encoder that judges pairs on the caption least probable for its
picture and restores masked words with the picture. Numbers in five languages that write them as several words; the
encoder sees the three places of a number. Of the captions of unseen numbers each word that tells a digit (fewer than
half of its language's captions have it) is masked by itself: how often is it restored? Beside it R@1 between these
numbers and their captions, the mean over languages, by rows and with the ten best sorted by the fusion encoder.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from benchmarks.claims.numbers import picture_shards, trained
from benchmarks.claims.record import Claim, Expected, Figures, Recipe, Runs
from benchmarks.number_features import HIDDEN, PLACES, WIDTH, Pictures, Schedule, small_bert, word_tokenizer
from datamodules import WordTokenizer
from datamodules.numbers.corpus import words
from datamodules.reading.parts import Part
from losses import ItmLoss, Objective, OneToKLoss
from mmtrain.evaluation import retrieval_metrics
from mmtrain.fusion import CrossAttentionFusion, MatchingHead
from mmtrain.models.image_text import ImageTextModel
from mmtrain.objectives import MaskedText
from mmtrain.towers import FeatureTower, TransformersTower

LANGUAGES = "en", "es", "fr", "id", "lv"
BATCH, RATE, STEPS = 64, 1e-3, 1_000  # not searched
WORD_WIDTH, HEADS, FUSION_WIDTH, SHARE = 96, 4, 96, 0.4  # the share masked is CCRK's
ALONE, TEXT = "1-to-K", "1-to-K, masked words without the picture"
EVEN, HARD, WHOLE = "1-to-K, ITM", "1-to-K, ITM on the hardest caption", "the same, masked words with the picture"
WORD, IMAGES, TEXTS, RESORTED = "masked word", "image from text", "text from image", "image from text, ten best sorted"


class PlacesTower(FeatureTower):
    """Features whose three places are the tokens: each is the vector with the other places zero."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        pooled, _ = super().forward(images)
        return pooled, pooled[:, None] * torch.eye(PLACES, device=pooled.device).repeat_interleave(HIDDEN, 1)


def recipes(runs: Runs) -> dict[str, Recipe]:
    pictures = runs.pictures()
    shards = picture_shards(runs.folder / "shards", pictures["train"], LANGUAGES)
    names = ALONE, TEXT, EVEN, HARD, WHOLE
    return {name: Recipe(partial(measured, pictures, shards, name)) for name in names}


def objectives_of(name: str) -> dict[str, Objective]:
    objectives: dict[str, Objective] = {"one_to_k": OneToKLoss()}
    if name == TEXT:
        objectives["words"] = MaskedText(share=SHARE)
    if name in (EVEN, HARD, WHOLE):
        head = MatchingHead(CrossAttentionFusion(FUSION_WIDTH, heads=HEADS))
        objectives["itm"] = ItmLoss(head, positive="even" if name == EVEN else "hard")
    if name == WHOLE:
        objectives["words"] = MaskedText(fusion="itm", share=SHARE)
    return objectives


def measured(pictures: dict[str, Pictures], shards: str, name: str, seed: int, split: str) -> Figures:
    """In percent."""
    tokenizer = word_tokenizer({language: words(language) for language in LANGUAGES})
    torch.manual_seed(seed)
    objectives = objectives_of(name)
    model = trained(
        {"": Part(shards, BATCH)},
        objectives,
        Schedule(STEPS, BATCH),
        RATE,
        seed,
        image=PlacesTower(WIDTH, normalise=True),
        text=TransformersTower(config=small_bert(tokenizer.vocabulary_size, WORD_WIDTH)),
        reading={"tokenizer": tokenizer, "captions_per_image": "all"},
    )
    return asked(model, objectives, tokenizer, pictures[split])


@torch.no_grad()
def asked(
    model: ImageTextModel, objectives: dict[str, Objective], tokenizer: WordTokenizer, pictures: Pictures
) -> Figures:
    N, K = len(pictures.numbers), len(LANGUAGES)
    captions = [words(language)[number] for number in pictures.numbers.tolist() for language in LANGUAGES]
    tokens, mask = tokenizer(captions, LANGUAGES * N)
    languages, image_of_text = torch.arange(K).repeat(N), torch.arange(N).repeat_interleave(K)
    images, texts = model.encode_image(pictures.features), model.encode_text(tokens, mask, languages)
    of_text = image_of_text.numpy()
    found = retrieval_metrics(images, texts, of_text, [LANGUAGES[each] for each in languages.tolist()], bootstrap=0)
    figures = {
        IMAGES: found["text_to_image"]["mean"]["R@1"],
        TEXTS: found["image_to_text"]["mean"]["R@1"],
    }
    seen = model.image_tokens(pictures.features)
    if isinstance(itm := objectives.get("itm"), ItmLoss):
        nearest = (texts @ images.T).topk(10).indices
        read = model.text_tokens(tokens, mask, languages)
        there = torch.cat([mask[:, :1] | True, mask], 1)
        logits = torch.stack([itm.fusion(seen[images], read, there) for images in nearest.unbind(1)], 1)
        best = nearest.gather(1, (logits[..., 1] - logits[..., 0]).argmax(1, keepdim=True))
        figures[RESORTED] = 100 * float((best[:, 0] == image_of_text).float().mean())
    if isinstance(masked := objectives.get("words"), MaskedText):
        told = telling(tokenizer)[tokens] & mask
        right = []
        for text, place in zip(*(each.split(512) for each in told.nonzero(as_tuple=True)), strict=True):
            each, here = torch.arange(len(text)), (mask[text], languages[text], seen[image_of_text[text]])
            read = tokens[text].index_put((each, place), torch.tensor(tokenizer.mask_id))
            words_of = masked.output(masked.features(model, read, *here)[each, place]).argmax(1)
            right.append(words_of == tokens[text, place])
        figures[WORD] = 100 * float(torch.cat(right).float().mean())
    return figures


def telling(tokenizer: WordTokenizer) -> Tensor:
    """Of each token whether it tells a digit, bool [V]: fewer than half of its language's captions have it."""
    told = torch.zeros(tokenizer.vocabulary_size, dtype=torch.bool)
    for language in LANGUAGES:
        tokens, _ = tokenizer(words(language), [language] * 1000)
        having = torch.stack([torch.bincount(row, minlength=len(told)).clamp(max=1) for row in tokens]).sum(0)
        told |= (having > 0) & (having < 500)
    return told & ~torch.isin(torch.arange(len(told)), torch.tensor(sorted(tokenizer.special_ids)))


CLAIM = Claim(
    "CCRK (Nie et al. 2024)",
    "with the picture masked words are restored that the text alone does not tell; matching on the hardest caption and"
    " masked words raise R@1",
    recipes,
    [(WHOLE, TEXT), (EVEN, ALONE), (HARD, EVEN), (WHOLE, HARD), (WHOLE, ALONE)],
    [
        Expected(f"{WHOLE} over {TEXT}", WORD, above=0),
        Expected(f"{WHOLE} over {ALONE}", IMAGES, above=0),
        Expected(f"{HARD} over {EVEN}", RESORTED, above=0),
    ],
)
