"""Folders of peft: adapter_config.json beside adapter_model.safetensors. Only settings and tensors are read."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmtrain.display.messages import first_line
from mmtrain.models.adapters import BY_LANGUAGE, Adapter, chosen_layers, linear_layers
from mmtrain.models.encoder import Encoder
from mmtrain.models.fingerprint import base_fingerprint
from mmtrain.models.image_text import ImageTextModel
from mmtrain.towers.pretrained import read_settings

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
BASE = "mmtrain_base"  # the fingerprint of the base, in the header of the weights
PREFIX = "base_model.model."
READ = ("peft_type", "r", "lora_alpha", "lora_dropout", "target_modules", "use_rslora", "init_lora_weights")
# of somebody's machine, or of how it was trained; nothing is opened by them
UNREAD = ("auto_mapping", "base_model_name_or_path", "inference_mode", "peft_version", "revision", "task_type")
PLACES = ("", "text.network.", "image.network.")  # of a whole model, or of one tower's network


def is_adapter_folder(name: str | Path) -> bool:
    return (Path(name) / CONFIG).is_file()


def use_adapter(encoder: Encoder, name: str) -> None:
    """Lets an adapter read what nothing else is said of.

    Args:
        name: Of an adapter, "language", or a folder, whose adapter is added first.

    Raises:
        ValueError: for an adapter that there is not, a folder that cannot be read, or one of another base.
    """
    model = encoder.model
    if isinstance(model, ImageTextModel) and name not in model.bank.settings and is_adapter_folder(name):
        name = add_folder(model, Path(name))
    encoder.adapter_number(name)
    assert isinstance(model, ImageTextModel)
    model.bank.default = name
    if name == BY_LANGUAGE and not model.reads_by_language:  # trained one after another, each beside other languages
        more = [each for each in model.bank.settings if each not in encoder.languages]
        encoder.languages = model.bank.languages = [*encoder.languages, *more]


def add_folder(model: ImageTextModel, folder: Path) -> str:
    """Adds the adapter of a folder under the folder's name, which is returned.

    Raises:
        ValueError: one line, for what is no low-rank adapter of linear layers, or one of another base.
    """
    name, (adapter, weights) = folder.name.replace(".", "_"), read_folder(model, folder)
    model.bank.add(name, adapter)
    fill_adapter(model, name, weights, str(folder))
    model.requires_grad_(False).eval()
    return name


def read_folder(model: ImageTextModel, folder: Path) -> tuple[Adapter, dict[str, Tensor]]:
    """The settings, and the weights "LAYER.lora_A" [r, in] and "LAYER.lora_B" [out, r] by layers of the model.

    Raises:
        ValueError: as `add_folder`.
    """
    settings = read_settings(folder / CONFIG)
    _check(settings, folder / CONFIG)
    found, fingerprint = _read_weights(folder / WEIGHTS)
    if fingerprint not in (None, ours := base_fingerprint(model)):
        raise ValueError(f"{folder}: an adapter of the base {fingerprint}; this model is {ours}: another base")
    layers = sorted({key.rpartition(".")[0] for key in found})
    there = set(linear_layers(model))
    place = next((place for place in PLACES if all(f"{place}{layer}" in there for layer in layers)), None)
    if place is None or not layers:
        missing = next((layer for layer in layers if layer not in there), "nothing")
        raise ValueError(f"{folder}: adapts {missing}, no linear layer of this model: an adapter of another base")
    rank = settings["r"]
    alpha = settings["lora_alpha"] * (math.sqrt(rank) if settings.get("use_rslora") else 1)
    targets = [f"{place}{layer}" for layer in layers]
    adapter = Adapter(rank, alpha, settings.get("lora_dropout", 0.0), targets)
    return adapter, {f"{place}{key}": value for key, value in found.items()}


@torch.no_grad()
def fill_adapter(model: ImageTextModel, name: str, weights: Mapping[str, Tensor], source: str) -> None:
    """Copies the weights of a folder into an adapter. Raises ValueError for others than it has."""
    ours = {key.removesuffix(f".{name}.weight"): value for key, value in model.bank.weights(name).items()}
    for key in sorted({*ours, *weights}):
        shapes = [list(each[key].shape) if key in each else "not there" for each in (ours, weights)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"{source}: {key} is {shapes[1]}, expected {shapes[0]}: an adapter of another base")
        ours[key].copy_(weights[key])


def write_folder(model: ImageTextModel, name: str, folder: Path) -> None:
    """Writes an adapter as `peft.PeftModel.from_pretrained(model, folder)` reads it."""
    from peft import LoraConfig
    from safetensors.torch import save_file

    adapter = model.bank.settings[name]
    layers = chosen_layers(model, adapter.targets, strict=False)
    config = LoraConfig(**adapter.in_peft(), target_modules=layers, inference_mode=True)
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}
    (folder / CONFIG).write_text(json.dumps(plain, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    weights = {
        f"{PREFIX}{key.replace(f'.{name}.weight', '.weight')}": value.detach().cpu().contiguous()
        for key, value in model.bank.weights(name).items()
    }
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt", BASE: base_fingerprint(model)})


def _check(settings: Any, path: Path) -> None:
    """Refuses what is more than two matrices beside linear layers, all of one rank."""
    from peft import LoraConfig

    if not isinstance(settings, dict) or settings.get("peft_type") != "LORA":
        kind = settings.get("peft_type") if isinstance(settings, dict) else settings
        raise ValueError(f"{path}: peft_type: got {str(kind)[:100]!r}, expected LORA")
    usual = LoraConfig().to_dict()
    for name, value in settings.items():
        if name in READ or name in UNREAD or not value or value == usual.get(name):
            continue
        raise ValueError(
            f"{path}: {name}: got {str(value)[:100]!r}, expected low-rank matrices of one rank, without it"
        )
    if settings.get("init_lora_weights", True) not in (True, False, "gaussian"):  # others change the base
        raise ValueError(f"{path}: init_lora_weights: got {settings['init_lora_weights']!r}, expected true or gaussian")
    for name, kind in (("r", int), ("lora_alpha", (int, float))):
        if not isinstance(settings.get(name), kind):
            raise ValueError(f"{path}: {name}: got {settings.get(name)!r}, expected a number")


def _read_weights(file: Path) -> tuple[dict[str, Tensor], str | None]:
    """The weights by layer and matrix, and the fingerprint of the base where it is said."""
    from safetensors import SafetensorError, safe_open

    found: dict[str, Tensor] = {}
    try:
        with safe_open(file, framework="pt") as opened:
            for key in opened.keys():  # noqa: SIM118  # no mapping
                layer = key.removeprefix(PREFIX).removesuffix(".weight")
                if not layer.endswith((".lora_A", ".lora_B")):
                    raise ValueError(f"{file}: holds {key}, expected lora_A and lora_B of linear layers")
                found[layer] = opened.get_tensor(key)
            return found, (opened.metadata() or {}).get(BASE)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{file} cannot be read ({first_line(error)}); a folder of peft with safetensors") from error
