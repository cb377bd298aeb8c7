"""Words of languages that are written without spaces."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

WITHOUT_SPACES = frozenset(("bo", "dz", "ja", "km", "lo", "my", "ryu", "th", "zh"))
WORDS = 32_000
UNKNOWN = "<unk>"


class Segmentation:
    """Words as a unigram model of the texts themselves finds them (Kudo 2018), so that no language needs a dictionary.

    Args:
        texts: What it learns from.
        words: The most words it learns.
    """

    def __init__(self, texts: Iterable[str], words: int = WORDS) -> None:
        self._tokenizer = Tokenizer(models.Unigram())
        self._tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()]
        )
        trainer = trainers.UnigramTrainer(
            vocab_size=words, special_tokens=[UNKNOWN], unk_token=UNKNOWN, show_progress=False
        )
        self._tokenizer.train_from_iterator(texts, trainer)

    def words(self, text: str) -> list[str]:
        """The words of a text in their order, punctuation included."""
        encoding = self._tokenizer.encode(text)
        return [text[start:end] for start, end in encoding.offsets]
