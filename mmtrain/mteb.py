"""A model as an encoder of mteb, which measures embeddings on published tasks.

    import mteb
    import mmtrain.mteb
    model = mmtrain.mteb.model("runs/quickstart")
    results = mteb.evaluate(model, mteb.get_tasks(["XM3600T2IRetrieval"]))

`pip install mteb` first: nothing else here needs it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mmtrain.models.encoder import Encoder
from mmtrain.models.fingerprint import fingerprint
from mmtrain.models.foreign import is_foreign
from mmtrain.models.language_codes import fitting_language
from mmtrain.models.leaderboard import META, base_models, model_meta, read_meta
from mmtrain.models.loading import load

if TYPE_CHECKING:
    from mteb import TaskMetadata
    from mteb.models import ModelMeta
    from mteb.types import Array, BatchedInput, PromptType
    from torch.utils.data import DataLoader

ROLES = {"query": "query", "document": "passage"}  # PromptType's names, and ours


def model(
    model: str | Path,
    revision: str | None = None,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    dim: int | None = None,
    trust: Sequence[str] | None = None,
    **meta: Any,
) -> "MtebEncoder":
    """MODEL for `mteb.evaluate`, with its ModelMeta.

    Args:
        model: MODEL, as for `mmtrain.load`.
        revision: The commit of a hub's repository; default: a fingerprint of the weights, so that mteb, which keeps
            results by name and revision, never takes those of other weights for this model's.
        device, dtype, trust: As for `mmtrain.load`.
        dim: Keep the first so many dimensions and normalise again; mteb keeps such results apart.
        meta: Fields of mteb's ModelMeta that only you know: name ("OWNER/NAME"), license, training_datasets, ... They
            come before those in an export's model_meta.json.

    Raises:
        ValueError: one line, where mteb is missing, for a model that cannot be loaded or was trained for asymmetric
            similarity, a dim beyond its width, or fields that mteb refuses.
    """
    try:
        from mteb.models import ModelMeta
    except ImportError as error:
        raise ValueError(f"mmtrain.mteb needs {error.name or 'mteb'}: pip install mteb") from error
    from pydantic import ValidationError

    encoder = load(model, device=device, dtype=dtype, trust=trust)
    if encoder.metric != "cosine":
        raise ValueError(
            f"mmtrain.mteb: {model} was trained for {encoder.metric} similarity, which must know the side of the"
            " pictures; mteb does not tell it"
        )
    width = encoder.model.dimension
    if dim is not None and not 1 <= dim <= width:
        raise ValueError(f"dim: got {dim}, the rows of {model} have {width}; 1 to {width}")
    fields = {"name": _name(str(model))} | _fields(encoder, Path(model)) | meta
    if dim is not None:
        fields |= {"embed_dim": dim, "experiment_kwargs": {"embed_dim": dim}}
    if revision is not None:
        fields["revision"] = revision
    try:
        return MtebEncoder(encoder, ModelMeta(**fields | {"loader": None}), dim)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"mmtrain.mteb: {where} is {first['input']!r}: {first['msg']}") from error


def _fields(encoder: Encoder, folder: Path) -> dict[str, Any]:
    """What is known about the model, without what nobody has said: that of its export, or of the model itself."""
    if (folder / META).is_file():
        fields = read_meta(folder)
    else:
        fields = model_meta(encoder, fingerprint(encoder), base_models(encoder.source))
    return {name: value for name, value in fields.items() if name != "name" or value}


def _name(model: str) -> str:
    """OWNER/NAME of a hub's model, local/FOLDER of others."""
    if is_foreign(model) and (base := base_models(model)) and "/" in base[0]:
        return base[0]
    return f"local/{Path(model.split(':', 1)[1] if is_foreign(model) else model).resolve().name}"


class MtebEncoder:
    """An encoder behind mteb's EncoderProtocol.

    Args:
        encoder: The model, of cosine similarity.
        meta: What mteb's results are kept under.
        dim: Keep the first so many dimensions and normalise again.
    """

    def __init__(self, encoder: Encoder, meta: "ModelMeta", dim: int | None = None) -> None:
        self.encoder, self.mteb_model_meta, self.dim = encoder, meta, dim

    def encode(
        self,
        inputs: "DataLoader[BatchedInput]",
        *,
        task_metadata: "TaskMetadata",
        hf_split: str,
        hf_subset: str,
        prompt_type: "PromptType | None" = None,
        **options: Any,
    ) -> np.ndarray:
        """The items of `inputs` as float32 [N, D], unit rows: texts, pictures, or both, which are added.

        Texts get the model's prompt of their role, and the language of the subset where it has one.

        Raises:
            ValueError: for items that are neither texts nor pictures, or an option `precision`, which would keep the
                results of full rows as those of shorter ones.
        """
        from rich.progress import track

        if options.get("precision") not in (None, "float32"):
            raise ValueError(
                f"precision: got {options['precision']!r}, the rows are float32; mteb's CompressionWrapper"
            )
        language = self._language(task_metadata, hf_subset)
        role = None if prompt_type is None else ROLES[prompt_type.value]
        shown = bool(options.get("show_progress_bar", True))
        batches = track(inputs, description="encoding", transient=True, disable=not shown)
        rows = np.concatenate([self._rows(batch, language, role) for batch in batches])
        if self.dim is None:
            return rows
        rows = rows[:, : self.dim]
        return rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-12)

    def similarity(self, embeddings1: "Array", embeddings2: "Array") -> "Array":
        """The cosines [N, M] of rows [N, D] and [M, D]."""
        from mteb.similarity_functions import cos_sim

        return cos_sim(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: "Array", embeddings2: "Array") -> "Array":
        """The cosines [N] of rows [N, D] and [N, D], each with its own."""
        from mteb.similarity_functions import pairwise_cos_sim

        return pairwise_cos_sim(embeddings1, embeddings2)

    def _language(self, task: "TaskMetadata", subset: str) -> str | None:
        """The language of a subset among ours; None where it has several, or one that the model was not trained on."""
        if subset in self.encoder.languages:
            return subset
        codes = set(task.hf_subsets_to_langscripts.get(subset, ()))
        return fitting_language(codes.pop(), self.encoder.languages) if len(codes) == 1 else None

    def _rows(self, batch: Mapping[str, Any], language: str | None, role: str | None) -> np.ndarray:
        texts, images = batch.get("text"), batch.get("image")
        if texts is None and images is None:
            raise ValueError(f"mmtrain.mteb: got {', '.join(batch) or 'nothing'}, expected text or image")
        if texts is None:
            return self.encoder.encode_image(images or [])
        if images is None:
            return self.encoder.encode_text(list(texts), language, role=role)
        return self.encoder.encode_queries(
            [
                {
                    "text": text if text or image is None else None,  # a picture beside no text
                    "images": () if image is None else [image],
                    "language": language,
                    "role": role,
                }
                for text, image in zip(texts, images, strict=True)
            ]
        )
