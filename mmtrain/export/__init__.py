"""`mmtrain export`: a model for other programs, without any pickle in it."""

from typing import Literal

# peft is the folder of one adapter alone; each of the others is a module here with a WRITER, imported on use, since it
# needs its library
Format = Literal[
    "safetensors",
    "onnx",
    "open_clip",
    "transformers",
    "sentence_transformers",
    "transformers_js",
    "multi_vector",
    "peft",
]
