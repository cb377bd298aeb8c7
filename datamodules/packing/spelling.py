"""Languages as data sets spell them, as codes."""

import re
from functools import cache

RENAMED = {"jp": "ja", "iw": "he"}


def language_of(name: str) -> str:
    """The code of a language: "Telugu" is te, "jp" ja, "pt_BR" pt-BR; und for what no name or code is.

    >>> language_of("Egyptian_Arabic")
    'arz'
    """
    spelt = name.strip()
    if re.fullmatch(r"[A-Za-z]{2,3}([-_][A-Za-z0-9]+)*", spelt):
        code, *subtags = re.split("[-_]", spelt)
        return "-".join([RENAMED.get(code.lower(), code.lower()), *subtags])
    return _codes().get(spelt.replace("_", " ").casefold(), "und")


@cache
def _codes() -> dict[str, str]:
    from babel.core import Locale

    names = sorted(Locale("en").languages.items(), reverse=True)  # of equal names the shortest code stays
    return {name.casefold(): code.replace("_", "-") for code, name in names}
