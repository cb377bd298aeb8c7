"""Captions that are hardly more than names, found by spaCy, which is no dependency of ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from datamodules.curation.filters import CaptionFilter

RULES = "attribute_ruler"  # says parts of speech by its rules, while spaCy knows it to assign nothing


class ProperNouns(CaptionFilter):
    """Captions of which less than `share` of the tokens are proper nouns (PROPN), as CLIP-Italian keeps them (Bianchi
    et al. 2021, section 2.1: 80 %).

    Args:
        models: Language -> spaCy's model for it, by name or folder; captions in other languages stay.
        share: Of all tokens, punctuation included; above 0, at most 1.

    Raises:
        ValueError: one line, without spaCy or one of the models.
    """

    cause = "caption of proper nouns"

    def __init__(self, models: Mapping[str, str], share: float = 0.8) -> None:
        if not 0 < share <= 1:
            raise ValueError(f"proper_noun_share: {share} is no share; above 0, at most 1")
        self.models, self.share = dict(models), share
        self._taggers = {language: _tagger(model) for language, model in models.items()}

    def keeps(self, text: str, language: str) -> bool:
        tokens = self._taggers[language](text) if language in self._taggers else ()
        return not len(tokens) or sum(token.pos_ == "PROPN" for token in tokens) < self.share * len(tokens)


def _tagger(model: str) -> Callable:
    try:
        import spacy
    except ImportError:
        raise ValueError("proper_nouns: spaCy is not installed: pip install spacy") from None
    try:
        tagger = spacy.load(model, exclude=["ner", "parser"])
    except (OSError, ValueError) as error:
        if Path(model).is_dir():
            said = str(error).strip().splitlines()[0]
            raise ValueError(f"proper_nouns: {model} holds no model that spaCy can load: {said}") from None
        raise ValueError(
            f"proper_nouns: spaCy has no model {model!r}: python -m spacy download {model}, or a model's folder"
        ) from None
    parts = map(tagger.get_pipe_meta, tagger.pipe_names)
    if not any("token.pos" in part.assigns or part.factory == RULES for part in parts):
        held = ", ".join(tagger.pipe_names) or "nothing"
        raise ValueError(
            f"proper_nouns: spaCy's model {model!r} tells no parts of speech, it has {held}; one like it_core_news_sm"
        )
    return tagger
