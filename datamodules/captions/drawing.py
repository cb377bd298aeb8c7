"""Which languages of a sample fill its K caption slots: one small rule a class.

A rule sees the languages that a sample has, in the sample's own order, and names at most K of them. Of several captions
in a language one is drawn, evenly. A class of your own that follows `Drawing` is named by its import path.
"""

from __future__ import annotations

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from datamodules.shards.samples import Sample


class Drawing(ABC):
    """A rule; everything random about it comes from `rng`, so that a resumed run draws what it would have drawn.

    Views of one sample (`views_per_image`) are drawn one after the other, each of the languages whose captions no view
    has yet and of `always`; of the others only where those are too few.
    """

    @property
    def always(self) -> frozenset[str]:
        """Languages that every view may bring."""
        return frozenset()

    @abstractmethod
    def draw(self, languages: Sequence[str], count: int, rng: random.Random) -> list[str]:
        """At most `count` different ones of `languages`, those of one sample."""

    def check(self, languages: Sequence[str], count: int) -> None:
        """Raises ValueError, one line, where the rule does not fit the languages in use or cannot give `count`."""
        return None


class Uniform(Drawing):
    """Every language of the sample is as likely as any other."""

    def draw(self, languages: Sequence[str], count: int, rng: random.Random) -> list[str]:
        return list(languages) if len(languages) <= count else rng.sample(list(languages), count)


class Weighted(Drawing):
    """One language after the other, each in proportion to its weight among those not yet drawn.

    Args:
        weights: By language; 0 is never drawn, a language without a weight weighs 1.

    Raises:
        ValueError: for a weight below 0.
    """

    def __init__(self, weights: dict[str, float]) -> None:
        for language, weight in weights.items():
            if not (math.isfinite(weight) and weight >= 0):
                raise ValueError(f"drawing.weights: {language} weighs {weight}; 0 or more")
        self.weights = dict(weights)

    def draw(self, languages: Sequence[str], count: int, rng: random.Random) -> list[str]:
        pool = {language: weight for language in languages if (weight := self._weight(language)) > 0}
        drawn: list[str] = []
        while pool and len(drawn) < count:
            drawn += rng.choices(list(pool), list(pool.values()))
            del pool[drawn[-1]]
        return drawn

    def check(self, languages: Sequence[str], count: int) -> None:
        for language in self.weights:
            if language not in languages:
                raise ValueError(
                    f"drawing.weights: {language!r} is not among the languages in use, {', '.join(languages)}"
                )
        positive = sum(self._weight(language) > 0 for language in languages)
        if positive < count:
            raise ValueError(
                f"data.captions_per_image: {count} is more than the {positive} languages that drawing.weights "
                "leaves above 0; fewer captions, or fewer zeros"
            )

    def _weight(self, language: str) -> float:
        return self.weights.get(language, 1.0)


class Pivot(Drawing):
    """One language always, first, where the sample has it; the other slots by another rule.

    Args:
        language: The pivot.
        others: How the rest is drawn; evenly by default.
    """

    def __init__(self, language: str, others: Drawing | None = None) -> None:
        self.language, self.others = language, Uniform() if others is None else others

    @property
    def always(self) -> frozenset[str]:
        return self.others.always | {self.language}

    def draw(self, languages: Sequence[str], count: int, rng: random.Random) -> list[str]:
        first = [self.language] if self.language in languages and count else []
        rest = [language for language in languages if language != self.language]
        return first + self.others.draw(rest, count - len(first), rng)

    def check(self, languages: Sequence[str], count: int) -> None:
        if self.language not in languages:
            raise ValueError(
                f"drawing.language: the pivot {self.language!r} is not among the languages in use, "
                f"{', '.join(languages)}"
            )
        self.others.check([language for language in languages if language != self.language], count - 1)


class InOrder(Drawing):
    """The sample's own: all of its languages in the order in which it has them, up to K."""

    def draw(self, languages: Sequence[str], count: int, rng: random.Random) -> list[str]:
        return list(languages[:count])


def by_field(
    captions: Sequence[str], sample: Sample, language: str, weights: Mapping[str, float], rng: random.Random
) -> str:
    """One of these captions of a sample: a field by its weight, 1 where it has none, then one of its captions evenly.

    The record's "fields" names the fields of a language's captions, in their order, as `pack wit` writes it.
    """
    fields = sample.record.get("fields")
    fields = fields.get(language) if isinstance(fields, dict) else None
    own, field_of = sample.captions[language], {}
    if isinstance(fields, list) and len(fields) == len(own):
        field_of = dict(zip(own, map(str, fields), strict=True))
    texts: dict[str, list[str]] = {}
    for caption in captions:
        texts.setdefault(field_of.get(caption, ""), []).append(caption)
    drawn = rng.choices(list(texts), [weights.get(field, 1.0) for field in texts])[0]
    return rng.choice(texts[drawn])
