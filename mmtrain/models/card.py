"""The README of an exported model, which hubs show as its model card."""

import json
from pathlib import Path

from mmtrain.models.encoder import Encoder
from mmtrain.models.yaml12 import yaml_text

USE = {
    "safetensors": """    import mmtrain
    model = mmtrain.load("FOLDER")
    scores = model.encode_text(["..."], language="{language}") @ model.encode_image([picture]).T""",
    "onnx": """    import onnxruntime
    image = onnxruntime.InferenceSession("FOLDER/image.onnx")     # pixels uint8 [N, 3, S, S] -> embeddings [N, D]
    text = onnxruntime.InferenceSession("FOLDER/text.onnx")       # tokens int64 [N, L], mask bool [N, L] -> [N, D]

How pictures become pixels and captions tokens is in preprocessing.json.""",
    "open_clip": """    import open_clip
    model, _, preprocess = open_clip.create_model_and_transforms("local-dir:FOLDER")
    tokenizer = open_clip.get_tokenizer("local-dir:FOLDER")""",
    "transformers": """    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer
    model, tokenizer = AutoModel.from_pretrained("FOLDER"), AutoTokenizer.from_pretrained("FOLDER")
    pictures = AutoImageProcessor.from_pretrained("FOLDER")
    # then model.get_image_features and model.get_text_features""",
}
LIBRARY = {"safetensors": "mmtrain", "onnx": "onnx", "open_clip": "open_clip", "transformers": "transformers"}


def model_card(encoder: Encoder, model: str, format: str) -> str:
    """A YAML header, what the model is, how to use it, and the figures of the run's report where there is one."""
    header: dict[str, str | list[str]] = {
        "library_name": LIBRARY[format],
        "pipeline_tag": "zero-shot-image-classification",
    }
    header |= {"language": encoder.languages or ["multilingual"], "tags": ["image-text-retrieval", "multilingual"]}
    parameters = sum(parameter.numel() for parameter in encoder.model.parameters())
    image, text = (type(getattr(encoder.model, side)).__name__ for side in ("image", "text"))
    use = USE[format].replace("{language}", (encoder.languages or ["en"])[0])
    return f"""---
{yaml_text(header)}---
# An image-text space in {len(encoder.languages)} languages

{image} and {text}, {parameters:,} parameters, rows of {encoder.model.dimension} numbers,
{encoder.metric} similarity.

{use}
{_figures(Path(model))}"""


def _figures(run: Path) -> str:
    """The table of DIR/report/metrics.json, which `mmtrain evaluate` writes into a run folder."""
    path = run / "report" / "metrics.json"
    if not path.is_file():
        return "\nNot evaluated yet.\n"
    metrics = json.loads(path.read_text(encoding="utf-8"))
    protocol = metrics["protocol"]
    rows = [
        f"| {language} | {figures['R@1']:.1f} | {figures['R@10']:.1f} |"
        f" {metrics['image_to_text'][language]['R@1']:.1f} | {metrics['image_to_text'][language]['R@10']:.1f} |"
        for language, figures in metrics["text_to_image"].items()
    ]
    table = "\n".join(rows)
    return f"""
## Retrieval

{protocol["images"]:,} images, {protocol["texts"]:,} captions ({protocol["captions"]} of an image and language), recall
in percent; measured on {protocol.get("data", "unnamed shards")}.

| language | text to image R@1 | R@10 | image to text R@1 | R@10 |
|---|---|---|---|---|
{table}
"""
