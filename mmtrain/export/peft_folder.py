"""One adapter alone, as `peft.PeftModel.from_pretrained` reads it."""

import copy
from functools import partial
from pathlib import Path

from mmtrain.export.formats import Writer
from mmtrain.models.adapter_folder import write_folder
from mmtrain.models.encoder import Encoder
from mmtrain.models.image_text import ImageTextModel


def writer(encoder: Encoder) -> Writer:
    """Writes the adapter that the encoder reads with, and reads it again with peft, beside the encoder's base.

    Raises:
        ValueError: where it reads with none.
    """
    model = encoder.model
    name = model.bank.default if isinstance(model, ImageTextModel) else None
    if not isinstance(model, ImageTextModel) or name not in model.bank.settings:
        raise ValueError(f"--format peft: which adapter of {encoder.source}; --adapter NAME")
    return Writer(lambda _, folder: write_folder(model, name, folder), partial(_read, encoder))


def _read(encoder: Encoder, folder: Path) -> Encoder:
    from peft import PeftModel

    base = copy.deepcopy(encoder.model)
    assert isinstance(base, ImageTextModel)
    base.merge_adapters()
    PeftModel.from_pretrained(base, str(folder))  # puts its layers into the base
    similarity, source = encoder.metric, str(folder)
    return Encoder(base, encoder.tokenizer, encoder.images, encoder.languages, similarity, source)
