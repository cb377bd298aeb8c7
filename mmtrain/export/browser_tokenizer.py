"""A tokenizer of ours as tokenizer.json, which programs without mmtrain read, a browser's among them."""

import json
from pathlib import Path

from tokenizers import Regex, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as FastTokenizer

from datamodules import ByteTokenizer, TransformersTokenizer
from datamodules.tokenizers import Tokenizer

PADDING, START, END = "<pad>", "<s>", "</s>"  # no characters: a text that holds them is bytes as any other
# what str.strip takes off; the libraries' own Strip take three different sets
BLANKS = "".join(character for character in map(chr, range(0x3001)) if character.isspace())


def write_tokenizer(tokenizer: Tokenizer, folder: Path, prefix: str) -> None:
    """Writes tokenizer.json and tokenizer_config.json.

    Raises ValueError, beginning with `prefix`, for a tokenizer that is neither bytes nor one file of the tokenizers
    library.
    """
    if isinstance(tokenizer, ByteTokenizer):
        fast, padding, pad_id = _bytes(), PADDING, tokenizer.PADDING
        settings = {"tokenizer_class": "PreTrainedTokenizer", "model_max_length": tokenizer.max_length}
        settings |= {"bos_token": START, "eos_token": END, "pad_token": PADDING}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    elif isinstance(tokenizer, TransformersTokenizer) and getattr(tokenizer.tokenizer, "is_fast", False):
        if getattr(tokenizer.tokenizer, "src_lang", None) is not None:
            raise ValueError(f"{prefix}its tokenizers know no language, this one marks it by a token; use safetensors")
        tokenizer.tokenizer.model_max_length = tokenizer.max_length
        tokenizer.save(folder)
        fast = FastTokenizer.from_str(tokenizer.tokenizer.backend_tokenizer.to_str())
        padding, pad_id = tokenizer.tokenizer.pad_token, tokenizer.tokenizer.pad_token_id
        if tokenizer.lowercase:
            own = fast.normalizer
            fast.normalizer = normalizers.Sequence([normalizers.Lowercase(), *([own] if own else [])])
    else:
        name = type(tokenizer).__name__
        raise ValueError(f"{prefix}it has bytes and tokenizers of transformers, not {name}; use safetensors or onnx")
    fast.enable_truncation(tokenizer.max_length)
    fixed = tokenizer.max_length if getattr(tokenizer, "padding", None) == "max_length" else None
    fast.enable_padding(pad_id=pad_id, pad_token=padding, length=fixed)
    fast.save(str(folder / "tokenizer.json"))


def _bytes() -> FastTokenizer:
    """ByteTokenizer, but that a caption which is too long may be cut within a character."""
    special = {PADDING: ByteTokenizer.PADDING, START: ByteTokenizer.START, END: ByteTokenizer.END}
    vocabulary = special | {letter: byte + ByteTokenizer.FIRST_BYTE for byte, letter in enumerate(_letters())}
    fast = FastTokenizer(models.BPE(vocabulary, []))
    blanks = normalizers.Replace(Regex(rf"\A[{BLANKS}]+|[{BLANKS}]+\z"), "")
    fast.normalizer = normalizers.Sequence([blanks, normalizers.NFC()])
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    ends = [(START, ByteTokenizer.START), (END, ByteTokenizer.END)]
    fast.post_processor = processors.TemplateProcessing(f"{START} $A {END}", None, ends)
    return fast


def _letters() -> list[str]:
    """The letter that stands for each byte in a byte-level vocabulary (Radford et al. 2019, encoder.py)."""
    printed = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printed else next(others)) for byte in range(0x100)]
