"""Words of languages that are written without spaces."""

from __future__ import annotations

WITHOUT_SPACES = frozenset(("bo", "dz", "ja", "km", "lo", "my", "ryu", "th", "zh"))
SPACES = "\u200b "  # Khmer may have one without a width between words


def segmented(text: str, language: str) -> list[str]:
    """The words of a text in their order, punctuation included: by ICU, which knows those of Chinese, Japanese, Thai,
    Lao, Khmer and Burmese by dictionary; of Tibetan and Dzongkha the syllables.

    Raises:
        ValueError: one line, without the package.
    """
    try:
        from icu4py.breakers import WordBreaker
    except ImportError:
        raise ValueError("--build_metadata: icu4py is not installed: pip install 'mmtrain[curate]'") from None
    return [word for each in WordBreaker(text, language) if (word := str(each).strip().strip(SPACES))]
