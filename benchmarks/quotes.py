"""RESULTS.md is the one place of figures; other pages quote its passages, and this holds the two equal.

    python -m benchmarks.quotes            # writes the passages anew into README.md
    python -m benchmarks.quotes --check    # exits 1 and names the passages that differ

A passage stands in benchmarks/RESULTS.md between `<!-- --8<-- [start:NAME] -->` and `<!-- --8<-- [end:NAME] -->` (the
marks by which pages of docs/ include it too), and in README.md between `<!-- quoted: NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
QUOTE = re.compile(r"(<!-- quoted: (\S+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def passages(results: str) -> dict[str, str]:
    """Name -> text of the marked passages of RESULTS.md."""
    mark = r"<!-- --8<-- \[{}:{}\] -->\n"
    return dict(re.findall(mark.format("start", r"(\S+)") + "(.*?)" + mark.format("end", r"\1"), results, re.DOTALL))


def quoted(page: str, sources: dict[str, str]) -> tuple[str, list[str]]:
    """The page with its passages as they are now, and the names of those that differed.

    Raises:
        ValueError: for a passage that RESULTS.md does not have.
    """
    differing = []

    def now(quote: re.Match[str]) -> str:
        head, name, text, end = quote.groups()
        if name not in sources:
            raise ValueError(f"quoted: {name} is no passage of benchmarks/RESULTS.md, which has {sorted(sources)}")
        if text != sources[name]:
            differing.append(name)
        return head + sources[name] + end

    return QUOTE.sub(now, page), differing


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where a passage differs")
    options = parser.parse_args()
    readme = ROOT / "README.md"
    page, differing = quoted(readme.read_text(), passages((ROOT / "benchmarks" / "RESULTS.md").read_text()))
    if options.check:
        for name in differing:
            print(f"README.md: the passage {name} differs from benchmarks/RESULTS.md", file=sys.stderr)
        return int(bool(differing))
    readme.write_text(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
