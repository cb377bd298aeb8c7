"""A batch through a model: the one way from pixels and tokens to `Embeddings`, in training and in evaluation."""

from collections.abc import Collection
from dataclasses import replace

import torch
from torch import Tensor, distributed
from torch.nn import functional

from datamodules.batch import Batch, Field
from losses import Embeddings, FieldEmbeddings, TokenFeatures
from losses.embeddings import modalities_of
from mmtrain.models.image_text import ImageTextModel
from mmtrain.models.network import Network


def embed_batch(
    network: Network,
    batch: Batch,
    *,
    tokens: bool = False,
    chosen: Tensor | None = None,
    languages: Tensor | None = None,
    without: Collection[str] = (),
) -> Embeddings:
    """Encodes the images, the present captions and the fields of a batch; absent texts are rows of zeros.

    Image and texts are None where the batch has none.

    Args:
        network: On the batch's device.
        batch: B samples with K caption slots.
        tokens: Token features of both towers too; only ours have them.
        chosen: bool [B, K], the captions to encode; None for all that are present.
        languages: int64, the network's own index of each language of the data (-1: none), where they differ.
        without: Fields that are not encoded.
    """
    present = batch.present if chosen is None else chosen
    if batch.images is None and not present.shape[1]:
        image, texts, image_tokens, text_tokens = None, None, None, None
    elif tokens:
        image, texts, image_tokens, text_tokens = _with_tokens(network, batch, present, languages)
    else:
        image = None if batch.images is None else network.encode_image(batch.images)
        if image is not None and batch.pictured is not None and isinstance(network, ImageTextModel):
            image = network.with_absent("image", image, batch.pictured)
        texts = _texts(network, batch, present, languages) if present.shape[1] else None
        if texts is not None and isinstance(network, ImageTextModel) and "text" in network.missing:
            texts, present = network.with_absent("text", texts, present), torch.ones_like(present)
        image_tokens = text_tokens = None
    return Embeddings(
        image=image,
        texts=texts,
        present=present if present.shape[1] else None,
        languages=batch.languages if present.shape[1] else None,
        image_ids=batch.image_ids,
        text_ids=batch.text_ids if present.shape[1] else None,
        fields={
            name: _field(network, name, each, languages) for name, each in batch.fields.items() if name not in without
        },
        image_tokens=image_tokens,
        text_tokens=text_tokens,
        labels=batch.labels,
        scores=batch.scores,
    )


def _encoded(network: Network, rows: Tensor, always: bool = False) -> Tensor:
    """The rows that are encoded: these, and more of them where other processes wait for the tower.

    In training, or `always`, there is one at least: DDP waits for the tower's gradients. Where the weights are divided
    (FSDP2), each call of a block waits for all processes, so each has as many rows as the one that has the most.
    """
    count = max(len(rows), int(always or torch.is_grad_enabled()))
    if isinstance(network, ImageTextModel) and network.divided:
        most = torch.tensor(count, device=rows.device)
        distributed.all_reduce(most, distributed.ReduceOp.MAX)
        count = int(most)
    more = count - len(rows)
    return functional.pad(rows, (0, more), value=int(rows[0]) if len(rows) else 0) if more else rows


def _placed(values: Tensor, rows: Tensor, shape: torch.Size) -> Tensor:
    """The values [n, ...] of these rows as [*shape, ...], zeros elsewhere; what was encoded beyond adds nothing."""
    empty = values.new_zeros(shape.numel(), *values.shape[1:])
    placed = empty.index_copy(0, rows, values[: len(rows)])
    if len(values) > len(rows):
        placed = placed + (0 * values[len(rows) :]).sum()
    return placed.unflatten(0, shape)


class _Captions:
    """The captions of a batch that are encoded, and where their rows go."""

    def __init__(
        self, network: Network, batch: Batch, present: Tensor, languages: Tensor | None, always: bool = False
    ) -> None:
        self.shape = present.shape
        self.rows = present.flatten().nonzero()[:, 0]
        self.inputs = _encoded(network, self.rows, always)
        self.tokens, self.mask = batch.tokens.flatten(0, 1)[self.inputs], batch.token_mask.flatten(0, 1)[self.inputs]
        self.languages = _own_indices(batch.languages.flatten()[self.inputs], languages)

    def in_slots(self, values: Tensor) -> Tensor:
        """[n, ...] of the captions -> [B, K, ...], zeros where there is none."""
        return _placed(values, self.rows, self.shape)


def _texts(network: Network, batch: Batch, present: Tensor, languages: Tensor | None) -> Tensor:
    captions = _Captions(network, batch, present, languages)
    if len(captions.inputs):
        return captions.in_slots(network.encode_text(captions.tokens, captions.mask, captions.languages))
    return torch.zeros(*present.shape, network.dimension, device=present.device)


def _with_tokens(
    network: Network, batch: Batch, present: Tensor, languages: Tensor | None
) -> tuple[Tensor, Tensor, TokenFeatures, TokenFeatures]:
    if not isinstance(network, ImageTextModel):
        raise ValueError("tokens: another library's model gives no token features; a run or export of ours does")
    if batch.images is None or not present.shape[1]:
        raise ValueError("tokens: an objective that reads tokens needs pictures and captions")
    if missing := {"image", "text"} & set(network.missing):
        raise ValueError(f"model.missing: {', '.join(sorted(missing))}, but an objective reads the tokens of both")
    captions = _Captions(network, batch, present, languages, always=True)
    image, text, image_features, text_features = network.tokens(
        batch.images, captions.tokens, captions.mask, captions.languages
    )
    text_tokens = TokenFeatures(
        captions.in_slots(text_features), _of_tokens(network, present, batch.token_mask, text_features), batch.tokens
    )
    return image, captions.in_slots(text), TokenFeatures(image_features), text_tokens


def _of_tokens(network: ImageTextModel, present: Tensor, mask: Tensor, features: Tensor) -> Tensor:
    """Which of the features [n, 1 + P, W] of each caption are there, bool [B, K, 1 + P]; of a page all patches are."""
    present = present.unsqueeze(-1)
    if network.shared:
        return present.expand(-1, -1, features.shape[1])
    return torch.cat([present, mask], -1)


def _own_indices(languages_of_texts: Tensor, languages: Tensor | None) -> Tensor:
    """The network's own index of each text's language."""
    known = languages_of_texts.clamp(min=0)
    return known if languages is None else languages[known]


def _field(network: Network, name: str, field: Field, languages: Tensor | None) -> FieldEmbeddings:
    """A field by the modality of its name, else by the tower of its kind; absent values are rows of zeros."""
    rows = field.present.flatten().nonzero()[:, 0]
    inputs = _encoded(network, rows)
    if not len(inputs):  # of padding alone
        rows = torch.zeros(*field.present.shape, network.dimension, device=field.present.device)
        return FieldEmbeddings(rows, field.present, field.ids)
    values = field.values.flatten(0, 1)[inputs]
    if isinstance(network, ImageTextModel) and name in network.modalities:
        encoded = network.encode_modality(name, values)
    elif field.kind == "text":
        assert field.mask is not None
        indices = None if field.languages is None else _own_indices(field.languages.flatten()[inputs], languages)
        encoded = network.encode_text(values, field.mask.flatten(0, 1)[inputs], indices)
    elif field.kind == "image":
        encoded = network.encode_image(values)
    else:
        raise ValueError(f"data.fields: {name} holds features; model.modalities needs a tower of that name")
    slots = _placed(encoded, rows, field.present.shape)
    if isinstance(network, ImageTextModel) and name in network.missing:
        return FieldEmbeddings(network.with_absent(name, slots, field.present), None, field.ids)
    return FieldEmbeddings(slots, field.present, field.ids)


def as_queries(network: Network, embeddings: Embeddings) -> Embeddings:
    """The embeddings as they are compared: where a model multiplies its inputs, each text by the sample's others."""
    if not isinstance(network, ImageTextModel) or network.composition == "sum" or embeddings.texts is None:
        return embeddings
    texts = embeddings.texts
    for rows in modalities_of(embeddings).values():
        texts = texts * rows[:, None]
    return replace(embeddings, texts=texts)
