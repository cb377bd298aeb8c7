"""`mmtrain.load`: any trained or exported model as an object that encodes pictures and captions."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from datamodules.images import ImagePipeline
from datamodules.tokenizers import Tokenizer
from mmtrain.model import ImageTextModel
from mmtrain.spec import build
from mmtrain.towers import ImageTower, TextTower

if TYPE_CHECKING:
    from PIL import Image

DESCRIPTION = "mmtrain.json"
WEIGHTS = "model.safetensors"
PREPROCESSING = "preprocessing.json"  # beside ONNX graphs


class Encoder:
    """A model with its preprocessing: pictures and captions in, rows of unit length out.

    Attributes:
        model: The network, in evaluation mode.
        tokenizer, images: The preprocessing it was trained with.
        languages: Languages it was trained on.
        metric: The similarity it was trained for, cosine or asymmetric.
        source: Where it came from.
        scale: The multiplier of the cosines in its loss (the inverse temperature), None where that is not known.
        dtype: What the networks compute in (autocast); rows are float32 in any case.
    """

    def __init__(
        self,
        model: ImageTextModel,
        tokenizer: Tokenizer,
        images: ImagePipeline | None,
        languages: list[str],
        similarity: str,
        source: str,
        scale: float | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.images = images
        self.languages = languages
        self.metric = similarity
        self.source = source
        self.scale = scale
        self.dtype = dtype

    @property
    def device(self) -> torch.device:
        return next((parameter.device for parameter in self.model.parameters()), torch.device("cpu"))

    def to(self, device: str | torch.device) -> "Encoder":
        self.model.to(device)
        return self

    def encode_image(
        self,
        images: "Sequence[Image.Image] | np.ndarray | Tensor",
        *,
        dim: int | None = None,
        batch_size: int = 64,
        progress: bool = False,
    ) -> np.ndarray:
        """Pictures, or precomputed features [N, F], as float32 [N, D], rows of unit length.

        Args:
            images: PIL images of any size and mode; or an array: uint8 [N, H, W, 3] pictures, or float [N, F] features.
            dim: Keep the first so many dimensions and normalise again (Matryoshka).
            batch_size: Pictures encoded at once.
            progress: Show a bar.

        Raises:
            ValueError: for another kind of input, or a dim beyond the model's.
        """

        if hasattr(images, "convert"):
            raise ValueError("encode_image: got one picture, expected a list of them, or an array")

        def encode(part: Any) -> Tensor:
            return self.model.encode_image(self.pixels(part).to(self.device))

        return self._in_batches(images, encode, dim, batch_size, progress)

    def encode_text(
        self,
        captions: Sequence[str],
        language: str | None = None,
        *,
        dim: int | None = None,
        batch_size: int = 256,
        progress: bool = False,
    ) -> np.ndarray:
        """Captions as float32 [N, D], rows of unit length.

        Args:
            captions: Text; anything beyond the tokenizer's limit is cut.
            language: Their language, where the tokenizer or tower needs it (words of one language).
            dim: Keep the first so many dimensions and normalise again (Matryoshka).
            batch_size: Captions encoded at once.
            progress: Show a bar.

        Raises:
            ValueError: for captions that are no strings, a language that the model needs and does not know, or a dim
                beyond the model's.
        """
        if isinstance(captions, str) or not all(isinstance(caption, str) for caption in captions):
            raise ValueError("encode_text: expected a list of str")
        index = self.languages.index(language) if language in self.languages else -1

        def encode(part: Sequence[str]) -> Tensor:
            tokens, mask = self.tokenizer(list(part), [language or ""] * len(part))
            languages = torch.full((len(part),), index, device=self.device)
            return self.model.encode_text(tokens.to(self.device), mask.to(self.device), languages)

        return self._in_batches(captions, encode, dim, batch_size, progress)

    def similarity(self, images: np.ndarray, texts: np.ndarray) -> np.ndarray:
        """Scores float32 [N, M] of images [N, D] and texts [M, D]: cosine, or asymmetric where that was trained."""
        if self.metric == "cosine":
            return images @ texts.T
        from losses import asymmetric_similarity

        return asymmetric_similarity(torch.from_numpy(images), torch.from_numpy(texts)).numpy()

    def pixels(self, images: Any) -> Tensor:
        """What the image tower takes: pictures as uint8 [N, 3, H, W], or precomputed features [N, F]."""
        from PIL import Image

        if isinstance(images, Tensor):
            images = images.cpu().numpy()
        if self.images is None:
            if not isinstance(images, np.ndarray) or images.ndim != 2:
                raise ValueError(
                    f"encode_image: {self.source} was trained on precomputed features: give an array [N, F]"
                )
            return torch.from_numpy(np.ascontiguousarray(images, dtype=np.float32))
        if isinstance(images, np.ndarray):
            if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
                raise ValueError(f"encode_image: expected uint8 [N, H, W, 3], got {images.dtype} {list(images.shape)}")
        images = [Image.fromarray(image) if isinstance(image, np.ndarray) else image for image in images]
        return torch.stack([self.images.evaluate(image) for image in images])

    def _in_batches(
        self, items: Any, encode: Callable[[Any], Tensor], dim: int | None, batch_size: int, progress: bool
    ) -> np.ndarray:
        width = self.model.dimension
        if dim is not None and not 1 <= dim <= width:
            raise ValueError(f"dim: got {dim}, the rows of {self.source} have {width}; 1 to {width}")
        starts: Any = range(0, len(items), batch_size)
        if progress:
            from rich.progress import track

            starts = track(starts, description="encoding", transient=True)
        lower = self.dtype != torch.float32
        with torch.inference_mode(), torch.autocast(self.device.type, self.dtype, enabled=lower):
            rows = [encode(items[start : start + batch_size]).float()[:, :dim] for start in starts]
            rows = [functional.normalize(part, dim=1).cpu().numpy() for part in rows]
        return np.concatenate(rows) if rows else np.zeros((0, dim or width), dtype=np.float32)


def load(model: str | Path, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> Encoder:
    """Loads MODEL: a run folder (its best checkpoint, else its last), a checkpoint, an exported folder, or somebody
    else's model (`open_clip:NAME-OR-FOLDER`, `hf:NAME-OR-FOLDER`).

    Args:
        device: Where the networks run.
        dtype: What they compute in, e.g. torch.bfloat16; rows are float32 in any case.

    Raises:
        ValueError: for anything else, with what was found there.
    """
    encoder = _load(model).to(device)
    encoder.dtype = dtype
    return encoder


def _load(model: str | Path) -> Encoder:
    from mmtrain.foreign import is_foreign, load_foreign  # which imports this file

    if is_foreign(str(model)):
        return load_foreign(str(model))
    path = Path(model)
    if (path / DESCRIPTION).is_file():
        description, weights = _read_export(path)
    elif (path / PREPROCESSING).is_file():
        return load_onnx(path)
    elif (path / "open_clip_config.json").is_file():
        return load_foreign(f"open_clip:{path}")
    elif (path / "config.json").is_file():
        return load_foreign(f"hf:{path}")
    elif path.is_dir() or path.is_file():
        from mmtrain.checkpoints import describe, read_checkpoint, resolve_run

        checkpoint = read_checkpoint(resolve_run(path) if path.is_dir() else path)
        description = describe(checkpoint)
        weights = {
            name.removeprefix("model."): tensor
            for name, tensor in checkpoint["state_dict"].items()
            if name.startswith("model.")
        }
        scales = [value for name, value in checkpoint["state_dict"].items() if name.endswith("log_scale")]
        description["scale"] = float(scales[0].exp()) if scales else None
    else:
        raise ValueError(f"MODEL: {model} is no run folder, checkpoint or exported folder")
    return assemble(description, weights, source=str(model))


def assemble(description: dict[str, Any], weights: dict[str, Tensor], *, source: str) -> Encoder:
    """The encoder that `description` (Checkpoint writes it) and `weights` make.

    Raises:
        ValueError: when the weights do not fit the description, naming the first parameter that does not.
    """
    parts = description["model"]
    network = ImageTextModel(
        build(parts["image"], ImageTower), build(parts["text"], TextTower), parts["dimension"], parts["projection"]
    )
    lora = parts.get("lora")
    if lora:
        from mmtrain.adaptation import add_lora, merge_lora

        add_lora(network, lora)
    expected = network.state_dict()
    for name in [*expected, *weights]:
        if name not in weights or name not in expected or weights[name].shape != expected[name].shape:
            ours = list(expected[name].shape) if name in expected else "nothing of that name"
            theirs = list(weights[name].shape) if name in weights else "nothing of that name"
            raise ValueError(f"{source}: weights do not fit: {name} is {theirs} in the file, {ours} in the model")
    network.load_state_dict(weights)
    if lora:
        merge_lora(network)
    tokenizer = build(description["tokenizer"], Tokenizer)
    images = build(description["images"], ImagePipeline) if description.get("images") else None
    languages, metric = description["languages"], description["similarity"]
    return Encoder(network, tokenizer, images, languages, metric, source, description.get("scale"))


def load_onnx(folder: Path, *, int8: bool = False) -> Encoder:
    """The encoder whose networks are the graphs of an export to ONNX.

    Raises:
        ValueError: when the folder is not complete.
    """
    from mmtrain.onnx_model import OnnxModel

    description = _read_description(folder, PREPROCESSING)
    tokenizer = build(description["tokenizer"], Tokenizer)
    images = build(description["images"], ImagePipeline) if description["images"] else None
    network = OnnxModel(folder, description["dimension"], int8)
    languages, metric = description["languages"], description["similarity"]
    return Encoder(network, tokenizer, images, languages, metric, str(folder), description["scale"])


def _read_export(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{folder}: not a complete export ({str(error).splitlines()[0]})") from error
    return _read_description(folder, DESCRIPTION), weights


def _read_description(folder: Path, name: str) -> dict[str, Any]:
    try:
        description = json.loads((folder / name).read_text(encoding="utf-8"))
        tokenizer = description["tokenizer"]["init_args"]
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{folder}: {name} cannot be read ({str(error).splitlines()[0]})") from error
    # files of the tokenizer travel inside the folder
    for key, value in tokenizer.items():
        if isinstance(value, str) and value.startswith("./"):
            tokenizer[key] = str(folder / value[2:])
    return description
