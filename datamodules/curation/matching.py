"""Entries that stand in a caption, all found in one pass over it (Aho and Corasick 1975)."""

from __future__ import annotations

import re
import string
from typing import Any

from datamodules.curation.metadata import Metadata

APART = re.compile(r"[,.;:?!`]")
BREAKS = str.maketrans("\t\n\r", "   ")
# published: CJK, Thai, Lao, Tibetan, Burmese, Khmer; here also kana and what stands among them, without which no
# Japanese word that ends in kana is ever found
TOGETHER = re.compile(
    "[\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u2e80-\u2fdf\u2ff0-\u2fff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\U00020000-\U0002a6df\U0002a700-\U0002ebef\u3000-\u30ff\uff66-\uff9f]"
)
MARKS = frozenset(string.punctuation + "，。、；：？！“”‘’（）【】《》〈〉「」『』～—")  # as published


def spaced_text(caption: str) -> str:
    """A caption between spaces, with spaces around , . ; : ? ! and `."""
    return APART.sub(r" \g<0> ", f" {caption} ").translate(BREAKS)


def spaced_entry(entry: str) -> str:
    """An entry as it has to stand in a spaced caption: with a space before and behind it, except beside punctuation or
    a letter of a script that writes words together.

    One with one of , . ; : ? ! ` inside is found only where the caption has spaces around it.
    """
    before = "" if _joins(entry[0]) else " "
    return f"{before}{entry}{'' if _joins(entry[-1]) else ' '}"


def _joins(letter: str) -> bool:
    return letter in MARKS or TOGETHER.fullmatch(letter) is not None


class Matcher:
    """Finds the entries of a language in captions, with MetaCLIP 2's spacing (Chuang et al. 2025, and its code). Upper
    and lower case differ.

    Args:
        metadata: The entries; those of a language are made ready when it is first met.

    Raises:
        ValueError: without the package that searches.
    """

    def __init__(self, metadata: Metadata) -> None:
        try:
            import ahocorasick_rs
        except ImportError:
            raise ValueError("curate: ahocorasick_rs is not installed: pip install 'mmtrain[curate]'") from None
        self._make, self._metadata = ahocorasick_rs.AhoCorasick, metadata
        self._automata: dict[str, Any] = {}

    def __call__(self, caption: str, language: str) -> list[int]:
        """Numbers of the entries that stand in the caption, each once, in rising order; none for a language without
        entries.
        """
        entries = self._metadata.entries.get(language)
        if entries is None:
            return []
        if language not in self._automata:
            self._automata[language] = self._make(list(map(spaced_entry, entries)))
        found = self._automata[language].find_matches_as_indexes(spaced_text(caption), overlapping=True)
        first = self._metadata.first[language]
        return sorted({first + match[0] for match in found})
