"""A picture tower of timm and a text tower of transformers: the only pair that other libraries' formats hold."""

from datamodules.images import ImagePipeline
from datamodules.tokenizers.tokenizer import TransformersTokenizer
from mmtrain.models.encoder import Encoder
from mmtrain.models.image_text import ImageTextModel
from mmtrain.towers import TimmTower, TransformersTower

Dual = tuple[ImageTextModel, TimmTower, TransformersTower, ImagePipeline, TransformersTokenizer]


def towers(encoder: Encoder, refused: str) -> tuple[ImageTextModel, TimmTower, TransformersTower, ImagePipeline]:
    """The model, its towers and how its pictures become pixels.

    Raises:
        ValueError: beginning with `refused`, for other towers.
    """
    model, images = encoder.model, encoder.images
    image, text = (getattr(model, side, None) for side in ("image", "text"))
    if not isinstance(image, TimmTower) or not isinstance(text, TransformersTower):
        names = " and ".join(type(tower).__name__ for tower in (image, text))
        raise ValueError(f"{refused}it has timm and transformers towers, not {names}; use safetensors or onnx")
    assert isinstance(model, ImageTextModel) and images is not None
    return model, image, text, images
