"""Captions drawn as pixels, a second and core.

    python -m benchmarks.rendering --manifest captions.jsonl --languages "en de ar hi th"

Every caption of the languages once, in batches of 64, on pages of 224 pixels, by CPU time. Fonts that are shaped are
measured twice: the second time most words were drawn before. Needs the Debian packages unifont and fonts-noto-core.
"""

import argparse
import json
import time
from pathlib import Path

from datamodules import RenderedText

NOTO = [f"Noto Sans{script}" for script in ("", " Arabic", " Hebrew", " Devanagari", " Bengali", " Tamil", " Thai")]


def rate(tokenizer: RenderedText, captions: list[str]) -> float:
    """Captions a second of CPU time."""
    began = time.process_time()
    for first in range(0, len(captions), 64):
        part = captions[first : first + 64]
        tokenizer(part, [""] * len(part))
    return len(captions) / (time.process_time() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", type=Path, required=True, help="JSON Lines with captions by language")
    parser.add_argument("--languages", default="en de ar hi th", help="separated by blanks")
    options = parser.parse_args()
    languages = options.languages.split()
    rows = [json.loads(line)["captions"] for line in options.manifest.read_text(encoding="utf-8").splitlines()]
    captions = [row[language] for row in rows for language in languages if isinstance(row.get(language), str)]
    length = sum(map(len, captions)) / len(captions)
    print(f"{len(captions):,} captions in {len(languages)} languages, of {length:.0f} characters\n")
    print("| font | captions a second | again | cut |\n|---|---|---|---|")
    for font in ("unifont", NOTO):
        tokenizer = RenderedText(font=font)
        first = rate(tokenizer, captions)
        cut, again = tokenizer.cut, rate(tokenizer, captions)
        print(f"| {font if isinstance(font, str) else 'Noto Sans'} | {first:,.0f} | {again:,.0f} | {cut} |")


if __name__ == "__main__":
    main()
