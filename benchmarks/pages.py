"""Storybooks as documents: a sentence in another language looks for its page within its own story.

    python -m benchmarks.pages --stories storybooks.jsonl --steps 300 --text_baselines bm25,hf:NAME

`mmtrain pack pages` renders each page of a manifest of stories (rows with "story" and "split", pictures and captions of
many languages) with its English text, `pack questions` asks with one sentence of each other language; train and val are
different stories. configs/pretrain/tiny.yaml is trained on the pages of train with the captions that they do not show,
then `evaluate --questions` gives R@1 and R@5 of the pages of val within each story, beside what chance gives and, by
--text_baselines, what the English words give. Prints means over languages with 95 % intervals over questions, and what
the pages' pictures gain over each text.
"""

import argparse
from pathlib import Path
from typing import Any

from benchmarks.runs import CONFIGS, evaluated, fit_seconds, run, say

LANGUAGES = "[sw,af,fr,pt,xh,so,zu,nso,de,nb,sv,tn]"
PAGE = ["--width", 192, "--height", 192, "--margin", 8, "--font_size", 11, "--picture_share", 0.6]
PIXELS = 96
DEPTHS = ("R@1", "R@5")


def measure(options: argparse.Namespace) -> None:
    out = Path(options.out)
    for split in ("train", "val"):
        of_pages = ["--language", "en", "--document", "story", "--split", split, *PAGE]
        run("pack", "pages", options.stories, "--out", out / split, *of_pages)
    asked = out / "questions.jsonl"
    run("pack", "questions", out / "val", "--out", asked, "--languages", LANGUAGES, "--sentence")
    folder = out / f"seed{options.seed}"
    settings = {"data.train": str(out / "train"), "data.languages": LANGUAGES, "trainer.max_steps": options.steps}
    settings |= {"data.images.init_args.size": PIXELS, "seed_everything": options.seed, "data.seed": options.seed}
    minutes = fit_seconds(CONFIGS / "pretrain" / "tiny.yaml", folder, settings) / 60
    texts = ["--text_baselines", options.text_baselines] if options.text_baselines else []
    metrics = evaluated(folder, out / "val", "--questions", asked, *texts)
    say(f"trained in {minutes:.0f} minutes of a processor")
    say(f"\n| ranked by | {' | '.join(DEPTHS)} | pictures over it, {' | '.join(DEPTHS)} |\n|---|---|---|---|---|")
    row("the pages' pictures", metrics["questions"]["mean"])
    for name, each in metrics.get("text_baselines", {}).items():
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
    parser.add_argument("--stories", required=True, help="the manifest")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--text_baselines", help="bm25,hf:NAME")
    parser.add_argument("--out", default="runs/benchmark_pages")
    measure(parser.parse_args())
