"""Captions that are hardly more than names, found by spaCy, which is no dependency of ours."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from datamodules.packing.row import Row
from datamodules.shards.encoding import BadRow

CAUSE = "caption of proper nouns"
TAGGERS = {"tagger", "morphologizer"}  # either says which tokens are proper nouns


def without_proper_nouns(
    rows: Iterable[Row | BadRow], models: Mapping[str, str], share: float
) -> Iterator[Row | BadRow]:
    """The rows without captions of which at least `share` of the tokens are proper nouns (PROPN), as CLIP-Italian
    leaves them out (Bianchi et al. 2021, section 2.1: 80 %).

    Args:
        models: Language -> spaCy's model for it; captions in other languages stay.
        share: Of all tokens, punctuation included; above 0, at most 1.

    Each caption that is left out is a BadRow; a row that has none left over is gone. Raises ValueError, one line,
    without spaCy or one of the models.
    """
    if not 0 < share <= 1:
        raise ValueError(f"proper_noun_share: {share} is no share; above 0, at most 1")
    taggers = {language: _tagger(model) for language, model in models.items()}
    for row in rows:
        if isinstance(row, BadRow) or not isinstance(captions := row.record.get("captions"), dict):
            yield row
            continue
        record = row.record | {"captions": dict(captions)}
        if isinstance(fields := record.get("fields"), dict):
            record["fields"] = dict(fields)
        left_out = 0
        for language in [language for language in captions if language in taggers]:
            texts = captions[language] if isinstance(captions[language], list) else [captions[language]]
            kept = [i for i, text in enumerate(texts) if not _named(text, taggers[language], share)]
            if len(kept) == len(texts):
                continue
            left_out += len(texts) - len(kept)
            for texts_of in (record["captions"], record.get("fields")):
                if isinstance(texts_of, dict) and language in texts_of:
                    of_language = texts_of[language] if isinstance(texts_of[language], list) else [texts_of[language]]
                    texts_of[language] = [each for i, each in enumerate(of_language) if i in kept]
            if not kept:
                del record["captions"][language]
        yield from [BadRow(CAUSE, f"row {row.number + 1} ({record.get('id')})")] * left_out
        if record["captions"] or not left_out:
            yield row._replace(record=record)


def _named(text: object, tagger: Callable, share: float) -> bool:
    tokens = tagger(text) if isinstance(text, str) and text.strip() else ()
    return len(tokens) > 0 and sum(token.pos_ == "PROPN" for token in tokens) >= share * len(tokens)


def _tagger(model: str) -> Callable:
    try:
        import spacy
    except ImportError:
        raise ValueError("proper_nouns: spaCy is not installed: pip install spacy") from None
    try:
        tagger = spacy.load(model, exclude=["ner", "parser"])
    except OSError:
        raise ValueError(f"proper_nouns: spaCy has no model {model!r}: python -m spacy download {model}") from None
    if TAGGERS.isdisjoint(tagger.pipe_names):
        raise ValueError(f"proper_nouns: spaCy's model {model!r} tags no words; one like it_core_news_sm")
    return tagger
