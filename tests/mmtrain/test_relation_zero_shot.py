"""Relations without training: by similarity, and by prompts."""

import json
from pathlib import Path

import numpy as np
import pytest

from mmtrain.evaluation.measuring.relation_zero_shot import prompt_probabilities, read_prompts, similarity_probabilities


def test_the_most_similar_pairs_of_each_language_get_the_first_class() -> None:
    scores = np.array([0.9, 0.1, 0.5, 0.3, -0.1, -0.9, -0.5, -0.3])
    languages = np.array(["en"] * 4 + ["lv"] * 4)
    assert similarity_probabilities(scores, languages, 2).argmax(1).tolist() == [0, 1, 0, 1, 0, 1, 1, 0]
    assert similarity_probabilities(scores, languages, 4).argmax(1).tolist() == [0, 3, 1, 2, 0, 3, 2, 1]
    assert similarity_probabilities(scores, languages, 2, rising=True).argmax(1).tolist() == [1, 0, 1, 0, 1, 0, 0, 1]


class Letters:
    """An encoder that places a text at its last letter."""

    scale = 10.0

    def encode_text(self, captions: list[str], language: str | None = None, role: str | None = None) -> np.ndarray:
        return np.eye(3, dtype=np.float32)[["abc".index(caption[-1]) for caption in captions]]


def test_prompts_put_the_text_in_its_place() -> None:
    images = np.eye(3, dtype=np.float32)[[0, 1]]
    found = prompt_probabilities(Letters(), images, ["b", "b"], np.array(["en", "lv"]), ["{text}", "{text} is a"])
    assert found.argmax(1).tolist() == [1, 0]
    np.testing.assert_allclose(found[0], [1 / (1 + np.exp(10)), 1 / (1 + np.exp(-10))], rtol=1e-5)


def test_prompts_are_an_object_of_strings(tmp_path: Path) -> None:
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps({"0": "a picture of {text}", "1": "another picture"}), encoding="utf-8")
    assert read_prompts(path)["1"] == "another picture"
    path.write_text("[1]", encoding="utf-8")
    with pytest.raises(ValueError, match="is no object of strings"):
        read_prompts(path)
    with pytest.raises(ValueError, match="cannot be read"):
        read_prompts(tmp_path / "none.json")
