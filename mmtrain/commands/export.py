"""`mmtrain export`: a model for other programs."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mmtrain.commands.usage import Adapter, Folder, Model, Shards, Trust
from mmtrain.display.messages import say
from mmtrain.export import Format

if TYPE_CHECKING:
    from mmtrain.models.encoder import Encoder


def export(
    model: Model,
    *,
    out: Folder,
    format: Format | None = None,
    adapter: Adapter | None = None,
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
        format: Default: safetensors, which mmtrain.load reads, with all adapters by name; with --adapter peft, the
            adapter alone.
        adapter: An adapter of MODEL, or a folder of peft for it; merged into the weights with a --format but peft.
        int8: onnx: also with 8-bit weights, and the recall they cost on these shards.
        with_: safetensors: keep the decoder that writes captions, too.

    Raises:
        ValueError: when `out` holds something else already, the towers cannot be written in this format, a library is
            missing, an adapter is not MODEL's, or what was written does not give the same embeddings.
    """
    from mmtrain.export.marker import check_target
    from mmtrain.export.writing import write
    from mmtrain.models.captions import decoder_of
    from mmtrain.models.loading import load

    check_target(Path(out))
    encoder = load(model, trust=trust, adapter=adapter)
    format = format or ("safetensors" if adapter is None else "peft")
    _settle_adapters(encoder, format)
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


def _settle_adapters(encoder: "Encoder", format: str) -> None:
    """Merges the adapter that was asked for; what is no safetensors folder holds the base alone otherwise."""
    from mmtrain.models.image_text import ImageTextModel

    model = encoder.model
    if not isinstance(model, ImageTextModel) or not model.bank.settings or format == "peft":
        return
    name, there = model.bank.default, ", ".join(model.bank.settings)
    if name is not None and name not in model.bank.settings:
        raise ValueError(f"--adapter: got {name}, expected one of {there}")
    if name is None and format == "safetensors":
        return
    if name is None:
        say(f"{encoder.source}: {format} holds no adapters by name; --adapter merges one of {there}")
    model.merge_adapters(name)
