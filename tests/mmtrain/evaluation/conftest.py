"""A small collection with pictures, in scripts that run in different directions."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from mmtrain.evaluation import rank_retrieval

WORDS = {"en": "number <b>", "ar": "عدد", "fa": "شمارهٔ", "he": "מִסְפָּר", "hi": "संख्या", "my": "ကိန်းဂဏန်း", "bo": "གྲངས་ཀ"}


def coloured_square(image: int) -> bytes:
    colour = tuple(int(part) for part in np.random.default_rng(image).integers(0, 256, 3))
    data = io.BytesIO()
    Image.new("RGB", (64, 48), colour).save(data, "PNG")
    return data.getvalue()


@pytest.fixture(scope="session")
def shown():
    """40 images with captions in seven languages, some of them missing, half of the queries wrong."""
    random = np.random.default_rng(0)
    image = random.standard_normal((40, 8))
    kept = [(i, language) for i in range(40) for language in WORDS if random.random() < 0.9]
    image_of_text = np.array([i for i, _ in kept])
    languages = [language for _, language in kept]
    text = image[image_of_text] + 0.8 * random.standard_normal((len(kept), 8))
    return SimpleNamespace(
        image=image,
        text=text,
        captions=[f"{WORDS[language]} {i}" for i, language in kept],
        thumbnail=coloured_square,
        ranks=rank_retrieval(image, text, image_of_text, languages, text_to_text=[("ar", "en")]),
    )
