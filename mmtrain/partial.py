"""Beginning with what fits of another model: by name and shape, position embeddings resized, the rest said."""

from torch import Tensor, nn

from mmtrain.foreign import ForeignModel
from mmtrain.loading import load
from mmtrain.model import ImageTextModel

SHOWN = 6
# open_clip's names of timm and transformers towers, and ours (`mmtrain export --format open_clip` writes them)
OPEN_CLIP = {
    "visual.trunk.": "image.network.",
    "visual.head.proj.": "image_projection.",
    "text.transformer.": "text.network.",
    "text.proj.": "text_projection.",
}


def load_partially(model: ImageTextModel, name: str) -> str:
    """Copies what fits of MODEL into `model`; returns in one line what was loaded, resized, missing and left out.

    Args:
        name: A run, checkpoint or export of ours, or an open_clip model of timm and transformers towers.

    Raises:
        ValueError: when nothing fits.
    """
    encoder = load(name)
    theirs = _renamed(encoder.model)
    ours = model.state_dict()
    fitting: dict[str, Tensor] = {}
    resized: list[str] = []
    for key, value in theirs.items():
        if key not in ours:
            continue
        if value.shape == ours[key].shape:
            fitting[key] = value
        elif key.endswith("pos_embed") and value.ndim == ours[key].ndim == 3:
            fitting[key] = _resized(value, ours[key], model.image.network)
            resized.append(f"{key} {list(value.shape)} to {list(ours[key].shape)}")
    if not any(value.ndim > 1 and key not in ("image.mean", "image.deviation") for key, value in fitting.items()):
        raise ValueError(
            f"model.pretrained: nothing of {name} fits: it has {_listed(list(theirs))}, the model has"
            f" {_listed(list(ours))}"
        )
    model.load_state_dict(fitting, strict=False)
    missing, unused = [key for key in ours if key not in fitting], [key for key in theirs if key not in fitting]
    return (
        f"pretrained: {name}: {len(fitting)} of {len(ours)} tensors loaded; resized: {_listed(resized)}; as they were:"
        f" {_listed(missing)}; left out of it: {_listed(unused)}"
    )


def _renamed(network: nn.Module) -> dict[str, Tensor]:
    if not isinstance(network, ForeignModel):
        return network.state_dict()
    renamed = {}
    for key, value in network.model.state_dict().items():
        theirs = next((prefix for prefix in OPEN_CLIP if key.startswith(prefix)), None)
        renamed[OPEN_CLIP[theirs] + key.removeprefix(theirs) if theirs else key] = value
    return renamed


def _resized(value: Tensor, wanted: Tensor, network: nn.Module) -> Tensor:
    """A square grid of position embeddings at another size, bicubic; class and register tokens stay in front."""
    from timm.layers import resample_abs_pos_embed

    prefix = getattr(network, "num_prefix_tokens", 0) if not getattr(network, "no_embed_class", False) else 0
    side = round((wanted.shape[1] - prefix) ** 0.5)
    return resample_abs_pos_embed(value, [side, side], num_prefix_tokens=prefix)


def _listed(names: list[str]) -> str:
    if not names:
        return "none"
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
