"""Active selection where 30 % of the captions are another picture's; a minute a training.

JEST (Evans et al. 2024) trains what a model loses more on than a reference does, which SigLIP 2 (Tschannen et al. 2025)
ends with. English number words, 64 pictures trained a step: drawn evenly, or half of 128 that
`mmtrain.training.ActiveSelection` keeps. Model and reference are trained by SigLIP's loss (`selection`) or by CLIP's
(`selection_clip`). The reference saw a clean tenth of the pictures, or all with their noise, and was trained as long as
the model. Uniform draws of twice the steps stand for equal time. Asked are unseen numbers.
"""

from __future__ import annotations

import logging
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.claims.numbers import picture_shards, trained
from benchmarks.claims.record import Claim, Expected, Figures, Recipe, Runs
from benchmarks.number_features import Corpus, Pictures, Schedule, encoded
from datamodules import ByteTokenizer
from datamodules.batch import Batch
from datamodules.reading.parts import Part
from losses import ClipLoss, SiglipLoss
from mmtrain.evaluation import retrieval_metrics
from mmtrain.export.writing import write
from mmtrain.models.encoder import Encoder
from mmtrain.models.image_text import ImageTextModel
from mmtrain.training import ActiveSelection

NOISY, CLEAN_TENTH = 0.3, 10
KEPT, FILTER, STEPS = 64, 0.5, 400
RATE, REFERENCE_SEED = 8e-3, 200  # the rate as in `pairs`, not searched
EVENLY, LONGER = "uniform", "uniform, twice the steps"
UNIFORM = {EVENLY: STEPS, LONGER: 2 * STEPS}
SELECTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "learnability, clean": ("clean", {}),
    "easy-reference, clean": ("clean", {"score": "easy-reference"}),
    "learnability, noisy": ("noisy", {}),
    "easy-reference, noisy": ("noisy", {"score": "easy-reference"}),
}
SHARE = "noisy share kept"
Loss = type[ClipLoss | SiglipLoss]


class Counted(ActiveSelection):
    """Remembers of each step how many of the samples kept have another picture's caption."""

    def __init__(self, reference: str, wrong: frozenset[str], **options: Any) -> None:
        super().__init__(reference, FILTER, **options)
        self.wrong, self.kept = wrong, list[float]()

    def chosen(self, batch: Batch, model: ImageTextModel) -> Batch:
        kept = super().chosen(batch, model)
        self.kept.append(100 * sum(each in self.wrong for each in kept.ids) / len(kept))
        return kept


def recipes(loss: Loss, runs: Runs) -> dict[str, Recipe]:
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    corpus, (pictures, wrong) = Corpus.build(("en",), runs.pictures()), shuffled(runs.pictures()["train"])
    tenth = torch.from_numpy(np.random.default_rng(1).permutation(len(wrong))[: len(wrong) // CLEAN_TENTH])
    clean = runs.pictures()["train"]
    shards = {
        "noisy": picture_shards(runs.folder / "noisy", pictures, ["en"]),
        "clean": picture_shards(runs.folder / "clean", Pictures(clean.features[tenth], clean.numbers[tenth]), ["en"]),
    }
    result = partial(measured, corpus, shards["noisy"], frozenset(f"n{i}" for i in np.flatnonzero(wrong)), loss)
    references = {name: reference(runs.folder / f"{name} reference", path, loss) for name, path in shards.items()}
    chosen = {name: Recipe(partial(result, None, {}, steps)) for name, steps in UNIFORM.items()}
    return chosen | {
        name: Recipe(partial(result, references[known], options, STEPS))
        for name, (known, options) in SELECTIONS.items()
    }


def shuffled(pictures: Pictures) -> tuple[Pictures, np.ndarray]:
    """The pictures with what their captions say, of which some changed places, and which of them are wrong."""
    random, said = np.random.default_rng(0), pictures.numbers.numpy().copy()
    moved = random.permutation(len(said))[: round(NOISY * len(said))]
    said[moved] = said[random.permutation(moved)]
    return Pictures(pictures.features, torch.from_numpy(said)), said != pictures.numbers.numpy()


def reference(folder: Path, shards: str, kind: Loss) -> str:
    """A model as a folder with its temperature, trained once."""
    if not folder.is_dir():
        loss = kind()
        model = trained({"": Part(shards, KEPT)}, {"loss": loss}, Schedule(STEPS, KEPT), RATE, REFERENCE_SEED)
        learned = {name: float(value) for name, value in loss.logged().items()}  # scale and bias
        write(Encoder(model, ByteTokenizer(), None, ["en"], "cosine", "it", **learned), "it", folder)
    return str(folder)


def measured(
    corpus: Corpus,
    shards: str,
    wrong: frozenset[str],
    loss: Loss,
    known: str | None,
    options: dict[str, Any],
    steps: int,
    seed: int,
    split: str,
) -> Figures:
    """R@1 and, with a reference, how much of what is kept is wrong, by quarters of the training; in percent."""
    torch.manual_seed(seed)
    selection = None if known is None else Counted(known, wrong, **options)
    batch, start = KEPT if known is None else round(KEPT / (1 - FILTER)), time.process_time()
    part = {"": Part(shards, batch)}
    model = trained(part, {"loss": loss()}, Schedule(steps, batch), RATE, seed, selection=selection)
    seconds = time.process_time() - start
    found = retrieval_metrics(*encoded(model, corpus, split), bootstrap=0)
    figures = {
        "image from en": found["text_to_image"]["en"]["R@1"],
        "from image to en": found["image_to_text"]["en"]["R@1"],
        "CPU seconds": seconds,
    }
    if selection is not None:
        figures[SHARE] = float(np.mean(selection.kept))
        quarters = np.array_split(selection.kept, 4)
        figures |= {f"{SHARE}, quarter {n}": float(np.mean(own)) for n, own in enumerate(quarters, 1)}
    return figures


CLAIMS = {
    name: Claim(
        "JEST (Evans et al. 2024), SigLIP 2 (Tschannen et al. 2025)",
        f"with {title} and 30 % of the captions wrong, selection by a clean reference keeps less than 5 % of them and"
        " raises R@1",
        partial(recipes, loss),
        [(name, uniform) for uniform in UNIFORM for name in SELECTIONS],
        [
            Expected("learnability, clean", SHARE, below=5),
            Expected(f"learnability, clean over {EVENLY}", "image from en", above=0),
        ],
    )
    for name, title, loss in (("selection", "SigLIP's loss", SiglipLoss), ("selection_clip", "CLIP's loss", ClipLoss))
}
