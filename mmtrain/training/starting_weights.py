"""The weights that training starts from: those of another model, all of them or what fits."""

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor, nn

from mmtrain.display.messages import brief
from mmtrain.fusion import RelationHead
from mmtrain.fusion.heads import RULED_OUT
from mmtrain.models.adapter_folder import fill_adapter, is_adapter_folder, read_folder
from mmtrain.models.adapters import Adapter, adapter_of, plain_name
from mmtrain.models.foreign import ForeignModel
from mmtrain.models.image_text import ImageTextModel
from mmtrain.models.loading import load
from mmtrain.models.run_folder import describe, read_checkpoint
from mmtrain.models.spec import spec_of
from mmtrain.models.tokenizer_files import alike
from mmtrain.models.weights import first_difference, shape_of
from mmtrain.towers import TimmTower
from mmtrain.training.data import TrainingData
from mmtrain.training.siglip2_weights import by_timms_names

# open_clip's names of timm and transformers towers, and ours (`mmtrain export --format open_clip` writes them)
OPEN_CLIP = {
    "visual.trunk.": "image.network.",
    "visual.head.proj.": "image_projection.",
    "text.transformer.": "text.network.",
    "text.proj.": "text_projection.",
}
NORMALISATION = ("image.mean", "image.deviation")
TOWERS = ("image.", "text.", "modalities.")
EMPTY: Mapping[str, str] = MappingProxyType({})


def start(
    model: ImageTextModel, pretrained: str | None, lora: Mapping[str, int], adapters: Mapping[str, Adapter]
) -> None:
    """Puts adapters into a model and fills it with the weights that fit of MODEL, and of folders of peft.

    Args:
        pretrained: MODEL.
        lora: Ranks by tower.
        adapters: By name, each begins as its `start`, else as the one of its name in MODEL, else as nothing.

    Raises:
        ValueError: one line, for a MODEL of which nothing fits, a folder of another base, or a start that is neither.
    """
    model.add_lora(lora)
    model.add_adapters(adapters)
    starts = {name: each.start for name, each in adapters.items() if each.start is not None}
    folders = {name: place for name, place in starts.items() if is_adapter_folder(place)}
    named = {name: place for name, place in starts.items() if name not in folders}
    for name, place in named.items():
        if pretrained is None:
            raise ValueError(f"model.adapters.{name}.start: got {place!r}, no folder of peft, and no model.pretrained")
    if pretrained is not None:
        rank_zero_info(load_partially(model, pretrained, named))
    for name, place in folders.items():
        fill_adapter(model, name, read_folder(model, Path(place))[1], f"model.adapters.{name}.start: {place}")


def load_partially(model: ImageTextModel, name: str, starts: Mapping[str, str] = EMPTY) -> str:
    """Copies the weights of MODEL that fit `model` by name and shape, position embeddings resized.

    Returns one line: what was loaded, resized, missing and left out.

    Args:
        starts: By adapter of the model the one of MODEL that it begins as, where that has another name.
        name: A run, checkpoint or export of ours, an open_clip model with a tower of timm, of transformers, or its own
            vision transformer, or a SigLIP 2 of free size of transformers, whose image tower a naflexvit takes; the
            normalisation of pictures comes with the weights of the image tower.

    Raises:
        ValueError: when nothing of a tower fits.
    """
    encoder = load(name)
    for adapter, place in starts.items():
        try:
            encoder.adapter_number(place)
        except ValueError as error:
            raise ValueError(f"model.adapters.{adapter}.start: {error}") from error
    theirs = {plain_name(key): value for key, value in _by_our_names(encoder.model, model.image).items()}
    ours = model.state_dict()
    fitting: dict[str, Tensor] = {}
    resized: list[str] = []
    sources = {key: _source(key, starts) for key in ours}
    for key, source in sources.items():
        if (value := theirs.get(source)) is None:
            continue
        if value.shape == ours[key].shape:
            fitting[key] = value
        elif key.endswith("pos_embed") and value.ndim == 3 and value.shape[-1:] == ours[key].shape[2:]:
            fitting[key] = _resize(value, ours[key], model.image)
            resized.append(f"{key} {list(value.shape)} to {list(ours[key].shape)}")
    learned = [key for key, value in fitting.items() if value.ndim > 1 and key not in NORMALISATION]
    if not any(key.startswith("image.") for key in learned):  # another tower keeps its own
        fitting = {key: value for key, value in fitting.items() if key not in NORMALISATION}
    # a projection alone may have our name and shape by chance
    if not any(key.startswith(TOWERS) for key in learned):
        raise ValueError(
            f"model.pretrained: nothing of {name} fits: it has {brief(list(theirs))}, the model has {brief(list(ours))}"
        )
    model.load_state_dict(fitting, strict=False)
    used = {sources[key] for key in fitting}
    missing, unused = [key for key in ours if key not in fitting], [key for key in theirs if key not in used]
    return (
        f"pretrained: {name}: {len(fitting)} of {len(ours)} tensors loaded; resized: {brief(resized)}; as they were:"
        f" {brief(missing)}; left out of it: {brief(unused)}"
    )


def _source(key: str, starts: Mapping[str, str]) -> str:
    """The weight of MODEL that one of ours begins as."""
    adapter = adapter_of(key)
    if adapter is None or adapter not in starts:
        return plain_name(key)
    return key.replace(f".{adapter}.weight", f".{starts[adapter]}.weight")


@torch.no_grad()
def load_parts(module: nn.Module, path: str) -> str:
    """Copies a checkpoint's objectives, and the parts of its head, into those of the same name and shape.

    Returns one line: what was copied, and what is as it was. A class that either side has no samples of stays as it is.

    Args:
        module: Has `objectives`, and may have a `head`.
        path: A checkpoint of ours.
    """
    checkpoint = read_checkpoint(path)
    head = describe(checkpoint, path).get("head") or {"init_args": {}}
    ours = _parts(module.state_dict(), getattr(getattr(module, "head", None), "names", {}))
    theirs = _parts(checkpoint["state_dict"], head["init_args"].get("names", {}))
    fitting = [name for name, part in ours.items() if _shapes(part) == _shapes(theirs.get(name, {}))]
    for name in fitting:
        for key, value in ours[name].items():
            other = theirs[name][key].to(value)
            value.copy_(torch.where((value == RULED_OUT) | (other == RULED_OUT), value, other))
    others = [name for name in ours if name not in fitting]
    return f"start_from: {path}: beside the space {brief(fitting)}; as they were made: {brief(others)}"


def _parts(state: dict[str, Tensor], tasks: dict[str, list[str]]) -> dict[str, dict[str, Tensor]]:
    """The weights of each objective, and of each part of a head; a task's layer by the names of task and classes."""
    layers = {f"head.out.{number}": f"head.{task} ({', '.join(tasks[task])})" for number, task in enumerate(tasks)}
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        if found := re.match(r"objectives\.[^.]+|head\.out\.\d+|head\.[^.]+", key):
            parts.setdefault(layers.get(found[0], found[0]), {})[key.removeprefix(found[0])] = value
    return parts


class Pretrained:
    """MODEL, to be trained further.

    Attributes:
        model: Towers and projections.
        scale: The multiplier of the cosines in its loss.
        head: The network behind its towers, None where it was trained without.

    Raises:
        ValueError: for another library's model, whose token features cannot be had, or graphs of ONNX.
    """

    def __init__(self, name: str) -> None:
        encoder = load(name)
        if not isinstance(encoder.model, ImageTextModel):
            raise ValueError(f"model.pretrained: {name} gives no token features; a run, checkpoint or export of ours")
        self.name, self.model = name, encoder.model
        self.scale = min(max(encoder.scale or 1 / 0.07, 1.0), 100.0)
        for tower in (self.model.image, self.model.text):
            if tower is not None:
                tower.frozen = False
        if self.model.bank.settings:
            self.model.merge_adapters()
        self.model.requires_grad_(True).train()
        self.head = None if encoder.head is None else encoder.head.requires_grad_(True).train()
        self._languages, self._tokenizer, self._images = encoder.languages, encoder.tokenizer, encoder.images

    def fill(self, model: ImageTextModel) -> None:
        """Copies the weights into a model whose towers may be other objects.

        Raises:
            ValueError: naming the first parameter that does not fit.
        """
        ours, theirs = model.state_dict(), self.model.state_dict()
        if name := first_difference(ours, theirs):
            raise ValueError(
                f"model.pretrained: {self.name} does not fit the towers: {name} is {shape_of(name, theirs)}, expected"
                f" {shape_of(name, ours)}; leave the towers out"
            )
        model.load_state_dict(theirs)

    def fill_head(self, head: RelationHead) -> None:
        """Copies the fusion encoder's weights and those of the layer for matching; says so where they do not fit."""
        if self.head is None:
            return
        ours, theirs = head.fusion, self.head.fusion
        if type(ours) is not type(theirs) or _shapes(ours.state_dict()) != _shapes(theirs.state_dict()):
            rank_zero_info(
                f"model.pretrained: the fusion of {self.name} is {_short(theirs)}, which is no start for"
                f" {_short(ours)}; leave model.fusion out to take it"
            )
            return
        ours.load_state_dict(theirs.state_dict())
        matching = self.head.matching if isinstance(self.head, RelationHead) else self.head.out
        if head.matching is None or matching is None:
            return
        if _shapes(matching.state_dict()) == _shapes(head.matching.state_dict()):
            head.matching.load_state_dict(matching.state_dict())
        else:
            rank_zero_info(f"model.pretrained: matching starts anew: that of {self.name} stands on the cosine")

    def check_data(self, data: TrainingData) -> None:
        """Refuses data that the towers would misread.

        Raises:
            ValueError: for another tokenizer, another size of picture, or other languages where each has a network.
        """
        if not alike(data.tokenizer, self._tokenizer):
            raise ValueError(
                f"data.tokenizer: {_short(data.tokenizer)}, but {self.name} was trained with {_short(self._tokenizer)};"
                " take the same"
            )
        if self._images is not None and data.images.shape != self._images.shape:
            raise ValueError(
                f"data.images.size: {data.images.size}, but {self.name} was trained with {self._images.size}: pictures"
                f" {list(self._images.shape)}, not {list(data.images.shape)}"
            )
        if self.model.reads_by_language and list(data.languages) != list(self._languages):
            raise ValueError(
                f"data.languages: {data.languages}, but {self.name} has one network each for {self._languages}"
            )


def _shapes(state: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in state.items()}


def _short(thing: Any) -> str:
    arguments = spec_of(thing)["init_args"].items()
    return f"{type(thing).__name__}({', '.join(f'{name}={value}' for name, value in arguments if value is not None)})"


def _by_our_names(network: nn.Module, tower: nn.Module | None) -> dict[str, Tensor]:
    if not isinstance(network, ForeignModel):
        return network.state_dict()
    renamed = {}
    state = network.model.state_dict()
    if "visual.class_embedding" in state and isinstance(tower, TimmTower) and tower.prefix_tokens is not None:
        state |= _by_timms_names(state, tower)
    if isinstance(tower, TimmTower) and tower.reads_patches:
        state |= {f"visual.trunk.{key}": value for key, value in by_timms_names(state).items()}
    for key, value in state.items():
        theirs = next((prefix for prefix in OPEN_CLIP if key.startswith(prefix)), None)
        renamed[OPEN_CLIP[theirs] + key.removeprefix(theirs) if theirs else f"{key} (theirs)"] = value
    # what they make of pixels from 0 to 255 is gain * pixels + shift, what we do is (pixels / 255 - mean) / deviation
    mean, deviation = -network.shift / network.gain / 255, 1 / network.gain / 255
    return renamed | dict(zip(NORMALISATION, (mean[None], deviation[None]), strict=True))


def _by_timms_names(state: dict[str, Tensor], tower: TimmTower) -> dict[str, Tensor]:
    """The weights of open_clip's own vision transformer, under the names that they have where it holds one of timm."""
    from timm.models.vision_transformer import checkpoint_filter_fn

    own = checkpoint_filter_fn({**state}, tower.network)
    projection = own.pop("head.weight", None)
    named = {f"visual.trunk.{key}": value for key, value in own.items() if not key.startswith("head.")}
    return named | ({} if projection is None else {"visual.head.proj.weight": projection})


def _resize(value: Tensor, target: Tensor, tower: nn.Module | None) -> Tensor:
    """A square grid of position embeddings at another size, bicubic; class and register tokens stay in front."""
    from timm.layers import resample_abs_pos_embed

    network = getattr(tower, "network", None)
    prefix = getattr(network, "num_prefix_tokens", 0) if not getattr(network, "no_embed_class", False) else 0
    side = round((target.shape[1] - prefix) ** 0.5)
    return resample_abs_pos_embed(value, [side, side], num_prefix_tokens=prefix)
