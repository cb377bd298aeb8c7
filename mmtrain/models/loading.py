"""`mmtrain.load`: any trained or exported model as an object that encodes images and captions."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from datamodules.images import ImagePipeline
from datamodules.tokenizers import Tokenizer
from mmtrain.display.messages import first_line
from mmtrain.fusion import CaptionDecoder, MatchingHead, RelationHead
from mmtrain.models.adapter_folder import use_adapter
from mmtrain.models.description import (
    DECODER,
    DESCRIPTION,
    PREPROCESSING,
    WEIGHTS,
    damage_named,
    read_description,
    upgraded,
)
from mmtrain.models.encoder import Encoder
from mmtrain.models.foreign import is_foreign, load_foreign
from mmtrain.models.image_text import ImageTextModel
from mmtrain.models.run_folder import checkpoint_of, describe, read_checkpoint, resolve_run
from mmtrain.models.spec import build
from mmtrain.models.tokenizer_files import ARGUMENTS, make_tokenizer
from mmtrain.models.trust import check_description
from mmtrain.models.weights import first_difference, shape_of

if TYPE_CHECKING:
    from mmtrain.evaluation.ranking.tiles import Similarity

NETWORKS = {"head": (RelationHead, MatchingHead), "decoder": (CaptionDecoder,)}  # of an Encoder, behind its towers

TEXT_SIDE = ("text.", "text_projection.", "multi.text.")


def load(
    model: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    text_only: bool = False,
    trust: Sequence[str] | None = None,
    adapter: str | Path | None = None,
) -> Encoder:
    """The encoder of MODEL: a run folder (its best checkpoint, else its last), a checkpoint, an exported folder, or
    another library's model (`open_clip:NAME-OR-FOLDER`, `hf:NAME-OR-FOLDER`).

    No code that comes with a model is run: its classes are those of mmtrain, losses and datamodules, of `trust`, of the
    environment's MMTRAIN_TRUST, or of modules that were imported before.

    Args:
        model: MODEL.
        device: Where the networks run.
        dtype: What they compute in, e.g. torch.bfloat16; rows are float32 in any case.
        text_only: Leave out the image tower of a model of ours, which loads faster.
        trust: Modules whose classes the model may name, each with everything below it.
        adapter: What reads where nothing else is said: the name of an adapter of the model, "language" for each text's
            own, or a folder of peft, whose adapter is added under the folder's name. None for the base.

    Raises:
        ValueError: for anything else, a model that cannot be loaded, an adapter it has not, or one of another base.
    """
    path = Path(model)
    if is_foreign(str(model)):
        encoder = load_foreign(str(model))
    elif (path / DESCRIPTION).is_file():
        weights = _read_weights(path / WEIGHTS)
        with damage_named(path / DESCRIPTION):
            description = _read_trusted(path / DESCRIPTION, trust)
            behind = {"decoder": _read_weights(path / DECODER)} if description.get("decoder") else {}
            encoder = assemble(description, weights, behind, source=str(path / DESCRIPTION), text_only=text_only)
    elif (path / PREPROCESSING).is_file():
        encoder = load_onnx(path, trust=trust)
    elif (path / "open_clip_config.json").is_file():
        encoder = load_foreign(f"open_clip:{path}")
    elif any((path / name).exists() for name in ("modules.json", "onnx/text_model.onnx")):
        raise ValueError(
            f"MODEL: {model} is a folder for sentence-transformers or transformers.js, which mmtrain does not read; the"
            " run, or an export of another format"
        )
    elif (path / "config.json").is_file():
        encoder = load_foreign(f"hf:{path}")
    elif path.is_dir() or path.is_file():
        path = resolve_run(path) if path.is_dir() else path
        checkpoint = read_checkpoint(path)
        with damage_named(path):
            description, state = describe(checkpoint, str(path)), checkpoint["state_dict"]
            check_description(description, str(path), trust or ())
            described = [kind for kind in NETWORKS if description.get(kind)]
            behind = {kind: with_prefix(state, description[f"{kind}_weights"]) for kind in described}
            encoder = assemble(description, with_prefix(state, "model."), behind, source=str(path), text_only=text_only)
    else:
        raise ValueError(f"MODEL: {model} is no run folder, checkpoint or exported folder")
    encoder.source, encoder.dtype = str(model), dtype
    if adapter is not None:
        use_adapter(encoder, str(adapter))
    return encoder.to(device)


def is_ours(model: str) -> bool:
    """Whether MODEL is a run folder, a checkpoint or an export of ours, on this machine."""
    path = Path(model)
    files = (path / DESCRIPTION, path / PREPROCESSING)
    return not is_foreign(model) and (any(file.is_file() for file in files) or checkpoint_of(path) is not None)


def with_prefix(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with the prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def assemble(
    description: dict[str, Any],
    weights: dict[str, Tensor],
    behind: dict[str, dict[str, Tensor]] | None = None,
    *,
    source: str,
    text_only: bool = False,
) -> Encoder:
    """The encoder of a description that is trusted, of its weights, and of those `behind` its towers.

    Raises ValueError when the weights do not fit the description, naming the first parameter that does not.
    """
    description = upgraded(description, source)
    model = description["model"]
    if text_only and model["init_args"]["text"] != "shared":
        product = model["init_args"].get("composition") == "product"
        without: dict[str, Any] = {"image": None, "modalities": {}, "composition": "product" if product else "sum"}
        model = model | {"init_args": model["init_args"] | without}
        weights = {name: tensor for name, tensor in weights.items() if name.startswith(TEXT_SIDE)}
    network = build(model, ImageTextModel)
    fill(network, weights, source)
    network.merge_lora()
    network.bank.languages = description["languages"]
    scale, bias = description.get("scale"), description.get("bias")
    encoder = Encoder(network, *preprocessing(description), source, scale=scale, bias=bias)
    for kind, state in ({} if text_only else behind or {}).items():
        part = build(description[kind], nn.Module)
        assert isinstance(part, NETWORKS[kind])
        fill(part, state, source)
        setattr(encoder, kind, part.eval().requires_grad_(False))
    return encoder


def fill(network: nn.Module, weights: dict[str, Tensor], source: str) -> None:
    """Loads weights that must fit. Raises ValueError naming the first parameter that does not."""
    ours = network.state_dict()
    if name := first_difference(ours, weights):
        raise ValueError(
            f"{source}: weights do not fit: {name} is {shape_of(name, weights)} in the file, {shape_of(name, ours)} in"
            " the model"
        )
    network.load_state_dict(weights)


def load_onnx(folder: Path, *, int8: bool = False, trust: Sequence[str] | None = None) -> Encoder:
    """The encoder of an export to ONNX. Raises ValueError when the folder is not complete."""
    from mmtrain.models.onnx_graphs import OnnxModel

    with damage_named(folder / PREPROCESSING):
        description = _read_trusted(folder / PREPROCESSING, trust)
        parts = preprocessing(description)
        dimension, scale = int(description["dimension"]), description["scale"]
        bias = description.get("bias")
        network = OnnxModel(folder, dimension, description.get("multi"), int8)
        network.set_prompts(description.get("prompts", {}))
        network.shared = bool(description.get("shared"))
    return Encoder(network, *parts, str(folder), scale=scale, bias=bias)


def preprocessing(description: dict[str, Any]) -> tuple[Tokenizer, ImagePipeline | None, list[str], "Similarity"]:
    """Tokenizer, image pipeline (None for features), languages and similarity."""
    images = build(description["images"], ImagePipeline) if description.get("images") else None
    tokenizer = make_tokenizer(description["tokenizer"], description.get("tokenizer_files", {}))
    languages, similarity = description["languages"], description["similarity"]
    if not isinstance(languages, list) or not all(isinstance(language, str) for language in languages):
        raise ValueError(f"languages: got {languages!r}, expected a list of codes")
    if similarity not in ("cosine", "asymmetric"):
        raise ValueError(f"similarity: got {similarity!r}, expected cosine or asymmetric")
    scale = description.get("scale")
    if scale is not None and not (isinstance(scale, (int, float)) and scale > 0):
        raise ValueError(f"scale: got {scale!r}, expected a number above 0, or null")
    return tokenizer, images, languages, similarity


def _read_weights(file: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{file.parent}: not a complete export ({first_line(error)})") from error


def _read_trusted(path: Path, trust: Sequence[str] | None) -> dict[str, Any]:
    """An export's description, with its tokenizer's files, which lie inside the folder, as they can be opened."""
    description = read_description(path)
    check_description(description, str(path), trust or ())
    files = description["tokenizer"]["init_args"]
    for name, value in files.items():
        if name in ARGUMENTS or str(value).startswith(("./", "../")):
            inside = os.path.normpath(value)
            if not value.startswith("./") or inside.startswith(".."):
                raise ValueError(
                    f"{path}: tokenizer.{name} is {value!r}, expected a file inside the folder, as in ./tokenizer"
                )
            files[name] = str(path.parent / inside)
    return description
