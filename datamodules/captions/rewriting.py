"""Captions rewritten while they are drawn for training; evaluation reads them as they are.

What a model needs at every use, such as SigLIP 2's lower case, is the tokenizer's and not a transform.
"""

from __future__ import annotations

import random
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

LEFT_OUT = "∅"  # in a dictionary: the language has no word here
DICTIONARY = "a TSV whose first line names the languages: of the words, then of each column of translations"

# language -> word -> language -> translations, each once and in the file's order
Entries = dict[str, dict[str, dict[str, dict[str, None]]]]


class TextTransform(ABC):
    """Rewrites one caption; everything random about it comes from `rng`."""

    @abstractmethod
    def __call__(self, caption: str, language: str, rng: random.Random) -> str:
        """The caption to train on. It stays a caption in `language`, whatever words it is made of."""

    def check(self, languages: Sequence[str]) -> None:
        """Raises ValueError, one line, where the transform can do nothing for any of the languages in use."""
        return None


class AsWritten(TextTransform):
    """The caption as it is; for a source of a mixture whose others are rewritten."""

    def __call__(self, caption: str, language: str, rng: random.Random) -> str:
        return caption


class CodeSwitch(TextTransform):
    """Words replaced by their translations, by M3P's rule (Ni et al., CVPR 2021, section 3.3, and its sampler's code).

    A caption stays as it is with probability 1 - sentence_ratio. Otherwise each of its words, split at spaces, that a
    dictionary of its language has, exactly as written, is replaced with probability word_ratio: by a language drawn
    evenly of those that have the word, then by one of its translations there, drawn evenly. So several languages meet
    in one caption; its language index stays that of the caption it was made from.

    With language_by "caption" all words of a caption go into one language, drawn evenly of those that have any of its
    words; what that language lacks stays. This is no longer M3P's rule: captions become the other language's as far as
    words make it. Where a language writes together what the caption writes apart, `join` says what stands between.

    A dictionary is a TSV in UTF-8. Its first line names the languages: the first column holds words of the first
    language, every other column translations into the language named above it. An empty cell is no translation, the
    cell ∅ says that the language leaves the word out; a word with several translations comes on several lines. So
    a file of one pair has two columns, and one file may hold many.

    Args:
        dictionaries: The files; those of one language are taken together.
        sentence_ratio: Share of the captions that are switched.
        word_ratio: Share of a dictionary's words that are replaced in those.
        language_by: Draws a language for each "word", as M3P does, or one for the whole "caption".
        join: By language, what stands between two words next to one another that were replaced by its own, instead of
            a space, such as {de: ""}.

    Raises:
        ValueError: a ratio outside 0 to 1, an unknown language_by, a language to join without translations, or
            a file that is missing or no such table, with the line.
    """

    def __init__(
        self,
        dictionaries: list[str],
        sentence_ratio: float = 0.8,
        word_ratio: float = 0.8,
        language_by: Literal["word", "caption"] = "word",
        join: dict[str, str] | None = None,
    ) -> None:
        for name, ratio in (("sentence_ratio", sentence_ratio), ("word_ratio", word_ratio)):
            if not 0 <= ratio <= 1:
                raise ValueError(f"text.{name}: {ratio} is no share; 0 to 1")
        if not dictionaries:
            raise ValueError(f"text.dictionaries: none are named; {DICTIONARY}")
        if language_by not in ("word", "caption"):
            raise ValueError(f"text.language_by: {language_by!r} is unknown; word or caption")
        self.dictionaries = [str(path) for path in dictionaries]
        self.sentence_ratio, self.word_ratio = sentence_ratio, word_ratio
        self.language_by, self.join = language_by, dict(join or {})
        entries: Entries = {}
        for path in self.dictionaries:
            read_dictionary(path, entries)
        # language -> word -> language -> its translations there
        self._words = {
            language: {word: {to: tuple(texts) for to, texts in there.items()} for word, there in words.items()}
            for language, words in entries.items()
        }
        targets = {to for words in self._words.values() for there in words.values() for to in there}
        if unknown := sorted(set(self.join) - targets):
            raise ValueError(f"text.join: no translations into {', '.join(unknown)}; {', '.join(sorted(targets))}")

    def __call__(self, caption: str, language: str, rng: random.Random) -> str:
        words = self._words.get(language)
        if words is None or rng.random() >= self.sentence_ratio:
            return caption
        # composed like the dictionary, or accents written the other way would never match
        written = unicodedata.normalize("NFC", caption).split(" ")
        there = [words.get(word, {}) for word in written]
        if self.language_by == "caption" and (targets := sorted(set().union(*there))):
            target = rng.choice(targets)
            there = [{target: each[target]} if target in each else {} for each in there]
        text: str | None = None
        before = ""
        for word, translations in zip(written, there, strict=True):
            target = ""
            if translations and rng.random() < self.word_ratio:
                target = rng.choice(list(translations))
                word = rng.choice(translations[target])
                if word == LEFT_OUT:
                    continue
            between = self.join.get(target, " ") if target and target == before else " "
            text, before = word if text is None else text + between + word, target
        return text or caption

    def check(self, languages: Sequence[str]) -> None:
        if not set(languages) & self._words.keys():
            raise ValueError(
                f"text.dictionaries: words of {', '.join(sorted(self._words))}, but the languages in use are "
                f"{', '.join(languages)}; a dictionary whose first column is one of these"
            )


def read_dictionary(path: str | Path, entries: Entries) -> None:
    """Adds the entries of a TSV. Raises ValueError, one line, for a file that cannot be read or is no dictionary."""

    def wrong(what: str, line: int | None = None) -> ValueError:
        place = "" if line is None else f", line {line}"
        return ValueError(f"text.dictionaries: {path}{place}: {what}; {DICTIONARY}")

    try:
        lines = unicodedata.normalize("NFC", Path(path).read_text(encoding="utf-8-sig")).split("\n")
    except OSError as error:
        raise wrong(f"cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise wrong("is not UTF-8") from None
    source, *targets = [cell.strip() for cell in lines[0].split("\t")]
    if not targets or not source or not all(targets) or len({source, *targets}) <= len(targets):
        raise wrong(f"names no two languages: {lines[0][:40]!r}", 1)
    empty = True
    for number, line in enumerate(lines[1:], 2):
        word, *translations = [cell.strip() for cell in line.split("\t")]
        if not line.strip():
            continue
        if not word or len(translations) > len(targets):
            raise wrong(f"{'no word' if not word else f'{len(translations) + 1} cells'} in {line[:40]!r}", number)
        for target, translation in zip(targets, translations, strict=False):  # empty cells at the end may be left out
            if translation:
                entries.setdefault(source, {}).setdefault(word, {}).setdefault(target, {})[translation] = None
                empty = False
    if empty:
        raise wrong("holds no translation")
