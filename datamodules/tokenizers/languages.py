"""Tokenizers that mark a caption's language with a token of its own (NLLB, mBART, mBART-50, M2M100)."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Rows = tuple[Tensor, Tensor]
UNKNOWN = ("", "und")
# codes that stand for one language: ISO 639-1, then those of FLORES-200 and of its macrolanguage
_SAME = (
    "af afr|ak aka|am amh|ar arb ara|as asm|ay ayr aym|az azj aze|ba bak|be bel|bg bul|bm bam|bn ben|bo bod|bs bos|"
    "ca cat|cs ces|cy cym|da dan|de deu|dz dzo|ee ewe|el ell|en eng|eo epo|es spa|et est|eu eus|fa pes fas|ff fuv ful|"
    "fi fin|tl fil tgl|fj fij|fo fao|fr fra|ga gle|gd gla|gl glg|gn grn|gu guj|ha hau|he iw heb|hi hin|hr hrv|ht hat|"
    "hu hun|hy hye|id in ind|ig ibo|is isl|it ita|ja jpn|jv jav|ka kat|kg kon|ki kik|kk kaz|km khm|kn kan|ko kor|"
    "ks kas|ku kmr kur|ky kir|lb ltz|lg lug|li lim|ln lin|lo lao|lt lit|lv lvs lav|mg plt mlg|mi mri|mk mkd|ml mal|"
    "mn khk mon|mr mar|ms zsm zlm msa|mt mlt|my mya|no nb nob nor|ne npi nep|nl nld|nn nno|ns nso|ny nya|oc oci|"
    "om gaz orm|or ory ori|pa pan|pl pol|ps pbt pus|pt por|qu quz quy que|rn run|ro ron|ru rus|rw kin|sa san|sc srd|"
    "sd snd|sg sag|si sin|sk slk|sl slv|sm smo|sn sna|so som|sq als sqi|sr srp|ss ssw|st sot|su sun|sv swe|sw swh swa|"
    "ta tam|te tel|tg tgk|th tha|ti tir|tk tuk|tn tsn|tr tur|ts tso|tt tat|tw twi|ug uig|uk ukr|ur urd|uz uzn uzb|"
    "vi vie|wo wol|xh xho|yi ydd yid|yo yor|zh zho cmn|zu zul"
)
SAME = {code: names.split() for names in _SAME.split("|") for code in names.split()}
TRADITIONAL = {"tw", "hk", "mo"}  # regions that write Chinese in Hant


class LanguageTokens:
    """Sets the language token of a transformers tokenizer; one without such tokens is left alone.

    A caption of no known language ("" or "und") gets the token that the tokenizer came with.

    Args:
        tokenizer: The tokenizer of transformers.
        codes: The tokenizer's own code by language, where the language's name does not tell it, e.g. {da: en_XX}.

    Raises:
        ValueError: for codes that the tokenizer does not have.
    """

    def __init__(self, tokenizer: Any, codes: Mapping[str, str] | None = None) -> None:
        self._tokenizer, self._codes = tokenizer, dict(codes or {})
        self._known = _language_codes(tokenizer)
        for language, code in self._codes.items():
            if code not in self._known:
                raise ValueError(
                    f"tokenizer.language_codes.{language}: {code!r} is no language token of this tokenizer;"
                    f" {', '.join(self._known[:20]) or 'it has none'}"
                )

    def encode(self, encode: Callable[[list[str]], Rows], captions: Sequence[str], languages: Sequence[str]) -> Rows:
        """What `encode` makes of the captions, each with the token of its language: ids and mask [N, L].

        Raises:
            ValueError: for a language that has no token.
        """
        if not self._known:
            return encode(list(captions))
        own = self._tokenizer.src_lang
        codes = [own if language in UNKNOWN else self.code(language) for language in languages]
        parts = []
        try:
            for code in dict.fromkeys(codes):
                self._tokenizer.src_lang = code
                places = [place for place, other in enumerate(codes) if other == code]
                parts.append((places, *encode([captions[place] for place in places])))
        finally:
            self._tokenizer.src_lang = own
        width = max((ids.shape[1] for _, ids, _ in parts), default=0)
        ids = torch.full((len(codes), width), self._tokenizer.pad_token_id)
        mask = torch.zeros(len(codes), width, dtype=torch.bool)
        for places, some, present in parts:
            ids[places, : some.shape[1]], mask[places, : some.shape[1]] = some, present
        return ids, mask

    def code(self, language: str) -> str:
        """The tokenizer's own code of a language. Raises ValueError for one that has none."""
        code = self._codes.get(language) or _closest(language, self._known)
        if code is None:
            raise ValueError(
                f"tokenizer: {type(self._tokenizer).__name__} has no token for the language {language!r}; leave the"
                f" language out, or name the token that stands in, as tokenizer.language_codes"
                f" {{{language}: {self._tokenizer.src_lang}}}"
            )
        return code


def _language_codes(tokenizer: Any) -> list[str]:
    if getattr(tokenizer, "src_lang", None) is None:
        return []
    if known := getattr(tokenizer, "lang_code_to_id", None):
        return sorted(known)
    names = (token.strip("_") for token in tokenizer.all_special_tokens)
    return sorted(name for name in names if re.fullmatch(r"[a-z]{2,3}(_[A-Z][A-Za-z]+)?", name))


def _closest(language: str, codes: Sequence[str]) -> str | None:
    """en -> en, en_XX or eng_Latn; zh-TW -> zho_Hant; None where no code or more than one is meant."""
    if language in codes:
        return language
    base, *parts = re.split("[-_]", language.lower())
    names = SAME.get(base, [base])
    same = [code for code in codes if code.split("_")[0] in names]
    wanted = {*parts, *(["hant"] if TRADITIONAL & set(parts) else [])}
    closer = [code for code in same if wanted & set(code.lower().split("_")[1:])] or same
    # of scripts, the first by the alphabet: Hans before Hant, Arab before Latn
    return closer[0] if len(closer) == 1 or (closer and base in SAME) else None
