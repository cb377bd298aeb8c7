"""Storybooks as documents: a sentence in another language looks for its page within its own story.

    python -m benchmarks.pages --stories storybooks.jsonl

`mmtrain pack pages` renders each page of a manifest of stories (rows with "story" and "split", pictures and captions of
many languages) with its English text, small but readable, and each English sentence of train once more alone;
`pack questions` asks with one sentence of a page in each other language. Train and val are different stories. Words of
all languages get their places by latent semantic indexing of train (benchmarks/word_spaces.py). The visual model sees
a page as a bag of word shapes (benchmarks/word_shapes.py), knows no letter and no text of a page: a layer behind it
learns from pages of train and their captions in all languages where these lie.

`evaluate --questions` gives R@1 and R@5 of the pages of val within each story, beside what chance gives, and beside
BM25, the words themselves as a MODEL and as a sentence-transformers model, all over the pages' text; with 95 %
intervals over questions, and what the pages' pictures gain over each text.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.runs import CONFIGS, evaluated, fit_seconds, run, say
from benchmarks.word_shapes import SHAPES, count_shapes
from benchmarks.word_spaces import LONGEST, VECTORS, WORDS, fit_words, word_encoder, write_static
from datamodules.files import write_whole
from datamodules.packing.questions import SENTENCE, SHORTEST
from mmtrain.export.writing import write

LANGUAGES = ("sw", "af", "fr", "pt", "xh", "so", "zu", "nso", "de", "nb", "sv", "tn")
SIDE, WIDTH = 128, 100  # pixels of a page; of a word's vector
PAGE = ["--width", SIDE, "--height", SIDE, "--font_size", 9, "--picture_share", 0.25, "--workers", 1]
MARGINS = {"pages": 4, "sentences": 8}
RATE = 0.01  # a layer behind frozen features; not searched
DEPTHS = ("R@1", "R@5")


def packed(stories: Path, out: Path) -> None:
    """Pages of both splits, sentences of train, questions to val, and the words of train."""
    rows = [json.loads(line) for line in stories.read_text(encoding="utf-8").splitlines()]
    known = [row for row in rows if row["split"] == "train"]
    sentences = [
        {"id": f"{row['id']}-s{number}", "story": row["story"], "captions": {"en": sentence.strip()}}
        for row in known
        for number, sentence in enumerate(SENTENCE.findall(row["captions"]["en"]))
        if len(sentence.strip()) >= SHORTEST
    ]
    write_whole(out / "sentences.jsonl", "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in sentences))
    of_pages = ["--language", "en", "--document", "story", *PAGE]
    for split in ("train", "val"):
        target = ["--out", out / split, "--split", split, "--margin", MARGINS["pages"]]
        run("pack", "pages", stories, *of_pages, *target)
    run(
        "pack",
        "pages",
        out / "sentences.jsonl",
        *of_pages,
        "--out",
        out / "sentences",
        "--margin",
        MARGINS["sentences"],
    )
    languages = ["--languages", f"[{','.join(LANGUAGES)}]"]
    run("pack", "questions", out / "val", "--out", out / "questions.jsonl", *languages, "--sentence")
    texts = [[row["captions"][each] for each in ("en", *LANGUAGES) if each in row["captions"]] for row in known]
    fit_words(texts, WIDTH, out / "words")
    count_shapes(out / "train", out / "words")
    write_static(out / "words", out / "static")
    write(word_encoder(out / "words"), "words of stories", out / "model")


def trained(out: Path, folder: Path, steps: int, seed: int) -> float:
    """Trains on rendered pages into a run folder; minutes of a processor."""
    words = {"vocabulary": str(out / "words" / WORDS), "max_length": LONGEST}
    shapes = {"width": len(np.load(out / "words" / SHAPES)["codes"]), "shapes": str(out / "words" / SHAPES)}
    vectors = {"vocabulary_size": len(np.load(out / "words" / VECTORS)), "width": WIDTH}
    vectors["vectors"] = str(out / "words" / VECTORS)
    settings: dict[str, Any] = {
        "data.train": f"{out / 'train'}::{out / 'sentences'}",
        "data.languages": f"[en,{','.join(LANGUAGES)}]",
        "data.captions_per_image": 2,
        "data.tokenizer": {"class_path": "datamodules.WordTokenizer", "init_args": words},
        "data.images": {"class_path": "datamodules.ImagePipeline", "init_args": {"size": SIDE, "augment": False}},
        "data.workers": 0,
        "data.seed": seed,
        "model.image": {"class_path": "benchmarks.word_shapes.WordShapes", "init_args": shapes},
        "model.text": {"class_path": "benchmarks.word_spaces.WordSpace", "init_args": vectors},
        "model.learning_rate": RATE,
        "trainer.max_steps": steps,
        "seed_everything": seed,
    }
    return fit_seconds(CONFIGS / "pretrain" / "tiny.yaml", folder, settings) / 60


def measure(stories: Path, out: Path, steps: int, seed: int) -> None:
    if not (out / "model").is_dir():
        packed(stories, out)
    folder = out / f"seed{seed}"
    minutes = trained(out, folder, steps, seed)
    texts = f"bm25,{out / 'model'},hf:{out / 'static'}"
    metrics = evaluated(folder, out / "val", "--questions", out / "questions.jsonl", "--text_baselines", texts)
    say(f"trained in {minutes:.0f} minutes of a processor")
    say(f"\n| ranked by | {' | '.join(DEPTHS)} | pictures over it, {' | '.join(DEPTHS)} |\n|---|---|---|---|---|")
    row("the pages' pictures", metrics["questions"]["mean"])
    for name, each in metrics["text_baselines"].items():
        row(f"the pages' text, {name}", each["questions"]["mean"], each["gain"]["mean"])
    chance = metrics["protocol"]["questions"]["chance"]
    say(f"| chance | {' | '.join(f'{chance[depth]:.1f}' for depth in DEPTHS)} | | |")


def row(name: str, figures: dict[str, Any], gain: dict[str, Any] | None = None) -> None:
    """A line of the table: each figure and gain with the interval over questions."""
    cells = [(figures[depth], figures[f"{depth}_ci95"]) for depth in DEPTHS]
    cells += [(gain[depth]["difference"], gain[depth]["ci95"]) for depth in DEPTHS] if gain else []
    written = [f"{value:.1f} ({low:.1f} to {high:.1f})" for value, (low, high) in cells]
    say(f"| {name} | {' | '.join(written + [''] * (2 * len(DEPTHS) - len(written)))} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stories", type=Path, required=True, help="the manifest")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark_pages"))
    options = parser.parse_args()
    measure(options.stories, options.out, options.steps, options.seed)
