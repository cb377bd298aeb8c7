"""SHARDS through a model: every picture and caption as a row of the shared space."""

import torch
from torch import Tensor

from datamodules import Batch, ShardDataModule
from losses import Embeddings
from mmtrain.encoder import Encoder
from mmtrain.validation import Embedded, EmbeddedSplit


def open_shards(
    encoder: Encoder, data: str, languages: list[str] | None, batch_size: int, workers: int
) -> ShardDataModule:
    """SHARDS as a test split, read as the model was trained: all samples and captions, or those in the languages."""
    options = {} if encoder.images is None else {"images": encoder.images}
    module = ShardDataModule(
        test=data, languages=languages, batch_size=batch_size, workers=workers, tokenizer=encoder.tokenizer, **options
    )
    module.setup("test")
    return module


def open_split(
    encoder: Encoder, data: str, languages: list[str] | None, batch_size: int, workers: int
) -> ShardDataModule:
    """SHARDS to measure a model on: in its languages that the shards have, or those named."""
    if languages is not None:
        unknown = [language for language in languages if language not in encoder.languages]
        if encoder.languages and unknown:
            print(f"{', '.join(unknown)}: not trained on; measured by transfer")
        return open_shards(encoder, data, languages, batch_size, workers)
    found = open_shards(encoder, data, None, batch_size, workers)
    if not encoder.languages:  # another library's model does not say
        return found
    known = [language for language in encoder.languages if language in found.languages]
    if not known:
        raise ValueError(
            f"--data: {data} has {', '.join(found.languages[:20])}, the model was trained on"
            f" {', '.join(encoder.languages[:20])}; name some with --languages to measure them nevertheless"
        )
    if known == found.languages:
        return found
    absent = [language for language in encoder.languages if language not in known]
    if absent:
        print(f"{data} has no captions in {', '.join(absent)}")
    return open_shards(encoder, data, known, batch_size, workers)


def language_indices(encoder: Encoder, languages: list[str]) -> Tensor:
    """int64: which of the tower's languages each one is, -1 for none of them; a tower with a network for each language
    knows them by the run's order, the shards by their own.
    """
    return torch.tensor([encoder.languages.index(name) if name in encoder.languages else -1 for name in languages])


def encode_batch(encoder: Encoder, batch: Batch, indices: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of a batch: images float32 [B, D], and texts [B, K, D] of the captions that `wanted` [B, K] marks, the
    others zero; `indices` is what `language_indices` said of the shards' languages.
    """
    moved = batch.to(encoder.device)
    image = encoder.model.encode_image(moved.images)
    texts = image.new_zeros(*wanted.shape, image.shape[1])
    b, k = wanted.to(encoder.device).nonzero(as_tuple=True)
    if len(b):
        languages = indices.to(encoder.device)[moved.languages[b, k]]
        texts[b, k] = encoder.model.encode_text(moved.tokens[b, k], moved.token_mask[b, k], languages)
    return image.cpu(), texts.cpu()


def embed(encoder: Encoder, shards: ShardDataModule) -> Embedded:
    """Every picture and caption of the test split; broken samples are counted and left out."""
    from rich.progress import track

    indices = language_indices(encoder, shards.languages)
    collected = EmbeddedSplit()
    loader = shards.test_dataloader()
    with torch.inference_mode():
        for batch in track(loader, description="embedding", total=len(loader), transient=True):
            shards.evaluated(batch)
            image, texts = encode_batch(encoder, batch, indices, batch.present)
            collected.add(batch, Embeddings(image=image, texts=texts, present=batch.present))
    shards.account.check(epoch_end=True)
    split = collected.gather()
    if split is None:
        raise ValueError("--data: no sample could be read")
    return split
