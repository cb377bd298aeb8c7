"""Words as tokens, with a vocabulary a language: what the systems of 2017 read."""

from __future__ import annotations

import contextlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from datamodules.files import write_whole
from datamodules.shards.locations import Reading, expand
from datamodules.shards.reader import open_shard
from datamodules.shards.records import read_records
from datamodules.shards.remote import local_path
from datamodules.shards.samples import PAIR_TEXTS, BrokenSample, read_texts
from datamodules.shards.survey import ShardSurvey
from datamodules.tokenizers.tokenizer import Tokenizer, padded

# scripts that put no space between words: one character is a token
UNSPACED = r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
_COMBINING = r"[\u0300-\u036f\u0900-\u0dff\u0e31\u0e34-\u0e3a\u0e47-\u0e4e]"
_TOKEN = re.compile(rf"{UNSPACED}(?:{_COMBINING})*|(?:(?!{UNSPACED})(?:\w|{_COMBINING}))+|[^\w\s]")


class WordTokenizer(Tokenizer):
    """Lower-cased words and marks; each language has its own words, all in one space of ids.

    Ids: 0 padding, 1 unknown, 2 start, 3 end, then the languages' words one language after the other; a vocabulary
    built as shared has one list for all languages. Scripts without spaces are read by character. A caption in a
    language without a vocabulary is all unknown.

    Args:
        vocabulary: The JSON file that `WordTokenizer.build` wrote.
        max_length: Longest row including start and end; longer captions are cut.

    Raises:
        ValueError: for a max_length below 3, or a file that `build` did not write.
    """

    PADDING, UNKNOWN, START, END, FIRST_WORD = 0, 1, 2, 3, 4
    SHARED = "*"  # the list of all languages in a shared vocabulary

    def __init__(self, vocabulary: str, max_length: int = 64) -> None:
        if max_length < 3:
            raise ValueError(f"tokenizer.max_length: {max_length} leaves no room for words; at least 3")
        try:
            words = json.loads(Path(vocabulary).read_text(encoding="utf-8"))["words"]
            self.words = {str(language): [str(word) for word in words[language]] for language in words}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"tokenizer.vocabulary: {vocabulary} cannot be read ({type(error).__name__}); a file that "
                "datamodules.WordTokenizer.build wrote"
            ) from None
        self.vocabulary, self.max_length = str(vocabulary), max_length
        self._all = [word for of_language in self.words.values() for word in of_language]
        self._ids: dict[str, dict[str, int]] = {}
        self.vocabulary_size = self.FIRST_WORD
        for language, of_language in self.words.items():
            self._ids[language] = {word: i for i, word in enumerate(of_language, self.vocabulary_size)}
            self.vocabulary_size += len(of_language)

    @property
    def mask_id(self) -> int:
        """The id of padding, which no text has under a True mask."""
        return self.PADDING

    @property
    def special_ids(self) -> frozenset[int]:
        return frozenset(range(self.FIRST_WORD))

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(self._all[id - self.FIRST_WORD] for id in ids)

    def spans(self, caption: str) -> list[tuple[int, int]]:
        found = list(_TOKEN.finditer(caption.lower()))[: self.max_length - 2]
        return [(0, 0), *(each.span() for each in found), (0, 0)]

    def __call__(self, captions: Sequence[str], languages: Sequence[str]) -> tuple[Tensor, Tensor]:
        return padded([self._row(caption, language) for caption, language in zip(captions, languages, strict=True)])

    def _row(self, caption: str, language: str) -> np.ndarray:
        ids = self._ids.get(self.SHARED) or self._ids.get(language, {})
        row = [ids.get(word, self.UNKNOWN) for word in split_words(caption)[: self.max_length - 2]]
        return np.array([self.START, *row, self.END], np.int64)

    def save(self, folder: str | Path) -> None:
        """Writes words.json, from which WordTokenizer(folder / "words.json") is the same again."""
        _write(self.words, Path(folder) / "words.json")

    @classmethod
    def build(
        cls,
        shards: str,
        out: str | Path,
        *,
        languages: Sequence[str] | None = None,
        minimum_count: int = 4,
        shared: bool = False,
        text_language: str = "und",
        max_length: int = 64,
    ) -> WordTokenizer:
        """Counts the words of SHARDS, writes the vocabulary to `out`, and returns its tokenizer.

        Args:
            shards: SHARDS to count, the training ones.
            out: The JSON file to write.
            languages: Languages to count; default all.
            minimum_count: Words seen less often are unknown.
            shared: One list for all languages, in which equal words are one word.
            text_language: Language of `.txt` captions.
            max_length: Of the tokenizer returned.

        Words are ordered by falling count, then by spelling, so the same shards give the same ids. Broken samples are
        passed over. Raises ValueError when no word is frequent enough.
        """
        counts: dict[str, Counter[str]] = {}
        for name in (name for source in expand(shards) for name in source.shards):
            try:
                path = local_path(name, Reading())
                shard = ShardSurvey(path, len(open_shard(path)))
            except BrokenSample:
                continue
            except OSError as error:
                raise ValueError(f"shards: {error}") from None
            for record, captions in read_records(shard, Reading(text_language)):
                for language, text in _texts(record, captions, text_language):
                    if languages is None or language in languages:
                        by_word = counts.setdefault(cls.SHARED if shared else language, Counter())
                        by_word.update(split_words(text))
        words = {
            language: [word for n, word in sorted((-n, word) for word, n in by_word.items()) if -n >= minimum_count]
            for language, by_word in sorted(counts.items())
        }
        if not any(words.values()):
            raise ValueError(f"shards: no word of {shards} comes {minimum_count} times; lower minimum_count")
        _write(words, out)
        return cls(str(out), max_length)


def _texts(record: dict, captions: dict[str, list[str]], language: str) -> list[tuple[str, str]]:
    """The captions of a sample; those of a pair where it has none."""
    if captions:
        return [(name, text) for name, texts in captions.items() for text in texts]
    with contextlib.suppress(BrokenSample):
        return [each for key in PAIR_TEXTS for each in read_texts(record, key, language)]
    return []


def split_words(caption: str) -> list[str]:
    """The tokens of a caption: lower-cased words, single marks, and single characters of unspaced scripts."""
    return _TOKEN.findall(unicodedata.normalize("NFC", caption).lower())


def _write(words: dict[str, list[str]], path: str | Path) -> None:
    write_whole(path, json.dumps({"words": words}, ensure_ascii=False, indent=0) + "\n")
