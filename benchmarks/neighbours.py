"""The right caption of a number's picture among its neighbours: the 27 numbers that differ from it in one digit."""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from datamodules.numbers.corpus import words
from datamodules.shards.reader import ShardReader
from datamodules.shards.samples import read_record
from mmtrain import load
from mmtrain.evaluation.measuring.reranking import Matcher, checked_head, reads_tokens
from mmtrain.models.image_text import ImageTextModel


def neighbours(number: int) -> list[int]:
    """27 of 0 to 999, zeros in front counted as digits."""
    digits = f"{number:03d}"
    return [int(digits[:i] + d + digits[i + 1 :]) for i in range(3) for d in "0123456789" if d != digits[i]]


def pictures(folder: Path) -> tuple[list[int], list[Image.Image]]:
    """Numbers and pictures of shards that `mmtrain pack numbers` wrote."""
    numbers, images = [], []
    for path in sorted(folder.glob("*.tar")):
        reader = ShardReader()
        for place in range(len(reader.index(str(path)))):
            files = reader.read(str(path), place)[1]
            numbers.append(int(read_record(files)[0]["id"].split("-")[1]))
            images.append(Image.open(io.BytesIO(files["png"])).convert("RGB"))
        reader.close()
    return numbers, images


@torch.inference_mode()
def right_among_neighbours(run: Path, data: Path, language: str) -> tuple[float, float]:
    """In percent of the pictures: by similarity alone, and by the matching head."""
    numbers, images = pictures(data)
    encoder = load(run)
    model, head = encoder.model, checked_head(encoder)
    assert isinstance(model, ImageTextModel)
    tokens, mask = encoder.tokenizer(list(words(language)), [language] * 1000)
    index = torch.full((1000,), encoder.languages.index(language))
    image_rows, text_rows, of_images, of_texts = model.tokens(encoder.pixels(images), tokens, mask, index)
    if reads_tokens(head):
        texts = [features[: int(length) + 1] for features, length in zip(of_texts, mask.sum(1), strict=True)]
    else:
        of_images, texts = image_rows[:, None], list(text_rows[:, None])
    matcher = Matcher(head, of_images, texts, encoder.device, (image_rows, text_rows))
    choices = np.array([[number, *neighbours(number)] for number in numbers])
    similar = (image_rows[:, None] * text_rows[choices]).sum(2).numpy()
    judged = matcher(np.broadcast_to(np.arange(len(numbers))[:, None], choices.shape), choices)
    by_similarity, by_head = (100 * float((s[:, 0] > s[:, 1:].max(1)).mean()) for s in (similar, judged))
    return by_similarity, by_head
