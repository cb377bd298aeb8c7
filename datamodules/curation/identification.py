"""What language a text is in."""

from __future__ import annotations

from functools import cache
from types import ModuleType


def language_of(text: str) -> str:
    """Its code, as py3langid says (97 languages). Raises ValueError, one line, without the package."""
    return str(_py3langid().classify(text)[0])


@cache
def identified() -> frozenset[str]:
    """The codes of all languages that `language_of` tells. Raises ValueError, one line, without py3langid."""
    return frozenset(language for language, _ in _py3langid().rank("a"))


def _py3langid() -> ModuleType:
    try:
        import py3langid
    except ImportError:
        raise ValueError("py3langid is not installed: pip install 'mmtrain[curate]'") from None
    return py3langid
