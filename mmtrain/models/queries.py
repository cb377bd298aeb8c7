"""A query of any inputs as one row: texts, pictures and features of further modalities, added or multiplied."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from datamodules.images import resizing
from datamodules.reading.fields import pieces
from datamodules.tokenizers.fonts import PAPER
from mmtrain.models.composing import composed_rows, composes
from mmtrain.models.image_text import ImageTextModel

if TYPE_CHECKING:
    from mmtrain.models.encoder import Encoder

INPUTS = ("text", "images", "features", "language", "role", "adapter")


def query_rows(encoder: "Encoder", queries: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Queries as float32 [N, D]: the normalised sum of the rows of each one's inputs, or their product. A model of one
    tower for pictures and texts sees both on one canvas, or as one sequence.

    Args:
        encoder: A model whose `composition` is "product", as Symile trains, has products, which are not normalised; a
            `mmtrain.fusion.ComposedQuery` reads text and pictures together.
        queries: Of each the arguments of `Encoder.encode_query`.

    Raises:
        ValueError: for a query without inputs, an input that is unknown, or one that the model has no tower for.
    """
    parts = _encoded(encoder, queries, encoder.encode_text, encoder.encode_image, _read_whole)
    made = [composed(encoder, each) for each in parts]
    return np.stack(made) if made else np.zeros((0, encoder.model.dimension), np.float32)


def query_token_rows(encoder: "Encoder", queries: Sequence[Mapping[str, Any]]) -> list[np.ndarray]:
    """Queries as their token rows, each float32 [L, d]: those of its text, then those of its pictures.

    Raises:
        ValueError: as `query_rows`, and for a model without token rows.
    """
    text, image = (partial(each, multi=True) for each in (encoder.encode_text, encoder.encode_image))
    return [np.concatenate(parts) for parts in _encoded(encoder, queries, text, image, lambda *_: {})]


def _encoded(
    encoder: "Encoder",
    queries: Sequence[Mapping[str, Any]],
    encode_text: Callable[..., Iterable[np.ndarray]],
    encode_image: Callable[..., Iterable[np.ndarray]],
    read_whole: Callable[["Encoder", Sequence[Mapping[str, Any]]], dict[int, np.ndarray]],
) -> list[list[np.ndarray]]:
    """What the inputs of each query are encoded as; of those that `read_whole` gives, their one row."""
    rows: list[list[np.ndarray]] = [[] for _ in queries]
    if not composes(encoder):
        queries = [_without_marks(query) for query in queries]
        if encoder.model.shared:
            queries = [on_one_canvas(encoder, i, query) for i, query in enumerate(queries)]
    for i, query in enumerate(queries):
        if unknown := query.keys() - set(INPUTS):
            raise ValueError(f"query {i}: {', '.join(sorted(unknown))} is no input; expected {', '.join(INPUTS)}")
        try:
            encoder.adapter_number(query.get("adapter"))
        except ValueError as error:
            raise ValueError(f"query {i}: {error}") from error
    whole = read_whole(encoder, queries)
    for i, row in whole.items():
        rows[i].append(row)
    for (language, role, adapter), members in _grouped(queries, "language", "role", "adapter").items():
        members = [i for i in members if i not in whole and queries[i].get("text") is not None]
        texts = encode_text([queries[i]["text"] for i in members], language, role=role, adapter=adapter)
        for i, row in zip(members, texts, strict=True):
            rows[i].append(row)
    for (adapter,), members in _grouped(queries, "adapter").items():
        pictures = [(i, image) for i in members if i not in whole for image in queries[i].get("images", ())]
        if not pictures:
            continue
        images: Any = [image for _, image in pictures]
        if all(isinstance(image, np.ndarray) for image in images):
            images = np.stack(images)
        for (i, _), row in zip(pictures, encode_image(images, adapter=adapter), strict=True):
            rows[i].append(row)
    for i, query in enumerate(queries):
        given, adapter = query.get("features", {}), query.get("adapter")
        rows[i] += [feature_row(encoder, name, values, adapter) for name, values in given.items()]
        if not rows[i]:
            raise ValueError(f"query {i}: nothing to encode; a text, images or features")
    return rows


def _without_marks(query: Mapping[str, Any]) -> Mapping[str, Any]:
    """A query without the places of its pictures, where it has any."""
    text = query.get("text")
    return query if text is None or not len(query.get("images", ())) else {**query, "text": " ".join(pieces(text))}


def _read_whole(encoder: "Encoder", queries: Sequence[Mapping[str, Any]]) -> dict[int, np.ndarray]:
    """The rows of those queries whose text and pictures the model makes one row of."""
    if isinstance(encoder.model, ImageTextModel) and encoder.model.reads_both:
        return {i: row_of_both(encoder, query) for i, query in enumerate(queries) if has_both(query)}
    if not composes(encoder):
        return {}
    rows: dict[int, np.ndarray] = {}
    for (role, adapter), members in _grouped(queries, "role", "adapter").items():
        members = [i for i in members if (queries[i].get("text") is not None) + len(queries[i].get("images", ())) > 1]
        if members:
            asked = [queries[i] for i in members]
            encoder.tokenizer_for(role)  # refuses another role
            rows |= zip(
                members,
                composed_rows(
                    encoder,
                    [[] if query.get("text") is None else pieces(query["text"]) for query in asked],
                    [encoder.pixels(_images(encoder, query["images"])) for query in asked],
                    [query.get("language") or "" for query in asked],
                    role,
                    adapter,
                ).numpy(),
                strict=True,
            )
    return rows


def _images(encoder: "Encoder", images: Sequence[Any]) -> Any:
    """Pictures as they are; features as one array."""
    return np.stack(images) if encoder.images is None else images


def on_one_canvas(encoder: "Encoder", number: int, query: Mapping[str, Any]) -> Mapping[str, Any]:
    """A query whose text and pictures, where it has both, are one picture: the text above, the pictures below it, side
    by side (after the visual questions of CLIPPO, Tschannen et al., CVPR 2023).

    Raises:
        ValueError: with the number of the query, when the text leaves less than a quarter of the page.
    """
    if not has_both(query):
        return query
    text, images = query["text"], query["images"]
    rows, _ = encoder.tokenizer_for(query.get("role"))([text], [query.get("language") or ""])
    height, size = rows.shape[1:]
    side = min(size - height, size // len(images))
    if side < size // 4:
        raise ValueError(
            f"query {number}: a text of {height} of {size} rows and {len(images)} pictures have no room on one page"
        )
    pictures = encoder.pixels(images)
    if pictures.ndim != 4:
        raise ValueError(f"query {number}: pictures of free size do not lie on a page with text")
    canvas = torch.full((3, size, size), PAPER, dtype=torch.uint8)
    canvas[:, :height] = rows[0]
    for place, pixels in enumerate(resizing().resize(pictures, [side, side])):
        canvas[:, height : height + side, place * side : (place + 1) * side] = pixels
    return {**query, "text": None, "images": [Image.fromarray(canvas.permute(1, 2, 0).numpy())]}


def has_both(query: Mapping[str, Any]) -> bool:
    """Whether a query has a text and pictures."""
    return query.get("text") is not None and len(query.get("images", ())) > 0


def row_of_both(encoder: "Encoder", query: Mapping[str, Any]) -> np.ndarray:
    """The row float32 [D] of a query's pictures and then its text, read as one sequence."""
    model, language = encoder.model, query.get("language")
    assert isinstance(model, ImageTextModel)
    tokens, mask = encoder.tokenizer_for(query.get("role"))([query["text"]], [language or ""])
    inputs = (each.to(encoder.device) for each in (encoder.pixels(query["images"])[None], tokens, mask))
    with torch.inference_mode(), encoder.autocast():
        row = model.encode_both(*inputs, **encoder.by(query.get("adapter"), 1, language))[0]
    return row.float().cpu().numpy()


def _grouped(queries: Sequence[Mapping[str, Any]], *names: str) -> dict[tuple[Any, ...], list[int]]:
    """The queries by what they say of these names."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for i, query in enumerate(queries):
        groups.setdefault(tuple(query.get(name) for name in names), []).append(i)
    return groups


def feature_row(encoder: "Encoder", name: str, values: Any, adapter: str | None = None) -> np.ndarray:
    """Features [F] or [P, F] of a further modality as float32 [D]. Raises ValueError for one the model has not."""
    model = encoder.model
    if not isinstance(model, ImageTextModel) or name not in model.modalities:
        there = ", ".join(model.modalities) if isinstance(model, ImageTextModel) else ""
        raise ValueError(f"features.{name}: {encoder.source} has no such modality; it has {there or 'none'}")
    features = torch.from_numpy(np.array(values, np.float32))[None]
    with torch.inference_mode():
        row = model.encode_modality(name, features.to(encoder.device), **encoder.by(adapter, 1))[0]
    return row.float().cpu().numpy()


def composed(encoder: "Encoder", parts: Iterable[np.ndarray]) -> np.ndarray:
    """The rows [D] of a query's inputs as one: their normalised sum, or their product where the model multiplies."""
    stacked = np.stack(list(parts))
    if isinstance(encoder.model, ImageTextModel) and encoder.model.composition == "product":
        return stacked.prod(0)
    total = stacked.sum(0)
    return total / max(float(np.linalg.norm(total)), 1e-12)
