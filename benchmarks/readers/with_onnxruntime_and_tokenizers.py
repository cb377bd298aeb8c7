import json

import numpy as np
import onnxruntime
from probes import FOLDER, captions, parts, pictures, save, square
from tokenizers import Tokenizer

settings = json.loads((FOLDER / "preprocessor_config.json").read_text(encoding="utf-8"))
graphs = {side: onnxruntime.InferenceSession(FOLDER / "onnx" / f"{side}_model.onnx") for side in ("vision", "text")}
tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))


def tokenized(texts: list[str]) -> dict[str, np.ndarray]:
    rows = tokenizer.encode_batch(texts)
    inputs = {"input_ids": [row.ids for row in rows], "attention_mask": [row.attention_mask for row in rows]}
    return {each.name: np.array(inputs[each.name], np.int64) for each in graphs["text"].get_inputs()}


image, text = [], []
for part in parts(pictures):
    pixels = [square(picture, settings["crop_size"]["width"], settings["resample"]) for picture in part]
    values = np.stack(pixels).astype(np.float32) * np.float32(settings["rescale_factor"])
    image.append(graphs["vision"].run(["image_embeds"], {"pixel_values": values})[0])
for part in parts(captions):
    text.append(graphs["text"].run(["text_embeds"], tokenized(part))[0])
save(np.concatenate(image), np.concatenate(text))
