"""Other libraries' models as an Encoder: `open_clip:NAME-OR-FOLDER` and `hf:NAME-OR-FOLDER`.

Each is run by its own library with its own tokenizer and preprocessing, so its rows are that library's rows. One thing
differs on purpose: transparent images are laid on white, here as everywhere.
"""

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from datamodules import ImagePipeline
from datamodules.images import opaque
from datamodules.tokenizers.tokenizer import Tokenizer
from mmtrain.display.messages import first_line
from mmtrain.models.encoder import Encoder
from mmtrain.models.network import Network
from mmtrain.towers.pretrained import pretrained_folder

PREFIXES = ("open_clip:", "hf:")


def is_foreign(model: str) -> bool:
    return model.startswith(PREFIXES)


def load_foreign(model: str) -> Encoder:
    """The encoder that `model` names.

    `open_clip:` takes a folder with open_clip_config.json, `hf-hub:OWNER/NAME`, or an architecture of open_clip with
    the tag of its weights behind a slash, as in `open_clip:xlm-roberta-base-ViT-B-32/laion5b_s13b_b90k`. `hf:` takes a
    folder or hub name of a transformers model that has get_image_features and get_text_features (CLIP, SigLIP, SigLIP 2
    of fixed resolution, AltCLIP, Chinese-CLIP). A hub's name may end with the commit to take, NAME@COMMIT. What a hub
    has is fetched into a folder first, without any code; no code of a folder is run. Raises ValueError, one line, when
    the library is missing or cannot load it.
    """
    prefix, name = model.split(":", 1)
    if not name:
        raise ValueError(f"MODEL: {model} names no model; {prefix}:NAME-OR-FOLDER")
    reader = _open_clip if prefix == "open_clip" else _transformers
    try:
        return reader(model, name)
    except Exception as error:  # whatever their library makes of a damaged folder
        if isinstance(error, ValueError) and str(error).startswith(f"MODEL: {model}"):
            raise
        if isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error):
            raise ValueError(f"MODEL: {model}: its weights are a pickle of more than tensors; not opened") from error
        kind = "" if isinstance(error, (ValueError, OSError)) else f"{type(error).__name__}: "
        raise ValueError(f"MODEL: {model} cannot be loaded ({kind}{first_line(error)[:300]})") from error


class ForeignModel(Network):
    """The two encoders of another library's model behind our interface.

    Args:
        model: Their network.
        image: float pixels [N, 3, H, W], normalised as they do it -> [N, D].
        text: int64 tokens [N, L], bool mask [N, L] -> [N, D].
        mean, std: Of the three channels, for pixels in [0, 1].
        size: Side of the images they take, in pixels.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: nn.Module,
        image: Callable[[Tensor], Tensor],
        text: Callable[[Tensor, Tensor], Tensor],
        *,
        mean: Sequence[float],
        std: Sequence[float],
        size: int,
    ) -> None:
        super().__init__()
        self.model = model.eval()
        self._image, self._text = image, text
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])
        with torch.no_grad():
            self.dimension = self.encode_image(torch.zeros(1, 3, size, size, dtype=torch.uint8)).shape[1]

    def encode_image(self, images: Tensor) -> Tensor:
        return functional.normalize(self._image((images.float() / 255 - self.mean) / self.std), dim=-1)

    def encode_text(self, tokens: Tensor, mask: Tensor, languages: Tensor | None = None) -> Tensor:
        return functional.normalize(self._text(tokens, mask), dim=-1)


class ForeignTokenizer(Tokenizer):
    """Their tokenizer, called as its library calls it."""

    def __init__(self, encode: Callable[[list[str]], tuple[Tensor, Tensor]], vocabulary_size: int) -> None:
        self._encode, self.vocabulary_size = encode, vocabulary_size

    def __call__(self, captions: Sequence[str], languages: Sequence[str]) -> tuple[Tensor, Tensor]:
        return self._encode(list(captions))

    def save(self, folder: str | Path) -> None:
        raise ValueError("tokenizer: it belongs to another library's model, which exports it itself")


class ForeignImages(ImagePipeline):
    """An image processor of transformers, up to where it would normalise."""

    def __init__(self, model: str, processor: Any) -> None:
        self._model, self._processor = model, processor
        super().__init__(size=self.evaluate(Image.new("RGB", (32, 32))).shape[-1], augment=False)

    def evaluate(self, image: Image.Image) -> Tensor:
        options = {"do_rescale": False, "do_normalize": False, "return_tensors": "pt"}
        pixels = self._processor(images=opaque(image), **options)["pixel_values"]
        if pixels.ndim != 4:
            raise ValueError(f"MODEL: {self._model} takes pictures of free size; one of fixed resolution can be read")
        return pixels[0].round().clamp(0, 255).to(torch.uint8)


def _open_clip(model: str, name: str) -> Encoder:
    try:
        import open_clip
    except ImportError as error:
        raise ValueError(f"MODEL: {model} needs open_clip: pip install open_clip_torch") from error
    from mmtrain.models.open_clip_settings import WEIGHTS, towers

    folder = weights = None
    if Path(name).expanduser().is_dir() or name.startswith("hf-hub:"):
        folder = pretrained_folder(name.removeprefix("hf-hub:"), WEIGHTS)
        if not (folder / "open_clip_config.json").is_file():
            raise ValueError(f"MODEL: {model}: there is no open_clip_config.json in the folder")
        name = f"local-dir:{folder}"
    else:
        name, _, weights = name.partition("/")
        tags = open_clip.list_pretrained_tags_by_model(name)
        if name not in open_clip.list_models():
            raise ValueError(f"MODEL: {model}: open_clip has no architecture {name!r}, and there is no such folder")
        if weights not in tags:
            raise ValueError(f"MODEL: {model}: weights of {name} are {', '.join(tags) or 'none'}, as in {name}/TAG")
    config = open_clip.get_model_config(name)
    parts = towers(config, name if folder is None else str(folder / "open_clip_config.json"), folder)
    network, _, _ = open_clip.create_model_and_transforms(
        name, pretrained=weights or None, require_pretrained=True, **parts
    )
    from_hub = {"trust_remote_code": False} if parts["text_cfg"].get("hf_tokenizer_name") else {}
    tokenizer = open_clip.get_tokenizer(name, **from_hub)
    settings = network.visual.preprocess_cfg
    if settings["resize_mode"] not in ("shortest", "squash"):
        raise ValueError(f"MODEL: {model} resizes by {settings['resize_mode']}; shortest and squash can be read")
    size = settings["size"] if isinstance(settings["size"], int) else settings["size"][0]

    def encode(captions: list[str]) -> tuple[Tensor, Tensor]:
        ids = tokenizer(captions)
        return ids, torch.ones_like(ids, dtype=torch.bool)

    foreign = ForeignModel(
        network,
        network.encode_image,
        lambda tokens, mask: network.encode_text(tokens),
        mean=settings["mean"],
        std=settings["std"],
        size=size,
    )
    images = ImagePipeline(
        size=size, augment=False, resize=settings["resize_mode"], interpolation=settings["interpolation"]
    )
    words = ForeignTokenizer(encode, getattr(tokenizer, "vocab_size", 0))
    return Encoder(foreign, words, images, [], "cosine", model, _scale(network), bias=_bias(network))


def _transformers(model: str, name: str) -> Encoder:
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    folder = pretrained_folder(name)
    network = AutoModel.from_pretrained(folder, trust_remote_code=False)
    if not (hasattr(network, "get_image_features") and hasattr(network, "get_text_features")):
        raise ValueError(f"MODEL: {model} is a {type(network).__name__}, which does not embed both images and text")
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)
    # a tokenizer without a limit has 1e30; RoBERTa counts its positions from 2
    limit = min(network.config.text_config.max_position_embeddings, tokenizer.model_max_length)
    # SigLIP was trained on rows of full length without a mask
    siglip = network.config.model_type.startswith("siglip")

    def encode(captions: list[str]) -> tuple[Tensor, Tensor]:
        rows = tokenizer(
            captions,
            padding="max_length" if siglip else "longest",
            truncation=True,
            max_length=limit,
            return_attention_mask=True,
            return_tensors="pt",
        )
        return rows["input_ids"], rows["attention_mask"].bool()

    def image(images: Tensor) -> Tensor:
        return _pooled(network.get_image_features(pixel_values=images))

    def text(tokens: Tensor, mask: Tensor) -> Tensor:
        attention = {} if siglip else {"attention_mask": mask.long()}
        return _pooled(network.get_text_features(input_ids=tokens, **attention))

    images: ImagePipeline
    if type(processor).__name__ == "TimmWrapperImageProcessor":
        settings = processor.data_config
        images, mean, std = _timm_images(model, settings), settings["mean"], settings["std"]
    else:
        images, mean, std = ForeignImages(model, processor), processor.image_mean, processor.image_std
    foreign = ForeignModel(network, image, text, mean=mean, std=std, size=images.size)
    words = ForeignTokenizer(encode, len(tokenizer))
    return Encoder(foreign, words, images, [], "cosine", model, _scale(network), bias=_bias(network))


def _timm_images(model: str, settings: dict[str, Any]) -> ImagePipeline:
    if settings["crop_pct"] != 1 or settings["crop_mode"] not in ("center", "squash"):
        raise ValueError(
            f"MODEL: {model} has crop_mode {settings['crop_mode']}, crop_pct {settings['crop_pct']}; center or squash"
            " with crop_pct 1 can be read"
        )
    return ImagePipeline(
        size=settings["input_size"][-1],
        augment=False,
        resize="squash" if settings["crop_mode"] == "squash" else "shortest",
        interpolation=settings["interpolation"],
    )


def _scale(network: nn.Module) -> float | None:
    log_scale = getattr(network, "logit_scale", None)
    return None if log_scale is None else float(log_scale.detach().exp())


def _bias(network: nn.Module) -> float | None:
    """SigLIP's; a transformers export of ours keeps it in the config, for its class has no such parameter."""
    bias = getattr(network, "logit_bias", None)
    bias = getattr(getattr(network, "config", None), "logit_bias", None) if bias is None else bias
    return None if bias is None else float(torch.as_tensor(bias).detach())


def _pooled(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output.pooler_output
