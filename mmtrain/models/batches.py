"""A batch through a model: the one way from pixels and tokens to `Embeddings`, in training and in evaluation."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed
from torch.nn import functional

from datamodules.batch import Batch, Field
from losses import Embeddings, FieldEmbeddings, MultiEmbeddings, TokenFeatures
from losses.embeddings import modalities_of
from mmtrain.models.buckets import on_device_of
from mmtrain.models.image_text import ImageTextModel
from mmtrain.models.network import Network

PICTURES = "_pictures"  # behind the name of a field of texts: the pictures that it is composed with
HASH, LARGEST = 6364136223846793005, 2**63 - 1  # ids of several inputs as one; the product wraps


def embed_batch(
    network: Network,
    batch: Batch,
    *,
    tokens: bool = False,
    multi: bool = False,
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
        multi: Token rows too, of image, texts and fields, where the model has a head for them.
        chosen: bool [B, K], the captions to encode; None for all that are present.
        languages: int64, the network's own index of each language of the data (-1: none), where they differ.
        without: Fields that are not encoded.
    """
    present = batch.present if chosen is None else chosen
    many: dict[str, MultiEmbeddings | None] = {}
    image = texts = image_tokens = text_tokens = None
    if tokens and (batch.images is not None or present.shape[1]):
        image, texts, image_tokens, text_tokens, many = _with_tokens(network, batch, present, languages, multi)
    else:
        if batch.images is not None:
            every = torch.arange(len(batch.images), device=batch.images.device)
            encoded = _of_images(network, batch.images, multi, _of_rows(batch))
            image, many["image"] = encoded[0], _in_slots(encoded, every, torch.Size((len(every), 1)))[1]
            if batch.pictured is not None and isinstance(network, ImageTextModel):
                image = network.with_absent("image", image, batch.pictured)
        if present.shape[1]:
            texts, many["texts"] = _texts(network, batch, present, languages, multi)
            if isinstance(network, ImageTextModel) and "text" in network.missing:
                texts, present = network.with_absent("text", texts, present), torch.ones_like(present)
    fields: dict[str, FieldEmbeddings] = {}
    for name in sorted(batch.fields, key=lambda name: name.endswith(PICTURES)):  # behind the texts that they belong to
        if name in fields or name in without:
            continue
        if (pictures := composed_with(network, batch, name)) is not None:
            assert isinstance(network, ImageTextModel)
            texts_and_pictures = batch.fields[name], batch.fields[pictures]
            fields[name], fields[pictures] = compose(network, *texts_and_pictures, languages, batch.adapters)
        else:
            fields[name], many[name] = _field(network, batch, name, languages, multi)
    return Embeddings(
        image=image,
        texts=texts,
        present=present if present.shape[1] else None,
        languages=batch.languages if present.shape[1] else None,
        image_ids=batch.image_ids,
        text_ids=batch.text_ids if present.shape[1] else None,
        fields=fields,
        image_tokens=image_tokens,
        text_tokens=text_tokens,
        multi={name: each for name, each in many.items() if each is not None},
        labels=batch.labels,
        scores=batch.scores,
    )


Encoded = tuple[Tensor, Tensor | None, Tensor | None]  # rows [n, D]; token rows [n, L, d] and mask [n, L], if asked for


def _of_images(network: Network, images: Tensor, multi: bool, adapters: Mapping[str, Tensor]) -> Encoded:
    if multi:
        return network.encode_image_multi(images, **adapters)
    return network.encode_image(images, **adapters), None, None


def _of_texts(
    network: Network, texts: tuple[Tensor, Tensor, Tensor | None], multi: bool, more: Mapping[str, Any]
) -> Encoded:
    """`texts` are tokens, mask and languages; `more` what else a network is told by name."""
    if multi:
        return network.encode_text_multi(*texts, **more)
    return network.encode_text(*texts, **more), None, None


def _in_slots(encoded: Encoded, rows: Tensor, shape: torch.Size) -> tuple[Tensor, MultiEmbeddings | None]:
    """What was encoded for these rows [n] as [*shape, ...], see `_placed`."""
    values, many, mask = encoded
    if many is None or mask is None:
        return _placed(values, rows, shape), None
    return _placed(values, rows, shape), MultiEmbeddings(
        _placed(many, rows, shape), _placed(mask[: len(rows)], rows, shape)
    )


def composed_with(network: Network, batch: Batch, name: str) -> str | None:
    """The field of pictures that a field of texts is composed with, by a model that composes: NAME_pictures."""
    if not isinstance(network, ImageTextModel) or network.composer is None or batch.fields[name].kind != "text":
        return None
    return f"{name}{PICTURES}" if f"{name}{PICTURES}" in batch.fields else None


def compose(
    network: ImageTextModel,
    texts: Field,
    pictures: Field,
    languages: Tensor | None = None,
    adapters: Tensor | None = None,
) -> tuple[FieldEmbeddings, FieldEmbeddings]:
    """B texts in pieces, each with pictures, as one row each, [B, 1, D]; and the pictures' own.

    Both come with the tokens that the row is made of, as fields of m pieces and n pictures.
    """
    assert network.composer is not None
    own = _with_features(network, texts, languages, adapters), _with_features(network, pictures, None, adapters)
    there = torch.cat([texts.present, pictures.present], 1)
    ids = None
    if texts.ids is not None and pictures.ids is not None:
        ids = torch.zeros_like(texts.ids[:, :1])
        for column in torch.cat([texts.ids, pictures.ids], 1).unbind(1):
            ids = (ids * HASH + column[:, None]) & LARGEST
    rows = network.composer(*own)[:, None]
    return FieldEmbeddings(rows, there.any(1, keepdim=True), ids, own[0].tokens), own[1]


def _with_features(
    network: ImageTextModel, field: Field, languages: Tensor | None, adapters: Tensor | None
) -> FieldEmbeddings:
    """The values of a field of texts or pictures as rows and tokens."""
    shape = field.present.shape
    rows, inputs = _present(network, field, always=True)
    values = field.values.flatten(0, 1)[inputs]
    by = None if adapters is None else adapters[inputs // shape[1]]
    if field.mask is None:
        features = network.image_tokens(values, by)
        encoded = network.pooled_rows("image", features, network.bank.of_rows(values, by))
        tokens = TokenFeatures(_placed(features, rows, shape))
    else:
        assert field.languages is not None
        spoken = field.languages.flatten()[inputs]
        spoken = spoken if languages is None else languages[spoken.clamp(min=0)]
        features = network.text_tokens(values, field.mask.flatten(0, 1)[inputs], spoken, by)
        encoded = network.pooled_rows("text", features, network.bank.of_rows(values, by, spoken))
        of_tokens = _of_tokens(network, field.present, field.mask, features)
        tokens = TokenFeatures(_placed(features, rows, shape), of_tokens, field.values)
    return FieldEmbeddings(_placed(encoded, rows, shape), field.present, field.ids, tokens)


def _encoded(network: Network, rows: np.ndarray, device: torch.device, always: bool = False) -> np.ndarray:
    """The rows that are encoded: these, and more of them where other processes wait for the tower.

    In training, or `always`, there is one at least: DDP waits for the tower's gradients. Where the weights are divided
    (FSDP2), each call of a block waits for all processes, so each has as many rows as the one that has the most.
    """
    count = max(len(rows), int(always or torch.is_grad_enabled()))
    if isinstance(network, ImageTextModel) and network.divided:
        most = torch.tensor(count, device=device)
        distributed.all_reduce(most, distributed.ReduceOp.MAX)
        count = int(most)
    return np.append(rows, np.full(count - len(rows), rows[0] if len(rows) else 0))


def _present(network: Network, field: Field, always: bool = False) -> tuple[Tensor, Tensor]:
    """Of a field's values [B n] those that there are, and those that are encoded, as `_encoded` has it."""
    rows = np.flatnonzero(field.present.numpy(force=True))
    inputs = _encoded(network, rows, field.present.device, always)
    return on_device_of(field.present, rows), on_device_of(field.present, inputs)


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
        lengths = batch.lengths if present is batch.present else None
        if lengths is None:
            lengths = batch.token_mask.sum(2).where(present, -1).numpy(force=True)
        rows = np.flatnonzero(lengths >= 0)
        inputs = _encoded(network, rows, present.device, always)
        self.lengths = lengths.ravel()[inputs]
        self.rows, self.inputs = on_device_of(present, rows), on_device_of(present, inputs)
        self.tokens, self.mask = batch.tokens.flatten(0, 1)[self.inputs], batch.token_mask.flatten(0, 1)[self.inputs]
        self.languages = _own_indices(batch.languages.flatten()[self.inputs], languages)
        self.adapters = _of_rows(batch, self.inputs // present.shape[1] if len(self.inputs) else self.inputs)

    @property
    def read(self) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens, mask and languages."""
        return self.tokens, self.mask, self.languages

    def in_slots(self, values: Tensor) -> Tensor:
        """[n, ...] of the captions -> [B, K, ...], zeros where there is none."""
        return _placed(values, self.rows, self.shape)


def _texts(
    network: Network, batch: Batch, present: Tensor, languages: Tensor | None, multi: bool
) -> tuple[Tensor, MultiEmbeddings | None]:
    captions = _Captions(network, batch, present, languages)
    if not len(captions.inputs):
        return torch.zeros(*present.shape, network.dimension, device=present.device), None
    known = {"lengths": captions.lengths} if isinstance(network, ImageTextModel) else {}
    encoded = _of_texts(network, captions.read, multi, {**captions.adapters, **known})
    return _in_slots(encoded, captions.rows, captions.shape)


def _with_tokens(
    network: Network, batch: Batch, present: Tensor, languages: Tensor | None, multi: bool
) -> tuple[Tensor, Tensor, TokenFeatures, TokenFeatures, dict[str, MultiEmbeddings | None]]:
    if not isinstance(network, ImageTextModel):
        raise ValueError("tokens: another library's model gives no token features; a run or export of ours does")
    if batch.images is None or not present.shape[1]:
        raise ValueError("tokens: an objective that reads tokens needs pictures and captions")
    if missing := {"image", "text"} & set(network.missing):
        raise ValueError(f"model.missing: {', '.join(sorted(missing))}, but an objective reads the tokens of both")
    captions = _Captions(network, batch, present, languages, always=True)
    adapters = batch.adapters, captions.adapters.get("adapters")
    image, text, image_features, text_features = network.tokens(batch.images, *captions.read, adapters)
    text_tokens = TokenFeatures(
        captions.in_slots(text_features), _of_tokens(network, present, batch.token_mask, text_features), batch.tokens
    )
    there = None if network.image is None else network.image.places(batch.images)
    if there is not None:
        there = functional.pad(there, (1, 0), value=True)
    image_tokens = TokenFeatures(image_features, there)
    many: dict[str, MultiEmbeddings | None] = {}
    if multi:
        own = network.bank.of_rows(image, adapters[0]), network.bank.of_rows(text, adapters[1], captions.languages)
        rows = network.multi_rows("image", image_features[:, 1:], own[0])
        many["image"] = MultiEmbeddings(rows[:, None], None if there is None else there[:, None, -rows.shape[1] :])
        rows = network.multi_rows("text", text_features[:, 1:], own[1])
        places = network.text.places(captions.tokens, captions.mask, rows.shape[1])
        many["texts"] = _in_slots((text, rows, places), captions.rows, captions.shape)[1]
    return image, captions.in_slots(text), image_tokens, text_tokens, many


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


def _of_rows(batch: Batch, rows: Tensor | None = None) -> dict[str, Tensor]:
    """What is said of the adapters that read these rows of the batch, int64; nothing where the batch says nothing."""
    if batch.adapters is None:
        return {}
    return {"adapters": batch.adapters if rows is None else batch.adapters[rows]}


def _field(
    network: Network, batch: Batch, name: str, languages: Tensor | None, multi: bool
) -> tuple[FieldEmbeddings, MultiEmbeddings | None]:
    """A field by the modality of its name, else by the tower of its kind; absent values are rows of zeros."""
    field = batch.fields[name]
    rows, inputs = _present(network, field)
    if not len(inputs):  # of padding alone
        rows = torch.zeros(*field.present.shape, network.dimension, device=field.present.device)
        return FieldEmbeddings(rows, field.present, field.ids), None
    values, adapters = field.values.flatten(0, 1)[inputs], _of_rows(batch, inputs // field.present.shape[1])
    if isinstance(network, ImageTextModel) and name in network.modalities:
        encoded: Encoded = network.encode_modality(name, values, **adapters), None, None
    elif field.kind == "text":
        assert field.mask is not None
        indices = None if field.languages is None else _own_indices(field.languages.flatten()[inputs], languages)
        encoded = _of_texts(network, (values, field.mask.flatten(0, 1)[inputs], indices), multi, adapters)
    elif field.kind == "image":
        encoded = _of_images(network, values, multi, adapters)
    else:
        raise ValueError(f"data.fields: {name} holds features; model.modalities needs a tower of that name")
    slots, many = _in_slots(encoded, rows, field.present.shape)
    if isinstance(network, ImageTextModel) and name in network.missing:
        return FieldEmbeddings(network.with_absent(name, slots, field.present), None, field.ids), many
    return FieldEmbeddings(slots, field.present, field.ids), many


def as_queries(network: Network, embeddings: Embeddings) -> Embeddings:
    """The embeddings as they are compared: where a model multiplies its inputs, each text by the sample's others."""
    if not isinstance(network, ImageTextModel) or network.composition == "sum" or embeddings.texts is None:
        return embeddings
    texts = embeddings.texts
    for rows in modalities_of(embeddings).values():
        texts = texts * rows[:, None]
    return replace(embeddings, texts=texts)
