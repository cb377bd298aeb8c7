import json
import unicodedata

import numpy as np
import onnxruntime
from PIL import Image
from probes import FOLDER, captions, parts, pictures, save, square

settings = json.loads((FOLDER / "preprocessing.json").read_text(encoding="utf-8"))
graphs = {side: onnxruntime.InferenceSession(FOLDER / f"{side}.onnx") for side in ("image", "text")}
arguments = settings["images"]["init_args"]
method = Image.Resampling[arguments["interpolation"].upper()]


def tokenized(texts: list[str]) -> dict[str, np.ndarray]:
    """Bytes, as preprocessing.json says; of a transformers tokenizer, by its file."""
    if (file := FOLDER / "tokenizer" / "tokenizer.json").is_file():
        from tokenizers import Tokenizer

        tokenizer, ids = Tokenizer.from_file(str(file)), settings["tokenizer"]["init_args"]
        tokenizer.enable_truncation(ids["max_length"])
        rows = [encoded.ids for encoded in tokenizer.encode_batch(texts)]
    else:
        room = settings["tokenizer"]["init_args"]["max_length"] - 2
        cut = [unicodedata.normalize("NFC", text.strip()).encode()[:room].decode(errors="ignore") for text in texts]
        rows = [[1, *(byte + 3 for byte in text.encode()), 2] for text in cut]
    mask = np.arange(max(map(len, rows))) < np.array([len(row) for row in rows])[:, None]
    tokens = np.zeros(mask.shape, np.int64)
    tokens[mask] = np.concatenate([np.array(row, np.int64) for row in rows])
    return {"tokens": tokens, "mask": mask}


image = []
for part in parts(pictures):
    pixels = np.stack([square(picture, arguments["size"], method) for picture in part])
    image.append(graphs["image"].run(None, {"pixels": pixels})[0])
text = [graphs["text"].run(None, tokenized(part))[0] for part in parts(captions)]
save(np.concatenate(image), np.concatenate(text))
