"""What language a text is in."""

from __future__ import annotations


def language_of(text: str) -> str:
    """Its code, as py3langid says (97 languages). Raises ValueError, one line, without the package."""
    try:
        from py3langid import classify
    except ImportError:
        raise ValueError("py3langid is not installed: pip install 'mmtrain[curation]'") from None
    return str(classify(text)[0])
