"""One tower of transformers for pictures, texts and both: as its library reads them, trained, saved and asked."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor

import mmtrain
from datamodules import ByteTokenizer, ImagePipeline
from mmtrain.export.writing import write
from mmtrain.models.encoder import Encoder
from mmtrain.models.image_text import ImageTextModel
from mmtrain.towers import VisionLanguageTower
from mmtrain.training.parts import rest_unread
from tests.mmtrain.encoders import QWEN

SIZE = 32  # 4 x 4 patches, which become 2 x 2 tokens
PATCH, START, END = 260, 261, 262
CAPTIONS = ["one", "", "a caption that is longer"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole model as its hub has it, with the head that writes, and the processor's settings."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("qwen")
    AutoModelForImageTextToText.from_config(AutoConfig.for_model(**QWEN)).save_pretrained(folder)
    Qwen2VLImageProcessor(patch_size=8, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.25, 0.3]).save_pretrained(folder)
    return folder


def images(count: int) -> Tensor:
    return torch.randint(0, 255, (count, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def encoder(folder: Path, **options: Any) -> Encoder:
    torch.manual_seed(0)
    tower = VisionLanguageTower(str(folder), frozen=True)
    model = ImageTextModel(tower, "shared", 32, projection="none", multi={"dimension": 8}, **options)
    images = ImagePipeline(size=SIZE, resize="squash")
    return Encoder(model, ByteTokenizer(), images, ["en"], "cosine", "a test", scale=10.0)


def theirs(folder: Path, sequence: list[int], pictures: Tensor) -> Tensor:
    """The last hidden states [L, W] that the library gives of one sequence with pictures [k, 3, H, W]."""
    network = AutoModelForImageTextToText.from_pretrained(folder).model.eval()
    processor = Qwen2VLImageProcessor.from_pretrained(folder)
    ids = torch.tensor([sequence])
    seen = {} if not len(pictures) else dict(processor(list(pictures), do_resize=False, return_tensors="pt"))
    with torch.no_grad():
        return network(input_ids=ids, mm_token_type_ids=(ids == PATCH).int(), **seen).last_hidden_state[0]


def test_pictures_texts_and_both_are_read_as_the_library_reads_them(folder: Path) -> None:
    tower, picture = VisionLanguageTower(str(folder)).eval(), [START, PATCH, PATCH, PATCH, PATCH, END]
    tokens, mask = ByteTokenizer()(["one"], ["en"])
    words = tokens[0].tolist()
    with torch.no_grad():
        pooled, patches = tower(images(2))
        expected = [theirs(folder, picture, images(2)[i : i + 1]) for i in range(2)]
        torch.testing.assert_close(pooled, torch.stack([each.mean(0) for each in expected]), rtol=0, atol=2e-6)
        torch.testing.assert_close(patches, torch.stack([each[1:5] for each in expected]), rtol=0, atol=2e-6)
        of_text = theirs(folder, words, images(0))
        torch.testing.assert_close(tower(None, tokens, mask)[1][0], of_text, rtol=0, atol=2e-6)
        both = theirs(folder, [*picture, *picture, *words], images(2)).mean(0)
        torch.testing.assert_close(tower(images(2)[None], tokens, mask)[0][0], both, rtol=0, atol=2e-6)


def test_rows_depend_on_no_batch_mate_no_padding_and_no_token_of_a_picture_in_a_text(folder: Path) -> None:
    model = encoder(folder)
    together, apart = model.encode_text(CAPTIONS), [model.encode_text([caption])[0] for caption in CAPTIONS]
    assert np.abs(together - np.stack(apart)).max() < 1e-6 and np.isfinite(together).all()
    rows = model.encode_image(list(images(3).permute(0, 2, 3, 1).numpy()))
    alone = np.stack([model.encode_image(images(3)[i : i + 1].permute(0, 2, 3, 1).numpy())[0] for i in range(3)])
    assert np.abs(rows - alone).max() < 1e-6
    tower = model.model.image
    assert isinstance(tower, VisionLanguageTower)
    tokens, mask = torch.tensor([[5, PATCH, 7, 0, 0]]), torch.tensor([[True, True, True, False, False]])
    with torch.no_grad():
        right = tower(None, tokens, mask)[0]
        left = tower(None, tokens.roll(2, 1), mask.roll(2, 1))[0]
        both = tower(images(1)[None], tokens, mask)[0]
        padded_left = tower(images(1)[None], tokens.roll(2, 1), mask.roll(2, 1))[0]
    torch.testing.assert_close(left, right, rtol=0, atol=1e-6)
    torch.testing.assert_close(padded_left, both, rtol=0, atol=1e-6)


def test_a_query_of_text_and_pictures_is_one_sequence(folder: Path) -> None:
    model = encoder(folder, prompts={"query": "Query: "}, adapters={"mine": {"rank": 2, "targets": ["language_model"]}})
    for weight in model.model.bank.weights("mine").values():
        torch.nn.init.normal_(weight, std=0.1)
    pictures = [Image.fromarray(each) for each in images(2).permute(0, 2, 3, 1).numpy()]
    asked: list[dict[str, Any]] = [
        {"text": "and red", "images": pictures, "role": "query", "adapter": "mine"},
        {"text": "and red", "images": pictures[:1]},
        {"images": pictures[:1]},
        {"text": "and red", "role": "query"},
    ]
    rows = model.encode_queries(asked)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(rows[2], model.encode_image(pictures[:1])[0])
    np.testing.assert_array_equal(rows[3], model.encode_text(["and red"], role="query")[0])
    tower = model.model.image
    assert isinstance(tower, VisionLanguageTower)
    one = tower(images(1)[None], *ByteTokenizer()(["and red"], ["en"]))[0][0]
    np.testing.assert_allclose(rows[1], (one / one.norm()).numpy(), atol=1e-6)
    assert all(np.abs(rows[i] - rows[j]).max() > 1e-3 for i in range(4) for j in range(i))
    np.testing.assert_array_equal(model.encode_queries(asked[:1])[0], rows[0])


def test_it_is_saved_and_loaded_whole_and_no_other_format_holds_it(folder: Path, tmp_path: Path) -> None:
    model = encoder(folder, adapters={"mine": {"rank": 2, "targets": ["language_model", "multi"]}})
    write(model, "a test", tmp_path / "export")
    again = mmtrain.load(tmp_path / "export")
    pictures = images(2).permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(again.encode_image(pictures), model.encode_image(pictures))
    np.testing.assert_array_equal(again.encode_text(CAPTIONS), model.encode_text(CAPTIONS))
    assert [rows.shape for rows in again.encode_image(pictures, multi=True)] == [(4, 8), (4, 8)]
    assert [len(rows) for rows in again.encode_text(CAPTIONS, multi=True)] == [5, 2, 26]
    mmtrain.load(tmp_path / "export", text_only=True).encode_text(["one"])
    model.model.merge_adapters()
    for format in ("onnx", "open_clip", "transformers", "sentence_transformers", "multi_vector", "transformers_js"):
        with pytest.raises(ValueError, match=rf"^--format {format}: .*safetensors"):
            write(model, "a test", tmp_path / format, format)
        assert not (tmp_path / format).exists()


def test_texts_alone_leave_the_part_that_sees_as_it_is(folder: Path) -> None:
    model = ImageTextModel(VisionLanguageTower(str(folder)), "shared", 32)
    rest_unread(model, frozenset({"text"}))
    frozen = {name for name, weight in model.named_parameters() if not weight.requires_grad}
    assert frozen == {name for name in dict(model.named_parameters()) if ".visual." in name} | {
        "image_projection.weight"
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "^image tower: give either `pretrained`"),
        ({"config": {"model_type": "bert"}}, "^image tower: .*it is of type bert, expected qwen2_5_vl"),
        ({"config": QWEN | {"auto_map": {}}, "pooling": "first"}, "^pooling: got 'first'"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VisionLanguageTower(**options)
    with pytest.raises(ValueError, match=r"^data\.images\.size: got 40, expected a multiple of 16"):
        VisionLanguageTower(config=QWEN).check_shape((3, 40, 40))
    with pytest.raises(ValueError, match="free size"):
        VisionLanguageTower(config=QWEN).check_shape((16, 770))
