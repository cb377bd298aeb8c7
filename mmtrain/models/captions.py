"""Captions that a model writes: a decoder behind its image tower, and the tokenizer's way back to text."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmtrain.fusion import CaptionDecoder
from mmtrain.fusion.decoder import contents

if TYPE_CHECKING:
    from mmtrain.models.encoder import Encoder


def decoder_of(encoder: "Encoder", option: str) -> CaptionDecoder:
    """The encoder's decoder. Raises ValueError, beginning with the option that needs it, where there is none."""
    if encoder.decoder is None:
        raise ValueError(
            f"{option}: {encoder.source} has no decoder; train one with an objective mmtrain.objectives.Captioner, and"
            " keep it in an export by --with captioner"
        )
    return encoder.decoder


def language_number(decoder: CaptionDecoder, language: str | None, option: str) -> int:
    """The decoder's number of a language; None for its only one. Raises ValueError for one that it does not write."""
    known = decoder.languages
    if language is None and len(known) == 1:
        return 0
    if language not in known:
        raise ValueError(f"{option}: language: got {language}, the decoder writes {', '.join(known)}")
    return known.index(language)


def captions_of(
    encoder: "Encoder", images: Any, language: str | None, *, beams: int, longest: int | None, batch_size: int
) -> list[str]:
    """What `Encoder.caption` returns."""
    decoder_of(encoder, "caption")
    if hasattr(images, "convert"):
        raise ValueError("caption: got one picture, expected a list of them, or an array")
    tower: Any = encoder.model.get_submodule("image")
    found: list[str] = []
    for start in range(0, len(images), batch_size):
        with torch.inference_mode(), encoder.autocast():
            pixels = encoder.pixels(images[start : start + batch_size]).to(encoder.device)
            there = tower.places(pixels)
            absent = None if there is None else ~there
            found += written(encoder, tower(pixels)[1], language, beams=beams, longest=longest, absent=absent)
    return found


def written(
    encoder: "Encoder",
    image_tokens: Tensor,
    language: str | None,
    *,
    beams: int = 1,
    longest: int | None = None,
    absent: Tensor | None = None,
) -> list[str]:
    """Captions of pictures in a language, from their un-pooled tokens [N, P, Wi], but for the `absent` [N, P].

    Raises:
        ValueError: for a model without a decoder, a language that it does not write, fewer than one beam or token.
    """
    decoder = decoder_of(encoder, "caption")
    longest = getattr(encoder.tokenizer, "max_length", 64) if longest is None else longest
    if beams < 1 or longest < 1:
        raise ValueError(f"caption: beams, longest: got {beams} and {longest}, expected at least 1")
    number = language_number(decoder, language, "caption")
    languages = torch.full((len(image_tokens),), number, device=image_tokens.device)
    tokenizer = encoder.tokenizer_for("query")  # as captions are read in training
    without = tokenizer.special_ids
    ids = decoder.write(image_tokens, languages, beams=beams, longest=longest, without=without, absent=absent)
    return [tokenizer.decode(each) for each in ids]


def likelihoods(
    encoder: "Encoder", image_tokens: Tensor, texts: list[str], languages: list[str], absent: Tensor | None = None
) -> Tensor:
    """log p of texts, each beside its picture's tokens [N, P, Wi] and in its language: [N]."""
    decoder, tokenizer, device = decoder_of(encoder, "caption"), encoder.tokenizer_for("query"), image_tokens.device
    tokens, mask = contents(*tokenizer(texts, languages), torch.tensor(sorted(tokenizer.special_ids)))
    numbers = torch.tensor([language_number(decoder, language, "caption") for language in languages], device=device)
    return decoder.log_likelihood(image_tokens, numbers, tokens.to(device), mask.to(device), absent)
