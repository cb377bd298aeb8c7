"""What a curation did: a table for a terminal, and a page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datamodules.curation.joining import PAGE
from mmtrain.display.html import write_page
from mmtrain.display.tables import print_table

BALANCED = (
    "Of each language its threshold, the tail's share of all matches before and of those kept. The tail are the entries"
    " in at most so many captions as the threshold says: all of their captions are kept. The head are the others."
)
BY_MODEL = "Of each language the captions that are most similar to their pictures; the threshold is a similarity."


@dataclass
class Examples:
    """What is shown of a language.

    Attributes:
        entries: (entry, captions, captions kept) of the most frequent ones.
        let_go: (caption, entries, probability or similarity, what the filter that left it out counts or "").
    """

    entries: Sequence[tuple[str, int, int]] = ()
    let_go: list[tuple[str, int, float, str]] = field(default_factory=list)


def print_curation(target: Path, facts: dict[str, Any]) -> None:
    """Prints what became of each language."""
    columns = ("language", "captions", "matched", "kept", "share", "threshold", "tail before", "after")
    print_table(str(target), columns, [_row(name, own) for name, own in facts["languages"].items()])


def _row(name: str, own: dict[str, Any]) -> list[str]:
    tails = ["" if own[when] is None else f"{own[when]:.1%}" for when in ("tail_before", "tail_after")]
    share = own["kept"] / max(own["captions"], 1)
    return [name, *(f"{own[what]:,}" for what in ("captions", "matched", "kept")), f"{share:.1%}", _limit(own), *tails]


def _limit(own: dict[str, Any]) -> str:
    """The threshold, a count or a similarity."""
    value = own["threshold"]
    return "" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


def write_curation_page(
    folder: Path, shards: str, facts: dict[str, Any], examples: Mapping[str, Examples], *, balanced: bool = True
) -> None:
    """Writes curation.html: kept shares, head and tail before and after, frequent entries, captions let go."""
    languages = [
        {
            "name": name,
            **own,
            **vars(examples[name]),
            "share": own["kept"] / max(own["captions"], 1),
            "limit": _limit(own),
        }
        for name, own in facts["languages"].items()
    ]
    write_page(
        folder / PAGE,
        Path(__file__).with_name("curation.html.jinja"),
        title=f"Curation of {shards}",
        note=BALANCED if balanced else BY_MODEL,
        languages=languages,
        causes=sorted({cause for own in facts["languages"].values() for cause in own.get("filtered", ())}),
        skipped=facts["skipped"],
        balanced=balanced,
    )
