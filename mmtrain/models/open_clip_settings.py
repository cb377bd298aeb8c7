"""What open_clip_config.json may say, and how its towers are named so that nothing but the folder is opened."""

from pathlib import Path
from typing import Any

import timm

from mmtrain.towers.pretrained import pretrained_folder, read_settings

WEIGHTS = ("open_clip*.safetensors", "open_clip*.bin")  # as a hub names them
TOKENIZER = frozenset({"additional_special_tokens", "clean", "language", "reduction_mask", "strip_sep_token"})


def towers(settings: dict[str, Any], source: str, folder: Path | None) -> dict[str, dict[str, Any]]:
    """`vision_cfg` and `text_cfg`, which open_clip.create_model takes in the place of those of `settings`.

    The text tower's config, which transformers reads, is that of the folder, or else one fetched from a hub.

    Args:
        settings: A model's config of open_clip.
        source: Where that comes from.
        folder: Where that lies; None for open_clip's own.

    Raises:
        ValueError: for a field that names another folder, code, or options of a loader, naming it.
    """
    vision, text = dict(settings["vision_cfg"]), dict(settings["text_cfg"])
    name = vision.get("timm_model_name")
    if name and not timm.is_model(name):
        raise ValueError(f"{source}: timm_model_name is {name!r}, expected an architecture of timm")
    if name:
        vision["timm_model_pretrained"] = False  # the weights are those of the whole model
    unknown = sorted(set(text.get("tokenizer_kwargs") or {}) - TOKENIZER)
    if unknown:
        raise ValueError(
            f"{source}: tokenizer_kwargs has {', '.join(unknown)}, expected of {', '.join(sorted(TOKENIZER))}"
        )
    if text.get("hf_model_name"):
        place = _text_folder(text["hf_model_name"], source, folder)
        text |= {"hf_model_name": str(place), "hf_model_pretrained": False}
    return {"vision_cfg": vision, "text_cfg": text}


def _text_folder(name: str, source: str, folder: Path | None) -> Path:
    place = Path(name).expanduser()
    if folder is not None:
        outside, own = place.is_dir() and place.resolve() != folder.resolve(), folder / "config.json"
        # some folders hold the whole model for transformers too
        if own.is_file() and not outside and "vision_config" not in read_settings(own):
            return folder
        if outside or place.is_absolute() or name.startswith("."):
            raise ValueError(f"{source}: hf_model_name is {name!r}, outside of the folder; expected a hub's name")
    return pretrained_folder(name, weights=())
