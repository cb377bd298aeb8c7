"""Storybooks as documents: a sentence in another language looks for its page within its own story.

    python -m benchmarks.pages --stories storybooks.jsonl --steps 300 --seeds 1

`mmtrain pack pages` renders each page of a manifest of stories (rows with "story" and "split", pictures and captions of
many languages) with its English text, `pack questions` asks with one sentence of each other language; train and val are
different stories. configs/pretrain/tiny.yaml is trained on the pages of train with the captions that they do not show,
then `evaluate --questions` gives R@1 and R@5 of the pages of val within each story, beside what chance gives and, by
--text_baselines, models of text on the English words. Prints means over languages, and over seeds with 95 % intervals
where there are several.
"""

import argparse
import json
from pathlib import Path

from benchmarks.runs import CONFIGS, evaluated, fit_seconds, interval, run, say

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
    rows: dict[str, list[tuple[float, ...]]] = {}
    for seed in range(options.seeds):
        folder = out / f"seed{seed}"
        settings = {"data.train": str(out / "train"), "data.languages": LANGUAGES, "trainer.max_steps": options.steps}
        settings |= {"data.images.init_args.size": PIXELS, "seed_everything": seed, "data.seed": seed}
        minutes = fit_seconds(CONFIGS / "pretrain" / "tiny.yaml", folder, settings) / 60
        texts = ["--text_baselines", options.text_baselines] if options.text_baselines else []
        metrics = evaluated(folder, out / "val", "--questions", asked, *texts)
        found = {"the pages' pictures": metrics["questions"]["mean"]}
        found |= {name: each["questions"]["mean"] for name, each in metrics.get("text_baselines", {}).items()}
        for name, each in found.items():
            rows.setdefault(name, []).append(tuple(each[depth] for depth in DEPTHS))
        shown = {name: {depth: round(each[depth], 1) for depth in DEPTHS} for name, each in found.items()}
        say(f"seed {seed}, {minutes:.0f} minutes: {json.dumps(shown)}")
        chance = metrics["protocol"]["questions"]["chance"]
    say(f"\n| ranked by | {' | '.join(DEPTHS)} |  (percent, mean over languages)\n|---|---|---|")
    for name, figures in rows.items():
        say(f"| {name} | " + " | ".join(map(interval, zip(*figures, strict=True))) + " |")
    say(f"| chance | {' | '.join(f'{chance[depth]:.1f}' for depth in DEPTHS)} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stories", required=True, help="the manifest")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--text_baselines", help="bm25,hf:NAME")
    parser.add_argument("--out", default="runs/benchmark_pages")
    measure(parser.parse_args())
