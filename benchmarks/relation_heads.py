"""Heads on a frozen space, from the least to the most, trained on features of the posts that stay in memory.

    python -m benchmarks.relation_heads SPACE --posts DIR [--seeds 5] [--steps 500]

SPACE and DIR (train, val, test) are what `python -m benchmarks.relation --only posts` makes, OUT/space and OUT/posts.
Losses, heads, the regression and the figures are those of `mmtrain fit` and `mmtrain evaluate`; only the towers do not
run again for every batch, and pictures are not augmented. Heads see English posts alone. The learning rate of each is
the best of two on val in English, by a seed of its own. Macro F1 on the test posts in percent, mean and 95 % interval.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.special import softmax
from torch import Tensor

from benchmarks.runs import interval, say
from losses import Embeddings, TokenFeatures
from mmtrain import load
from mmtrain.embedding.collected import Embedded
from mmtrain.embedding.one_pass import Features, embed, padded
from mmtrain.embedding.splits import open_split
from mmtrain.evaluation.measuring.relation_baselines import linear_probe, rows_of_pairs
from mmtrain.evaluation.metrics.relation import relation_metrics
from mmtrain.fusion import RelationHead, TextToImageAttention
from mmtrain.models.encoder import Encoder
from mmtrain.models.image_text import ImageTextModel
from mmtrain.objectives import TaskLoss

TASK, CLASSES, LANGUAGES = "relation", 4, ["en", "lv"]
RATES, BATCH = (1e-3, 3e-3), 64
HEADS = {  # whether the layer reads the pair's rows, and starts from their regression
    "fused vector alone": (False, False),
    "and the pair's rows": (True, False),
    "and starts from the regression": (True, True),
}


@dataclass
class Posts:
    """A split's rows and its token features, of pictures [N, 1 + P, Wi] and of texts, each [1 + L, Wt]."""

    rows: Embedded
    images: Tensor
    texts: list[Tensor]

    @property
    def labels(self) -> np.ndarray:
        return self.rows.labels[TASK]

    def batch(self, places: np.ndarray) -> Embeddings:
        """Pairs by their texts' places."""
        image = self.rows.image_of_text[places]
        tokens, mask = padded([self.texts[place] for place in places])
        return Embeddings(
            image=torch.from_numpy(self.rows.images[image]),
            texts=torch.from_numpy(self.rows.texts[places])[:, None],
            present=torch.ones(len(places), 1, dtype=torch.bool),
            image_tokens=TokenFeatures(self.images[image].float()),
            text_tokens=TokenFeatures(tokens[:, None], mask[:, None]),
            labels={TASK: torch.from_numpy(self.labels[places])},
        )


def embedded(encoder: Encoder, data: Path, languages: list[str]) -> Posts:
    features = Features()
    rows = embed(encoder, open_split(encoder, str(data), languages, 64, 0, labelled=True), [features], tokens=True)
    return Posts(rows, *features.of(rows))


Solution = tuple[np.ndarray, np.ndarray]


def trained(
    encoder: Encoder, posts: Posts, kind: str, regression: Solution, rate: float, seed: int, steps: int
) -> RelationHead:
    """A head after so many steps of AdamW, the rate falling to 0."""
    torch.manual_seed(seed)
    random, model = np.random.default_rng(seed), encoder.model
    assert isinstance(model, ImageTextModel) and model.image is not None
    reads_rows, starts = HEADS[kind]
    fusion = TextToImageAttention(256).connect(model.image.width, model.text.width)
    names = {TASK: [str(number) for number in range(CLASSES)]}
    head = RelationHead(fusion, names, dropout=0.3, rows=model.dimension if reads_rows else None)
    if starts:
        head.start(TASK, *map(torch.from_numpy, regression))
    loss = TaskLoss(TASK, lambda batch: judged(head, batch), torch.ones(CLASSES))
    optimiser = torch.optim.AdamW(head.parameters(), lr=rate, weight_decay=2.5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        optimiser.zero_grad()
        loss.loss(None, posts.batch(random.choice(len(posts.labels), BATCH, replace=False)), None).backward()
        optimiser.step()
        schedule.step()
    return head.eval()


def judged(head: RelationHead, batch: Embeddings) -> dict[str, Tensor]:
    posts = torch.arange(len(batch.texts))
    return head.judge(batch, posts, torch.zeros_like(posts))


@torch.inference_mode()
def scores(head: RelationHead, posts: Posts) -> dict[str, float]:
    """Macro F1 by language."""
    parts = np.array_split(np.arange(len(posts.labels)), -(-len(posts.labels) // 256))
    logits = torch.cat([judged(head, posts.batch(part))[TASK] for part in parts])
    return by_language(posts, logits.numpy())


def by_language(posts: Posts, logits: np.ndarray) -> dict[str, float]:
    languages = np.array(LANGUAGES)[posts.rows.language_of_text]
    table = relation_metrics(posts.labels, softmax(logits, 1), languages, bootstrap=0)
    return {language: figures["macro_f1"] for language, figures in table.items()}


def main(space: str, data: Path, seeds: int, steps: int) -> None:
    encoder = load(space)
    train, val, test = (
        embedded(encoder, data / split, languages)
        for split, languages in (("train", ["en"]), ("val", ["en"]), ("test", LANGUAGES))
    )
    regression = weight, bias = linear_probe(train.rows, TASK, CLASSES)
    probe = by_language(test, rows_of_pairs(test.rows) @ weight.T + bias)
    say(f"logistic regression on the pair's rows: English {probe['en']:.1f}   Latvian {probe['lv']:.1f}")
    for name in HEADS:
        on_val = {
            rate: scores(trained(encoder, train, name, regression, rate, 100, steps), val)["en"] for rate in RATES
        }
        rate = max(on_val, key=lambda rate: on_val[rate])
        found = [scores(trained(encoder, train, name, regression, rate, seed, steps), test) for seed in range(seeds)]
        said = "   ".join(
            f"{full} {interval([each[language] for each in found])}"
            for full, language in (("English", "en"), ("Latvian", "lv"))
        )
        say(f"{name}, rate {rate}: {said}   val {on_val[rate]:.1f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("space")
    parser.add_argument("--posts", required=True, type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=500)
    options = parser.parse_args()
    main(options.space, options.posts, options.seeds, options.steps)
