"""Names of languages in English, from the Unicode locale data."""

import functools
import re

CODE = re.compile(r"[a-z]{2,8}([-_][a-z0-9]{2,8})*", re.IGNORECASE)


@functools.cache
def language_name(code: str) -> str:
    """The English name of a language code such as lv, no, zh-Hans or pt_BR; "" where the data has none."""
    if not CODE.fullmatch(code):
        return ""
    from babel.core import Locale, get_global

    english, renamed = Locale("en"), get_global("language_aliases")
    first, *others = code.lower().replace("_", "-").split("-")
    # a former code, or one of a language's varieties, has another name
    name = english.languages.get(first) or english.languages.get(renamed.get(first, "").split("_")[0], "")
    parts = [english.scripts.get(part.title()) or english.territories.get(part.upper(), part) for part in others]
    return f"{name} ({', '.join(parts)})" if name and parts else name
