"""Written captions against people's: exact match, F1 of words, BLEU and chrF."""

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from datamodules.tokenizers.words import split_words

UNSPACED = ("ja", "th", "lo", "my", "km", "bo")  # BLEU counts their characters


def caption_metrics(
    written: Mapping[str, Sequence[str]], references: Mapping[str, Sequence[Sequence[str]]]
) -> dict[str, dict[str, float]]:
    """{language or "mean": {"exact_match", "token_f1", "bleu", "chrf", "images"}}, in percent.

    Exact match: the share of captions that are one of the references, but for case and blanks. Token F1: of words,
    marks and single characters of scripts without spaces, towards the nearest reference, the mean over images. BLEU
    (Papineni et al. 2002) and chrF (Popović 2015) are sacrebleu's, of the whole collection; BLEU splits languages
    without spaces by characters, Chinese by sacrebleu's own rule, others as WMT does (13a).

    Args:
        written: Language -> N captions.
        references: Language -> N times at least one.

    Raises:
        ValueError: when sacrebleu is not installed.
    """
    check_installed()
    from sacrebleu.metrics import BLEU, CHRF

    tables: dict[str, dict[str, float]] = {}
    for language, texts in written.items():
        own = references[language]
        most = max(map(len, own))
        # a caption may have fewer references than another, which sacrebleu takes as None
        streams: Any = [[each[i] if i < len(each) else None for each in own] for i in range(most)]
        base = re.split("[-_]", language.lower())[0]
        split = "char" if base in UNSPACED else {"zh": "zh"}.get(base, "13a")
        right = [_plain(text) in map(_plain, each) for text, each in zip(texts, own, strict=True)]
        words = [max(token_f1(text, reference) for reference in each) for text, each in zip(texts, own, strict=True)]
        tables[language] = {
            "exact_match": 100 * float(np.mean(right)),
            "token_f1": 100 * float(np.mean(words)),
            "bleu": BLEU(tokenize=split).corpus_score(texts, streams).score,
            "chrf": CHRF().corpus_score(texts, streams).score,
            "images": len(texts),
        }
    names = next(iter(tables.values()))
    return tables | {"mean": {name: float(np.mean([each[name] for each in tables.values()])) for name in names}}


def token_f1(text: str, reference: str) -> float:
    """The harmonic mean of precision and recall of words, each as often as it comes; 1 for two empty texts."""
    ours, theirs = Counter(split_words(text)), Counter(split_words(reference))
    total = ours.total() + theirs.total()
    return 2 * (ours & theirs).total() / total if total else 1.0


def check_installed() -> None:
    """Raises ValueError, one line, without sacrebleu."""
    try:
        import sacrebleu  # noqa: F401
    except ImportError as error:
        raise ValueError("--generate: BLEU and chrF need sacrebleu: pip install 'mmtrain[captions]'") from error


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())
