"""Other libraries' models as an Encoder: `open_clip:NAME-OR-FOLDER` and `hf:NAME-OR-FOLDER`.

Each is run by its own library with its own tokenizer and preprocessing, so its rows are that library's rows. Three
things differ on purpose, here as everywhere: photos are turned upright, transparent images are laid on white, and a
caption's language sets the language token of a tokenizer that has them.
"""

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from datamodules.naflex import unpacked
from datamodules.tokenizers.languages import LanguageTokens
from datamodules.tokenizers.tokenizer import Tokenizer
from mmtrain.display.messages import one_line
from mmtrain.models.encoder import Encoder
from mmtrain.models.foreign_images import ForeignImages, ForeignPatches, patches_of_open_clip
from mmtrain.models.network import Network
from mmtrain.towers.pretrained import pretrained_folder
from mmtrain.towers.transformers_weights import from_pretrained, positions, quiet

PREFIXES = ("open_clip:", "hf:")


def is_foreign(model: str) -> bool:
    return model.startswith(PREFIXES)


def load_foreign(model: str) -> Encoder:
    """The encoder that `model` names.

    `open_clip:` takes a folder with open_clip_config.json, `hf-hub:OWNER/NAME`, or an architecture of open_clip with
    the tag of its weights behind a slash, as in `open_clip:xlm-roberta-base-ViT-B-32/laion5b_s13b_b90k`; where the
    image tower is a naflexvit of timm, pictures are of free size, with as many patches as its image_size has. `hf:`
    takes a folder or hub name of a transformers model that has get_image_features and get_text_features (CLIP, SigLIP,
    SigLIP 2 of fixed or free size, AltCLIP, Chinese-CLIP, ALIGN). A hub's name may end with the commit to take,
    NAME@COMMIT. What a hub has is fetched into a folder first, without any code; no code of a folder is run. Raises
    ValueError, one line, when the library is missing, cannot load it, or finds weights missing.
    """
    prefix, name = model.split(":", 1)
    if not name:
        raise ValueError(f"MODEL: {model} names no model; {prefix}:NAME-OR-FOLDER")
    reader = _open_clip if prefix == "open_clip" else _transformers
    try:
        return reader(model, name)
    except Exception as error:  # the libraries raise whatever a file makes them stumble over
        if isinstance(error, ValueError) and str(error).startswith(f"MODEL: {model}"):
            raise
        if isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error):
            raise ValueError(f"MODEL: {model}: its weights are a pickle of more than tensors; not opened") from error
        reason = one_line(str(error) or type(error).__name__)
        raise ValueError(f"MODEL: {model} cannot be loaded ({reason[:300]})") from error


class ForeignModel(Network):
    """The two encoders of another library's model behind our interface.

    Args:
        model: Their network.
        image: float pixels [N, 3, H, W], normalised as they do it -> [N, D]; for pictures of free size float patches
            [N, P, 3 p^2], their places int64 [N, P, 2] and which there are, bool [N, P].
        text: int64 tokens [N, L], bool mask [N, L] -> [N, D].
        images: Their preprocessing.
        tokenizer: Their tokenizer.

    Raises:
        ValueError: when one image and one text are no two rows of the same width.
    """

    gain: Tensor
    shift: Tensor

    def __init__(
        self,
        model: nn.Module,
        image: Callable[..., Tensor],
        text: Callable[[Tensor, Tensor], Tensor],
        images: ForeignImages | ForeignPatches,
        tokenizer: "ForeignTokenizer",
    ) -> None:
        super().__init__()
        self.model = model.eval()
        self._image, self._text = image, text
        self.register_buffer("gain", images.gain)
        self.register_buffer("shift", images.shift)
        with torch.no_grad():
            one_image = self.encode_image(torch.zeros(1, *images.shape, dtype=torch.uint8))
            one_text = self.encode_text(*tokenizer(["a"], [""]))
        self.dimension = one_image.shape[-1]
        if not one_image.shape == one_text.shape == (1, self.dimension):
            raise ValueError(
                f"one image gives {list(one_image.shape)}, one text {list(one_text.shape)}; both must be [1, D]"
            )

    def encode_image(self, images: Tensor, adapters: Tensor | None = None) -> Tensor:
        if images.ndim == 3:
            patches, places, there = unpacked(images)
            values = patches.unflatten(2, (-1, 3)) * self.gain.view(3) + self.shift.view(3)
            return functional.normalize(self._image(values.flatten(2), places, there), dim=-1)
        return functional.normalize(self._image(images * self.gain + self.shift), dim=-1)

    def encode_text(
        self, tokens: Tensor, mask: Tensor, languages: Tensor | None = None, adapters: Tensor | None = None
    ) -> Tensor:
        return functional.normalize(self._text(tokens, mask), dim=-1)


class ForeignTokenizer(Tokenizer):
    """Their tokenizer, called as its library calls it.

    Args:
        encode: Captions -> ids and mask.
        tokenizer: That of transformers behind it, whose language token is set; None where there is none.
    """

    def __init__(self, encode: Callable[[list[str]], tuple[Tensor, Tensor]], tokenizer: Any, vocabulary_size: int):
        self._encode, self.vocabulary_size = encode, vocabulary_size
        self._language_tokens = LanguageTokens(tokenizer)

    def __call__(self, captions: Sequence[str], languages: Sequence[str]) -> tuple[Tensor, Tensor]:
        return self._language_tokens.encode(self._encode, captions, languages)

    def save(self, folder: str | Path) -> None:
        raise ValueError("tokenizer: it belongs to another library's model, which exports it itself")


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
        ours, theirs = open_clip.get_model_config(name), open_clip.get_pretrained_cfg(name, weights)
        if ours.get("quick_gelu", False) != theirs.get("quick_gelu", False):
            raise ValueError(f"MODEL: {model}: these weights have another GELU; {name}-quickgelu/{weights}")
    with quiet():
        config = open_clip.get_model_config(name)
        parts = towers(config, name if folder is None else str(folder / "open_clip_config.json"), folder)
        network, _, render = open_clip.create_model_and_transforms(
            name, pretrained=weights or None, require_pretrained=True, **parts
        )
        from_hub = {"trust_remote_code": False} if parts["text_cfg"].get("hf_tokenizer_name") else {}
        tokenizer = open_clip.get_tokenizer(name, **from_hub)

    def encode(captions: list[str]) -> tuple[Tensor, Tensor]:
        ids = tokenizer(captions)
        return ids, torch.ones_like(ids, dtype=torch.bool)

    embeds = getattr(getattr(network.visual, "trunk", None), "embeds", None)
    images: ForeignImages | ForeignPatches = ForeignImages(render)
    image: Callable[..., Tensor] = network.encode_image
    if embeds is not None:
        images, image = patches_of_open_clip(network, embeds.patch_size[0])
    theirs = getattr(tokenizer, "tokenizer", None)  # of transformers, behind open_clip's
    words = ForeignTokenizer(encode, theirs, len(theirs) if theirs is not None else tokenizer.vocab_size)
    foreign = ForeignModel(network, image, lambda tokens, mask: network.encode_text(tokens), images, words)
    return Encoder(foreign, words, images, [], "cosine", model, _scale(network), bias=_bias(network))


def _transformers(model: str, name: str) -> Encoder:
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    folder = pretrained_folder(name)
    network = from_pretrained(AutoModel, str(folder))
    if not (hasattr(network, "get_image_features") and hasattr(network, "get_text_features")):
        raise ValueError(f"MODEL: {model} is a {type(network).__name__}, which does not embed both images and text")
    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)
    limits = (
        getattr(network.config.get_text_config(), "max_position_embeddings", None),
        positions(getattr(network, "text_model", network)),
        tokenizer.model_max_length,  # 1e30 for none
    )
    limit = min(limit for limit in limits if limit)
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

    def render(image: Image.Image) -> Tensor:
        given = processor(images=image, return_tensors="pt")
        if set(given) != {"pixel_values"} or given["pixel_values"].ndim != 4:
            raise ValueError("its processor gives pictures of free size that are no patches of SigLIP 2")
        return given["pixel_values"][0].float()

    def render_patches(image: Image.Image) -> tuple[Tensor, int, int]:
        given = processor(images=image, return_tensors="pt")
        rows, columns = given["spatial_shapes"][0].tolist()
        return given["pixel_values"][0, : rows * columns].float(), rows, columns

    def image(images: Tensor, *free: Tensor) -> Tensor:
        where = {"spatial_shapes": free[0].amax(1) + 1, "pixel_attention_mask": free[1].int()} if free else {}
        return _pooled(network.get_image_features(pixel_values=images, **where))

    def text(tokens: Tensor, mask: Tensor) -> Tensor:
        attention = {} if siglip else {"attention_mask": mask.long()}
        return _pooled(network.get_text_features(input_ids=tokens, **attention))

    naflex = network.config.model_type == "siglip2" and "spatial_shapes" in processor.model_input_names
    images = (
        ForeignPatches(render_patches, processor.max_num_patches, processor.patch_size)
        if naflex
        else ForeignImages(render)
    )
    words = ForeignTokenizer(encode, tokenizer, len(tokenizer))
    foreign = ForeignModel(network, image, text, images, words)
    return Encoder(foreign, words, images, [], "cosine", model, _scale(network), bias=_bias(network))


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
