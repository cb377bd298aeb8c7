"""What hubs and leaderboards ask about a model: what it was trained from, and the fields of mteb's ModelMeta."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from mmtrain.models.encoder import Encoder
from mmtrain.models.foreign import is_foreign
from mmtrain.models.language_codes import iso_languages
from mmtrain.models.run_folder import checkpoint_of
from mmtrain.models.yaml12 import read_yaml

META = "model_meta.json"  # beside an export's files; mteb has a file of this name beside its results


HUB_NAME = re.compile(r"(?:hf:|open_clip:hf[-_]hub:)?([\w-][\w.-]*/[\w-][\w.-]*|[\w-]+)(?:@\w+)?")


def base_models(model: str) -> list[str]:
    """The hub names of the pretrained weights that MODEL was trained from, as far as its run's config.yaml tells."""
    if is_foreign(model):
        return list(_hub_names("", model))
    path = Path(model)
    if (path / META).is_file():
        base = read_meta(path).get("adapted_from")
        return [base] if base else []
    checkpoint = checkpoint_of(path)
    config = checkpoint and checkpoint.resolve().parents[1] / "config.yaml"
    if not config or not config.is_file():
        return []
    trained = (read_yaml(config.read_text(encoding="utf-8")) or {}).get("model")
    return list(dict.fromkeys(_pretrained(trained)))


def _pretrained(settings: Any, class_path: str = "") -> Iterator[str]:
    """Each `pretrained` in a config, at any depth, that is a hub's."""
    if isinstance(settings, dict):
        class_path = str(settings.get("class_path", class_path))
        for name, value in settings.items():
            if name == "pretrained" and isinstance(value, str):
                yield from _hub_names(class_path, value)
            else:
                yield from _pretrained(value, class_path)
    elif isinstance(settings, list):
        for value in settings:
            yield from _pretrained(value, class_path)


def _hub_names(class_path: str, pretrained: str) -> Iterator[str]:
    found = HUB_NAME.fullmatch(pretrained)
    if Path(pretrained.split(":")[-1]).expanduser().exists():
        return
    if class_path.endswith("TimmTower") and "/" not in pretrained:
        yield f"timm/{pretrained}"  # a tag of timm
    elif found and (class_path.endswith("Tower") or is_foreign(pretrained)):  # else a MODEL of this machine
        yield found[1]


def read_meta(folder: Path) -> dict[str, Any]:
    """The fields that an export's owner may have filled in. Raises ValueError when they are no JSON object."""
    try:
        fields = json.loads((folder / META).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{folder / META}: no JSON ({error})") from error
    if not isinstance(fields, dict):
        raise ValueError(f"{folder / META}: no JSON object")
    return fields


def model_meta(encoder: Encoder, revision: str, bases: Sequence[str], format: str = "") -> dict[str, Any]:
    """The fields of `mteb.models.ModelMeta` as JSON has them; null is what only the model's owner can say.

    Languages that have no ISO code are left out. `mteb.models.ModelMeta.model_validate_json_resolved` reads it.

    Args:
        encoder: The model.
        revision: Tells its weights from others, such as `mmtrain.models.fingerprint`.
        bases: Hub names of what its training started from; there is room for the first.
        format: Of the export that the fields are written into.
    """
    parameters = sum(parameter.numel() for parameter in encoder.model.parameters())
    text = getattr(encoder.model, "text", nn.Module())
    embeddings = [module.weight.numel() for module in text.modules() if isinstance(module, nn.Embedding)]
    frameworks = {"onnx": ["ONNX"], "transformers_js": ["ONNX"], "transformers": ["Transformers", "PyTorch"]}
    frameworks["sentence_transformers"] = ["Sentence Transformers", "PyTorch"]
    return {
        # the one format of which mteb has a loader
        "loader": "SentenceTransformerEncoderWrapper" if format == "sentence_transformers" else None,
        "name": None,
        "revision": revision,
        "release_date": None,
        "languages": [codes[0] for codes in map(iso_languages, encoder.languages) if codes] or None,
        "n_parameters": parameters or None,
        "n_embedding_parameters": max(embeddings, default=None),
        "memory_usage_mb": round(parameters * 4 / 2**20, 2) or None,
        "max_tokens": getattr(encoder.tokenizer, "max_length", None),
        "embed_dim": encoder.model.dimension,
        "license": None,
        "open_weights": None,
        "public_training_code": None,
        "public_training_data": None,
        "framework": frameworks.get(format, ["PyTorch"]),
        "reference": None,
        "similarity_fn_name": "cosine" if encoder.metric == "cosine" else None,
        "use_instructions": bool(encoder.model.prompts),
        "training_datasets": None,
        "adapted_from": bases[0] if bases else None,
        "modalities": ["text"] if encoder.images is None else ["image", "text"],
    }
