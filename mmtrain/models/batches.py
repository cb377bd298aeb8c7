"""A batch through a model: the one way from pixels and tokens to `Embeddings`, in training and in evaluation."""

import torch
from torch import Tensor

from datamodules.batch import Batch
from losses import Embeddings, FieldEmbeddings, TokenFeatures
from mmtrain.models.image_text import ImageTextModel
from mmtrain.models.network import Network


def embed_batch(
    network: Network,
    batch: Batch,
    *,
    tokens: bool = False,
    chosen: Tensor | None = None,
    languages: Tensor | None = None,
) -> Embeddings:
    """Encodes the images, the present captions and the fields of a batch; absent captions are rows of zeros.

    Args:
        network: On the batch's device.
        batch: B samples with K caption slots.
        tokens: Token features of both towers too; only ours have them.
        chosen: bool [B, K], the captions to encode; None for all that are present.
        languages: int64, the network's own index of each language of the data (-1: none), where they differ.
    """
    B, K = batch.present.shape
    present = batch.present if chosen is None else chosen
    rows = present.flatten().nonzero()[:, 0]
    # Without any caption one empty row is encoded in training: DDP waits for the text tower's gradients.
    inputs = rows if len(rows) or not (tokens or torch.is_grad_enabled()) else rows.new_zeros(1)
    texts, mask = batch.tokens.flatten(0, 1)[inputs], batch.token_mask.flatten(0, 1)[inputs]
    language_of_text = batch.languages.flatten()[inputs].clamp(min=0)
    if languages is not None:
        language_of_text = languages[language_of_text]
    image_tokens = text_tokens = None
    if tokens:
        if not isinstance(network, ImageTextModel):
            raise ValueError("tokens: another library's model gives no token features; a run or export of ours does")
        image, text, image_features, text_features = network.tokens(batch.images, texts, mask, language_of_text)
        empty = text_features.new_zeros(B * K, *text_features.shape[1:])
        image_tokens = TokenFeatures(image_features)
        text_tokens = TokenFeatures(
            empty.index_copy(0, inputs, text_features).unflatten(0, (B, K)),
            torch.cat([present.unsqueeze(-1), batch.token_mask], -1),
            batch.tokens,
        )
    else:
        image = network.encode_image(batch.images)
        text = network.encode_text(texts, mask, language_of_text) if len(inputs) else image.new_zeros(0, image.shape[1])
    slots = text.new_zeros(B * K, text.shape[-1]).index_copy(0, inputs, text if len(rows) else 0 * text)
    return Embeddings(
        image=image,
        texts=slots.unflatten(0, (B, K)),
        present=present,
        languages=batch.languages,
        image_ids=batch.image_ids,
        text_ids=batch.text_ids,
        fields=_fields(network, batch),
        image_tokens=image_tokens,
        text_tokens=text_tokens,
        labels=batch.labels,
    )


def _fields(network: Network, batch: Batch) -> dict[str, FieldEmbeddings]:
    """Each field by the modality of its name, else by the tower of its kind."""
    fields = {}
    for name, each in batch.fields.items():
        B, n = each.present.shape
        values = each.values.flatten(0, 1)
        if isinstance(network, ImageTextModel) and name in network.modalities:
            rows = network.encode_modality(name, values)
        elif each.kind == "text":
            assert each.mask is not None
            indices = None if each.languages is None else each.languages.flatten()
            rows = network.encode_text(values, each.mask.flatten(0, 1), indices)
        elif each.kind == "image":
            rows = network.encode_image(values)
        else:
            raise ValueError(f"data.fields: {name} holds features; model.modalities needs a tower of that name")
        fields[name] = FieldEmbeddings(rows.unflatten(0, (B, n)), each.present, each.ids)
    return fields
