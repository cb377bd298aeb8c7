"""`mmtrain export`: a model for other programs."""

from pathlib import Path
from typing import Literal

from mmtrain.commands.usage import Folder, Model, Shards, Trust
from mmtrain.display.messages import say


def export(
    model: Model,
    *,
    out: Folder,
    format: Literal[
        "safetensors", "onnx", "open_clip", "transformers", "sentence_transformers", "transformers_js", "multi_vector"
    ] = "safetensors",
    int8: Shards | None = None,
    with_: Literal["captioner"] | None = None,
    trust: Trust | None = None,
) -> Path:
    """Writes MODEL into a folder, loads what was written with the library it is for, and compares.

    100 pictures and over 100 captions in twelve languages and more scripts go through both, tokenizers and image
    preprocessing included; the largest difference of a coordinate of the unit rows is printed, and above 1e-4 nothing
    stays.

    Args:
        out: An empty folder, or an older export.
        format: Default: safetensors, which mmtrain.load reads.
        int8: onnx: also with 8-bit weights, and the recall they cost on these shards.
        with_: safetensors: keep the decoder that writes captions, too.

    Raises:
        ValueError: when `out` holds something else already, the towers cannot be written in this format, a library is
            missing, or what was written does not give the same embeddings.
    """
    from mmtrain.export.marker import check_target
    from mmtrain.export.writing import write
    from mmtrain.models.captions import decoder_of
    from mmtrain.models.loading import load

    check_target(Path(out))
    encoder = load(model, trust=trust)
    if with_ is None:
        if encoder.decoder is not None:
            say(f"{model}: the decoder of captions stays in the run; --with captioner keeps it")
        encoder.decoder = None
    elif format != "safetensors":
        raise ValueError(f"--with: only safetensors keeps a {with_}, not {format}")
    else:
        decoder_of(encoder, f"--with {with_}")
    if encoder.head is not None:
        say(f"{model}: an export holds the space; the network behind it, for relations or matching, stays in the run")
    return write(encoder, model, out, format, int8=int8)
