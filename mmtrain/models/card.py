"""The README of an exported model, which hubs show as its model card."""

import json
from pathlib import Path

from datamodules import ByteTokenizer, TransformersTokenizer
from mmtrain.models.encoder import Encoder
from mmtrain.models.yaml12 import yaml_text

USE = {
    "safetensors": """    import mmtrain
    model = mmtrain.load("FOLDER")
    texts = model.encode_text(["..."], language="{language}")
    scores = model.similarity(model.encode_image([picture]), texts)""",
    "onnx": """    import onnxruntime
    image = onnxruntime.InferenceSession("FOLDER/image.onnx")
    text = onnxruntime.InferenceSession("FOLDER/text.onnx")

What goes in and comes out is in preprocessing.json, "inputs".""",
    "open_clip": """    import open_clip
    model, _, preprocess = open_clip.create_model_and_transforms("local-dir:FOLDER")
    tokenizer = open_clip.get_tokenizer("local-dir:FOLDER")
    # then model.encode_image and model.encode_text with normalize=True""",
    "transformers": """    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer
    model, tokenizer = AutoModel.from_pretrained("FOLDER"), AutoTokenizer.from_pretrained("FOLDER")
    pictures = AutoImageProcessor.from_pretrained("FOLDER")
    # then model.get_image_features and model.get_text_features, whose rows are not normalised yet""",
}
LIBRARY = {"safetensors": "mmtrain", "onnx": "onnx", "open_clip": "open_clip", "transformers": "transformers"}


def model_card(encoder: Encoder, model: str, format: str) -> str:
    """A YAML header, what the model is, how to use it, and the figures of the run's report where there is one."""
    header: dict[str, str | list[str]] = {
        "library_name": LIBRARY[format],
        "pipeline_tag": "feature-extraction" if encoder.images is None else "zero-shot-image-classification",
        "language": encoder.languages or ["multilingual"],
        "tags": ["image-text-retrieval", "multilingual"],
    }
    parameters = sum(parameter.numel() for parameter in encoder.model.parameters())
    image, text = (type(getattr(encoder.model, side)).__name__ for side in ("image", "text"))
    use = USE[format].replace("{language}", (encoder.languages or ["en"])[0])
    if encoder.decoder is not None:
        use += f'\n    captions = model.caption([picture], language="{encoder.decoder.languages[0]}")'
    if format == "onnx":
        use += "\n" + "".join(f"\n- {name}: {what}" for name, what in in_words(encoder).items())
    return f"""---
{yaml_text(header)}---
# An image-text space{f" in {len(encoder.languages)} languages" if encoder.languages else ""}

{image} and {text}, {parameters:,} parameters, rows of {encoder.model.dimension} numbers,
{encoder.metric} similarity.{_temperature(encoder)}

FOLDER is where these files lie.

{use}
{_prompts(encoder)}{_figures(Path(model))}"""


def in_words(encoder: Encoder) -> dict[str, str]:
    """How a program without mmtrain makes the graphs' inputs."""
    images, tokenizer = encoder.images, encoder.tokenizer
    pictures = "features float32 [N, F], one vector a picture, as the training shards held them"
    if images is not None:
        side, by = images.size, images.interpolation
        scaled = f"both sides to {side} pixels" if images.resize == "squash" else f"the shorter side to {side} pixels"
        cut = "" if images.resize == "squash" else ", the central square cut out"
        pictures = (
            f"turned as EXIF says, transparency laid on white, RGB, {scaled} ({by}){cut}; bytes from 0 to 255,"
            " which the graph normalises"
        )
    padded = "rows are padded on the right, where mask is false"
    captions = f"ids by {type(tokenizer).__name__} of Python, which the packages that trained the model hold; {padded}"
    if isinstance(tokenizer, ByteTokenizer):
        captions = (
            f"blanks at both ends removed, Unicode NFC, UTF-8; ids are 1, each byte + 3, then 2, at most"
            f" {tokenizer.max_length}, cut between characters; {padded} and ids are 0"
        )
    elif isinstance(tokenizer, TransformersTokenizer):
        lower = "lower-cased, then " if tokenizer.lowercase else ""
        length = f"always {tokenizer.max_length}" if tokenizer.padding == "max_length" else "that of the longest"
        masked = "mask is true everywhere" if tokenizer.attend_padding else padded
        captions = (
            f"{lower}by the tokenizer in FOLDER/tokenizer (transformers' AutoTokenizer), cut to {tokenizer.max_length}"
            f" ids, the rows' length {length}; {masked}"
        )
    return {"pictures": pictures, "captions": captions}


def _temperature(encoder: Encoder) -> str:
    if encoder.scale is None:
        return ""
    scaled = f" Its loss multiplied similarities by {encoder.scale:.6g}"
    if encoder.bias is None:
        return scaled + "."
    return f"{scaled} and added {encoder.bias:.6g}; the sigmoid of that is the probability that two belong together."


def _prompts(encoder: Encoder) -> str:
    said = {"query": "texts that search", "passage": "texts that are found"}
    each = [f"- {said[role]}: {json.dumps(text, ensure_ascii=False)}" for role, text in encoder.model.prompts.items()]
    return "\nIt was trained with prompts before its texts:\n\n" + "\n".join(each) + "\n" if each else ""


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
    data = str(protocol.get("data", "unnamed shards")).rstrip("/").rpartition("/")[2]  # a place of this machine
    return f"""
## Retrieval

{protocol["images"]:,} images, {protocol["texts"]:,} captions ({protocol["captions"]} of an image and language), recall
in percent; measured on {data}.

| language | text to image R@1 | R@10 | image to text R@1 | R@10 |
|---|---|---|---|---|
{table}
"""
