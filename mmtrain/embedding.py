"""SHARDS through a model: every picture and caption as a row of the shared space."""

import torch

from datamodules import ShardDataModule
from losses import Embeddings
from mmtrain.loading import Encoder
from mmtrain.validation import Embedded, EmbeddedSplit


def open_split(
    encoder: Encoder, data: str, languages: list[str] | None, batch_size: int, workers: int
) -> ShardDataModule:
    """SHARDS as a test split, read as the model was trained: in its languages that the shards have, or those named."""

    def shards(chosen: list[str] | None) -> ShardDataModule:
        options = {} if encoder.images is None else {"images": encoder.images}
        module = ShardDataModule(
            test=data, languages=chosen, batch_size=batch_size, workers=workers, tokenizer=encoder.tokenizer, **options
        )
        module.setup("test")
        return module

    if languages is not None:
        return shards(languages)
    found = shards(None)
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
    return shards(known)


def embed(encoder: Encoder, shards: ShardDataModule) -> Embedded:
    """Every picture and caption of the test split; broken samples are counted and left out."""
    from rich.progress import track

    # a tower with a network for each language knows them by the run's order, the shards by their own
    index = torch.tensor(
        [encoder.languages.index(name) if name in encoder.languages else -1 for name in shards.languages]
    )
    collected = EmbeddedSplit()
    loader = shards.test_dataloader()
    with torch.inference_mode():
        for batch in track(loader, description="embedding", total=len(loader), transient=True):
            shards.evaluated(batch)
            moved = batch.to(encoder.device)
            image = encoder.model.encode_image(moved.images)
            b, k = moved.present.nonzero(as_tuple=True)
            texts = image.new_zeros(*moved.present.shape, image.shape[1])
            if len(b):
                languages = index.to(encoder.device)[moved.languages[b, k]]
                texts[b, k] = encoder.model.encode_text(moved.tokens[b, k], moved.token_mask[b, k], languages)
            collected.add(batch, Embeddings(image=image.cpu(), texts=texts.cpu(), present=batch.present))
    shards.account.check(epoch_end=True)
    split = collected.gather()
    if split is None:
        raise ValueError("--data: no sample could be read")
    return split
