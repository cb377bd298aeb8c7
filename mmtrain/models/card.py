"""The README of an exported model, which hubs show as its model card."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from datamodules import ByteTokenizer, RenderedText, TransformersTokenizer
from mmtrain.models.encoder import Encoder
from mmtrain.models.leaderboard import base_models
from mmtrain.models.run_folder import folder_of

USE = {
    "safetensors": """    import mmtrain
    model = mmtrain.load("FOLDER")
    texts = model.encode_text(["..."], language="{language}")
    scores = model.similarity(model.encode_image([picture]), texts)""",
    "peft": """    import mmtrain
    model = mmtrain.load("BASE", adapter="FOLDER")  # the model that it was trained beside
    # or peft.PeftModel.from_pretrained(mmtrain.load("BASE").model, "FOLDER")""",
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
    "sentence_transformers": """    from sentence_transformers import SentenceTransformer
    model = SentenceTransformer("FOLDER")
    texts = model.encode_query(["..."])  # encode_document for texts that are found
    pictures = model.encode([picture.convert("RGB")])
    scores = model.similarity(texts, pictures)

Rows are of unit length. Pictures are PIL images, turned upright before (PIL.ImageOps.exif_transpose) and RGB.""",
    "multi_vector": """    from sentence_transformers import MultiVectorEncoder
    model = MultiVectorEncoder("FOLDER")
    texts = model.encode_query(["..."])  # of each text a row a token
    pictures = model.encode([picture.convert("RGB")])
    scores = model.similarity(texts, pictures)

Pictures are PIL images, turned upright before (PIL.ImageOps.exif_transpose) and RGB. The rows of the whole text or
picture are not in this folder.""",
    "transformers_js": """    const tokenizer = await AutoTokenizer.from_pretrained("FOLDER");
    const processor = await AutoImageProcessor.from_pretrained("FOLDER");
    // dtype: fp32 is exact; fp16, q8
    const text = await CLIPTextModelWithProjection.from_pretrained("FOLDER", { dtype: "fp32" });
    const vision = await CLIPVisionModelWithProjection.from_pretrained("FOLDER", { dtype: "fp32" });
    const { text_embeds } = await text(tokenizer(["..."], { padding: {padding}, truncation: true }));
    const { image_embeds } = await vision(await processor(await RawImage.read("picture.jpg")));

Rows are of unit length. pixel_values are bytes / 255: the graph normalises them. transformers.js resizes pictures in
another way than Pillow, with which the model was trained; give it pictures of the right size for the exact rows.""",
}
LIBRARY = {
    "safetensors": "mmtrain",
    "sentence_transformers": "sentence-transformers",
    "multi_vector": "sentence-transformers",
    "transformers_js": "transformers.js",
}  # others are called by their format's name


DIRECTIONS = ("text_to_image", "image_to_text")


def model_card(encoder: Encoder, model: str, format: str) -> str:
    """A YAML header, what the model is, how to use it, and the figures of the run's report where there is one."""
    metrics = _metrics(Path(model))
    codes = dict.fromkeys(re.split("[-_]", language)[0].lower() for language in encoder.languages)
    languages = [code for code in codes if re.fullmatch("[a-z]{2,3}", code)]  # hubs take no other
    header = ModelCardData(
        base_model=base_models(model) or None,
        library_name=LIBRARY.get(format, format),
        pipeline_tag="feature-extraction" if encoder.images is None else "zero-shot-image-classification",
        language=languages or ["multilingual"],
        language_bcp47=encoder.languages if encoder.languages != languages else None,
        tags=["image-text-retrieval", "multilingual"],
        model_name=Path(model).resolve().name if metrics else None,
        eval_results=list(_results(metrics)) if metrics else None,
    )
    parameters = sum(parameter.numel() for parameter in encoder.model.parameters())
    image, text = (type(getattr(encoder.model, side)).__name__ for side in ("image", "text"))
    padding = '"max_length"' if getattr(encoder.tokenizer, "attend_padding", False) else "true"
    use = USE[format].replace("{language}", (encoder.languages or ["en"])[0]).replace("{padding}", padding)
    if encoder.decoder is not None:
        use += f'\n    captions = model.caption([picture], language="{encoder.decoder.languages[0]}")'
    if format == "onnx":
        use += "\n" + "".join(f"\n- {name}: {what}" for name, what in in_words(encoder).items())
    return f"""---
{header.to_yaml(original_order=["library_name", "pipeline_tag", "language", "tags", "base_model"])}
---
# An image-text space{f" in {len(encoder.languages)} languages" if encoder.languages else ""}

{image} and {text}, {parameters:,} parameters, rows of {encoder.model.dimension} numbers,
{encoder.metric} similarity.{_temperature(encoder)}

FOLDER is where these files lie.

{use}
{_prompts(encoder)}{_figures(metrics)}"""


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
    elif isinstance(tokenizer, RenderedText):
        captions = (
            f"rows of grey pixels as datamodules.RenderedText draws them, in {tokenizer.font} of {tokenizer.font_size}"
            f" pixels on pages of {tokenizer.size}; ink is 0 on 127; {padded}"
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


def _metrics(model: Path) -> dict[str, Any]:
    """What `mmtrain evaluate` wrote into a run folder, report/metrics.json; {} where there is none of retrieval."""
    path = (folder_of(model) or model) / "report" / "metrics.json"
    metrics = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return metrics if DIRECTIONS[0] in metrics else {}


def _measured_on(protocol: Mapping[str, Any]) -> str:
    """A published test set, where all of it was there, else the last part of SHARDS, whose folder is this machine's."""
    if protocol.get("complete"):
        return f"{protocol['name']}/{protocol['variant']}"
    return str(protocol.get("data", "unnamed shards")).rstrip("/").rpartition("/")[2]


def _shown(protocol: Mapping[str, Any]) -> list[int]:
    """The smallest and the largest k at which recall was measured."""
    return sorted({min(protocol["recall_at"]), max(protocol["recall_at"])})


def _results(metrics: Mapping[str, Any]) -> Iterator[EvalResult]:
    """Recall in percent as the entries of a card's model-index, a task a direction, a configuration a language."""
    data = _measured_on(metrics["protocol"])
    for direction in DIRECTIONS:
        for language, figures in metrics[direction].items():
            for k in _shown(metrics["protocol"]):
                yield EvalResult(
                    task_type=f"{direction.replace('_', '-')}-retrieval",
                    dataset_type=re.sub(r"[^\w.-]+", "-", data),
                    dataset_name=f"{data}, mean of the languages" if language == "mean" else f"{data}, {language}",
                    dataset_config=language,
                    metric_type=f"recall_at_{k}",
                    metric_name=f"R@{k} in percent",
                    metric_value=round(figures[f"R@{k}"], 2),
                )


def _figures(metrics: Mapping[str, Any]) -> str:
    """Recall by language, and by width and precision where that was measured."""
    if not metrics:
        return "\nNot evaluated yet.\n"
    protocol = metrics["protocol"]
    names = [(direction, f"R@{k}") for direction in DIRECTIONS for k in _shown(protocol)]
    head = [f"{direction.replace('_', ' ')} {name}" for direction, name in names]
    by_language = [
        [language, *(f"{metrics[direction][language][name]:.1f}" for direction, name in names)]
        for language in metrics[DIRECTIONS[0]]
    ]
    text = f"""
## Retrieval

{protocol["images"]:,} images, {protocol["texts"]:,} captions ({protocol["captions"]} of an image and language), recall
in percent; measured on {_measured_on(protocol)}.

{_table(["language", *head], by_language)}"""
    if "shorter" not in metrics:
        return text
    shorter = [
        [f"{each['width']}", each["precision"], f"{each['bytes']:,}"]
        + [f"{each[direction]['mean'][name]:.1f}" for direction, name in names]
        for each in metrics["shorter"]
    ]
    return f"""{text}
## Shorter rows

The first dimensions, normalised again, in fewer bits each; recall in percent, mean of the languages.

{_table(["width", "precision", "bytes a row", *head], shorter)}"""


def _table(head: list[str], rows: list[list[str]]) -> str:
    return "".join(f"| {' | '.join(cells)} |\n" for cells in [head, ["---"] * len(head), *rows])
