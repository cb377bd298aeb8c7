"""Captions to token ids. Each tokenizer answers the same call: captions and their languages in, ids and mask out."""

from __future__ import annotations

import json
import os
import unicodedata
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from datamodules.tokenizers.languages import LanguageTokens


class Tokenizer(ABC):
    """What a data module and an exported model ask of a tokenizer; implement these three to bring your own.

    Attributes:
        vocabulary_size: How many ids there are.
        cut: Texts that had no room whole, so far, in this process, where a tokenizer counts them.
    """

    vocabulary_size: int
    cut: int = 0

    @property
    def mask_id(self) -> int | None:
        """The id that stands for a masked token; None where there is none."""
        return None

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids that stand for no text of a caption: padding, start, end, mask, languages."""
        return frozenset()

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, none of them special. Raises ValueError where a tokenizer has no way back."""
        raise ValueError(f"tokenizer: {type(self).__name__} has no `decode`, which makes a text of ids")

    def spans(self, caption: str) -> list[tuple[int, int]]:
        """The characters (start, end) of a caption, NFC without blanks around it, that each token stands for.

        A token that stands for none begins and ends at the same place. Empty where a tokenizer cannot say.
        """
        return []

    @abstractmethod
    def __call__(self, captions: Sequence[str], languages: Sequence[str]) -> tuple[Tensor, Tensor]:
        """int64 [N, L] ids and bool [N, L] mask, padded on the right; `languages` names each caption's language.

        A token may be more than a number: [N, L, ...] of any type, whose second dimension the mask describes.
        """

    @abstractmethod
    def save(self, folder: str | Path) -> None:
        """Writes what is needed to make this tokenizer again."""


class Prompted(Tokenizer):
    """A tokenizer that reads each text behind its role's prompt.

    Args:
        tokenizer: That of the texts.
        prompts: What stands before texts that search ("query") and texts that are found ("passage").
        role: That of the texts it is called with.
    """

    def __init__(self, tokenizer: Tokenizer, prompts: Mapping[str, str], role: str = "query") -> None:
        self.tokenizer, self.prompts, self.role = tokenizer, prompts, role
        self.vocabulary_size = tokenizer.vocabulary_size

    @property
    def mask_id(self) -> int | None:
        return self.tokenizer.mask_id

    @property
    def special_ids(self) -> frozenset[int]:
        return self.tokenizer.special_ids

    def decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids).removeprefix(self.prompts.get(self.role, ""))

    def spans(self, caption: str) -> list[tuple[int, int]]:
        prompt = self.prompts.get(self.role, "")
        spans = self.tokenizer.spans(prompt + caption)
        return [(max(start - len(prompt), 0), max(end - len(prompt), 0)) for start, end in spans]

    def __call__(self, captions: Sequence[str], languages: Sequence[str]) -> tuple[Tensor, Tensor]:
        prompt = self.prompts.get(self.role, "")
        return self.tokenizer([prompt + caption for caption in captions], languages)

    def save(self, folder: str | Path) -> None:
        self.tokenizer.save(folder)


ROLES = ("query", "passage")


def check_prompts(prompts: Mapping[str, str], option: str) -> None:
    """Raises ValueError for anything but texts of the known roles."""
    for role, text in prompts.items():
        if role not in ROLES or not isinstance(text, str):
            raise ValueError(f"{option}: got {role}: {text!r}, expected a text for {' and '.join(ROLES)}")


def role_of(name: str) -> str:
    """The role of a sample's texts: positives and negatives are found, captions, queries and all others search."""
    return "passage" if name in ("positive", "negatives") else "query"


class ByteTokenizer(Tokenizer):
    """UTF-8 bytes: no vocabulary, no download, every language alike.

    Ids: 0 padding, 1 start, 2 end, then byte + 3.

    Args:
        max_length: Longest row including start and end; a caption is cut between characters.

    Raises:
        ValueError: for a max_length below 3.
    """

    PADDING, START, END, FIRST_BYTE = 0, 1, 2, 3
    vocabulary_size = 259

    def __init__(self, max_length: int = 128) -> None:
        if max_length < 3:
            raise ValueError(f"tokenizer.max_length: {max_length} leaves no room for text; at least 3")
        self.max_length = max_length

    @property
    def mask_id(self) -> int:
        """The id of padding, which no text has under a True mask; so the vocabulary stays as it is."""
        return self.PADDING

    @property
    def special_ids(self) -> frozenset[int]:
        return frozenset(range(self.FIRST_BYTE))

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(id - self.FIRST_BYTE for id in ids).decode(errors="replace")

    def spans(self, caption: str) -> list[tuple[int, int]]:
        ends = [len(caption[:place].encode()) for place in range(len(caption) + 1)]
        count = len(self._row(caption)) - 2
        inner = [bisect_right(ends, byte) - 1 for byte in range(count)]
        return [(0, 0), *((place, place + 1) for place in inner), (0, 0)]

    def __call__(self, captions: Sequence[str], languages: Sequence[str]) -> tuple[Tensor, Tensor]:
        return padded([self._row(caption) for caption in captions])

    def _row(self, caption: str) -> np.ndarray:
        content = unicodedata.normalize("NFC", caption.strip()).encode()
        room = self.max_length - 2
        if len(content) > room:
            content = content[:room].decode(errors="ignore").encode()  # no half character at the cut
        row = np.frombuffer(content, np.uint8).astype(np.int64) + self.FIRST_BYTE
        return np.concatenate(([self.START], row, [self.END]))

    def save(self, folder: str | Path) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        settings = {"tokenizer": "ByteTokenizer", "max_length": self.max_length}
        (Path(folder) / "bytes.json").write_text(json.dumps(settings))  # tokenizer.json is the tokenizers library's


class TransformersTokenizer(Tokenizer):
    """Any tokenizer of transformers, by hub name or local folder.

    SigLIP and SigLIP 2 were trained on exactly 64 tokens, with no mask: their text towers read the padding and take the
    last position (pooling "last"). They need max_length 64, padding "max_length" and attend_padding, SigLIP 2 lowercase
    too; the tokenizers on the hub do none of it by themselves.

    Tokenizers that mark a caption's language with a token (NLLB, mBART, mBART-50, M2M100) get it from the caption's
    language: `en` is eng_Latn or en_XX. A caption of no known language has the tokenizer's own, mostly English.

    Args:
        name_or_folder: A hub name, "xlm-roberta-base" or "xlm-roberta-base@COMMIT", or a folder with a tokenizer's
            files. No code that comes with it is run.
        max_length: Longest row including special tokens; longer captions are cut.
        lowercase: Lower-case the text first.
        padding: "longest" pads to the batch's longest row, "max_length" always to max_length.
        attend_padding: Padding counts as text in the mask; needs padding "max_length".
        language_codes: The tokenizer's own code for languages that it does not have under their name, e.g. {da: en_XX}.

    Raises:
        ValueError: for options that do not go together, a tokenizer that cannot be loaded or has no padding token.
    """

    def __init__(
        self,
        name_or_folder: str,
        max_length: int = 64,
        lowercase: bool = False,
        padding: Literal["longest", "max_length"] = "longest",
        attend_padding: bool = False,
        language_codes: dict[str, str] | None = None,
    ) -> None:
        from transformers import AutoTokenizer  # seconds to import, so only who uses it pays

        if padding not in ("longest", "max_length"):
            raise ValueError(f"tokenizer.padding: {padding!r} is unknown; longest or max_length")
        if attend_padding and padding != "max_length":
            raise ValueError(
                "tokenizer.attend_padding: with padding longest a text would depend on its batch; max_length"
            )
        if max_length < 1:
            raise ValueError(f"tokenizer.max_length: {max_length} leaves no room for text; at least 1")
        # forked readers must not share the Rust tokenizer's threads
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        try:
            name, commit = str(name_or_folder), None
            if not Path(name).is_dir():
                name, _, commit = name.partition("@")
            self.tokenizer = AutoTokenizer.from_pretrained(name, revision=commit or "main", trust_remote_code=False)
        except (OSError, ValueError, ImportError, KeyError, TypeError, AttributeError) as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ValueError(
                f"tokenizer.name_or_folder: {str(name_or_folder)!r} could not be loaded ({first}); "
                "a folder with tokenizer files or a hub name"
            ) from None
        if self.tokenizer.pad_token is None:
            raise ValueError(f"tokenizer.name_or_folder: {str(name_or_folder)!r} has no padding token; one that has")
        self.name_or_folder, self.max_length = str(name_or_folder), max_length
        self.lowercase, self.padding, self.attend_padding = lowercase, padding, attend_padding
        self.language_codes = language_codes
        self._language_tokens = LanguageTokens(self.tokenizer, language_codes)
        self.vocabulary_size = len(self.tokenizer)

    @property
    def mask_id(self) -> int | None:
        return self.tokenizer.mask_token_id

    @property
    def special_ids(self) -> frozenset[int]:
        return frozenset(self.tokenizer.all_special_ids)

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids))).strip()

    def spans(self, caption: str) -> list[tuple[int, int]]:
        if not self.tokenizer.is_fast:
            return []
        lower = caption.lower() if self.lowercase and len(caption.lower()) == len(caption) else caption
        options = {"truncation": True, "max_length": self.max_length, "return_offsets_mapping": True}
        return [(start, end) for start, end in self.tokenizer(lower, **options)["offset_mapping"]]

    def __call__(self, captions: Sequence[str], languages: Sequence[str]) -> tuple[Tensor, Tensor]:
        return self._language_tokens.encode(self._encode, captions, languages)

    def _encode(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        encoded = self.tokenizer(
            [caption.lower() if self.lowercase else caption for caption in captions],
            truncation=True,
            max_length=self.max_length,
            padding=self.padding,
            padding_side="right",
            return_attention_mask=True,
            return_tensors="pt",
        )
        # the mask, not `ids != padding`: some vocabularies use one token for both padding and end of text
        mask, ids = encoded["attention_mask"].bool(), encoded["input_ids"].long()
        if not ids.shape[1]:  # empty texts alone, and no special tokens
            return ids.new_zeros(len(ids), 1), mask.new_zeros(len(ids), 1)
        return ids, torch.ones_like(mask) if self.attend_padding else mask

    def save(self, folder: str | Path) -> None:
        self.tokenizer.save_pretrained(str(folder))


def padded(rows: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Rows of different lengths as int64 [N, L] with zeros behind, and the bool [N, L] mask of what is text."""
    lengths = np.array([len(row) for row in rows], np.int64)
    ids = np.zeros((len(rows), int(lengths.max(initial=0))), np.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
    return torch.from_numpy(ids), torch.from_numpy(np.arange(ids.shape[1]) < lengths[:, None])
