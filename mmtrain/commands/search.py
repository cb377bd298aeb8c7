"""`mmtrain search`: a text in any language, a picture, or both, and the pictures of an index that are nearest."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from mmtrain.commands.usage import Adapter, Device, File, Files, Folder, Model, Trust, UsageError
from mmtrain.display.messages import say

if TYPE_CHECKING:
    from mmtrain.search.results import Result


def search(
    index: Folder,
    text: str | None = None,
    *,
    image: Files | None = None,
    features: Mapping[str, str | Path] | None = None,
    language: Annotated[str, "L"] | None = None,
    k: int = 10,
    json: bool = False,
    html: File | None = None,
    model: Model | None = None,
    device: Device | None = None,
    trust: Trust | None = None,
    adapter: Adapter | None = None,
) -> "list[Result]":
    """Searches an index folder, prints the nearest pictures, and returns them, best first.

    Where the index has token rows, a text ranks the candidates by them, and the page shows which words found what.

    Args:
        index: What mmtrain index wrote.
        text: A text in any language; <image> in it is the place of a picture.
        image: A picture; features as .npy where the model reads those. It may come several times and beside a text: all
            are asked for together, added, or composed or multiplied by a model that does so.
        features: Files of further modalities by name, as in [audio=sound.npy], each .npy.
        language: Of the text, for models that read each language by itself; its captions are shown first.
        k: Pictures to find; default 10.
        json: Print JSON instead of a table.
        html: Also write a page with pictures, which opens offline.
        model: Where the index's model is now, if it was moved, or is not a local one of ours.
        adapter: The adapter that reads the query: a name, a folder of peft, or language; default: the index's.

    Raises:
        ValueError: when there is no index, the model is another one, or the query cannot be encoded.
    """
    from mmtrain.search.index import SearchIndex
    from mmtrain.search.queries import find, open_model, query_row, text_tokens
    from mmtrain.search.results import Query, print_json, print_results, write_results

    if text is None and not image and not features:
        raise UsageError('search: give a text, as in search DIR "text", --image FILE, or both')
    if k < 1:
        raise UsageError(f"-k: got {k}, expected a whole number from 1")
    pictures = SearchIndex(index)
    encoder = open_model(pictures, model, device, text_only=not image and not features, trust=trust, adapter=adapter)
    sounds = {name: Path(file) for name, file in (features or {}).items()}
    query = Query(text, language, tuple(image or ()), sounds)
    row = query_row(encoder, query)
    first = [*filter(None, [language]), *encoder.languages]
    words = text if text is not None and not image and not features else None
    tokens = None if words is None else text_tokens(encoder, pictures, words, language)
    results = find(pictures, row, k, tokens)
    if html is not None:
        if words is not None and tokens is not None:
            from mmtrain.search.heat import with_words

            results = with_words(encoder, pictures, words, language, results)
        write_results(Path(html), query, results, pictures.description, first)
    if json:
        print_json(query, results)
    else:
        print_results(query, results, len(pictures), first)
        if html is not None:
            say(f"page: {html}")
    return results
