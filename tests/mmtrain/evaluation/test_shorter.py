"""Shorter rows: the codes of another library, exact ranks by brute force, and what the command writes."""

import json
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers.util.quantization import quantize_embeddings

from datamodules import ByteTokenizer
from mmtrain.cli import main
from mmtrain.evaluation import rank_retrieval
from mmtrain.evaluation.measuring.shorter import int8_codes, reduced
from mmtrain.towers import ByteGRU
from tests.mmtrain.encoders import saved

ROWS = np.random.default_rng(0).standard_normal((2, 70, 24)).astype(np.float32)
ROWS /= np.linalg.norm(ROWS, axis=2, keepdims=True)


def test_codes_are_those_of_sentence_transformers() -> None:
    for rows in ROWS:
        np.testing.assert_array_equal(int8_codes(rows)[0], quantize_embeddings(rows, "int8"))
        packed = np.packbits(reduced(rows, 24, "binary") > 0, axis=1)
        np.testing.assert_array_equal(packed, quantize_embeddings(rows, "ubinary"))


def test_int8_rows_are_read_back_to_half_a_step() -> None:
    codes, _, steps = int8_codes(ROWS[0])
    assert codes.dtype == np.int8 and codes.min() == -128 and codes.max() == 127
    assert (abs(reduced(ROWS[0], 24, "int8") - ROWS[0]) <= steps / 2 + 1e-6).all()
    same = np.full((3, 4), 0.5, np.float32)
    np.testing.assert_allclose(reduced(same, 4, "int8"), same)  # a dimension without a range


def test_a_cut_row_is_that_of_the_encoder_and_zeros_stay() -> None:
    short = ROWS[0][:, :8]
    np.testing.assert_allclose(reduced(ROWS[0], 8, "float32"), short / np.linalg.norm(short, axis=1, keepdims=True))
    assert not reduced(np.zeros((2, 4), np.float32), 2, "float32").any()


def test_ranks_of_binary_rows_are_by_hamming_distance_and_pessimistic() -> None:
    images, texts = ROWS
    codes = [quantize_embeddings(rows[:, :16], "ubinary") for rows in ROWS]
    distance = np.unpackbits(codes[1][:, None] ^ codes[0], axis=2).sum(2).astype(int)  # [texts, images]
    expected = (distance <= distance.diagonal()[:, None]).sum(1) - 1
    rows = (reduced(each, 16, "binary") for each in (images, texts))
    ranks = rank_retrieval(*rows, np.arange(70), ["en"] * 70)
    np.testing.assert_array_equal(ranks.text_to_image["en"].rank, expected)
    assert len(np.unique(distance)) < 17  # so that many tie


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved(tmp_path_factory.mktemp("model") / "bytes", ByteGRU(width=32), ByteTokenizer())


def test_evaluate_measures_widths_and_precisions(model: str, shards: Path, tmp_path: Path, capsys) -> None:
    plain = ["evaluate", model, "--data", str(shards), "--workers", "0", "--recall_at", "1,3"]
    more = ["--dims", "24,4", "--precision", "binary,float32,int8,int8"]
    assert main([*plain, "--out", str(tmp_path / "plain")]) == 0
    capsys.readouterr()
    assert main([*plain, *more, "--out", str(tmp_path / "more")]) == 0
    printed = capsys.readouterr().out
    before, after = (json.loads((tmp_path / out / "metrics.json").read_text()) for out in ("plain", "more"))
    shorter = after.pop("shorter")
    assert after == before
    what = [(each["width"], each["precision"], each["bytes"]) for each in shorter]
    short = [(4, "binary", 1), (4, "float32", 16), (4, "int8", 4)]
    assert what == [*short, (24, "float32", 96), (24, "binary", 3), (24, "int8", 24)]
    assert shorter[3]["mean_recall"] == after["mean_recall"]
    assert shorter[1]["text_to_image"].keys() == {"en", "lv", "mean"}
    assert shorter[1]["text_to_image"]["lv"].keys() == {"R@1", "R@3"}
    page = (tmp_path / "more" / "report.html").read_text()
    assert "Shorter rows" in page and "Shorter rows" not in (tmp_path / "plain" / "report.html").read_text()
    assert "shorter rows, recall in percent" in printed and "bytes a row" in printed


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--dims", "25"], "--dims: got 25, the rows of"),
        (["--dims", "4,25"], "have 24; 1 to 24"),
        (["--precision", "int4"], "--precision: got 'int4', expected some of float32, int8, binary"),
        (["--precision", "binary", "--similarity", "asymmetric"], "binary keeps signs"),
        (["--dims", "4", "--sts"], "--dims: says nothing about --sts"),
    ],
)
def test_what_cannot_be_measured_is_one_line(options, said: str, model: str, shards: Path, tmp_path, capsys) -> None:
    assert main(["evaluate", model, "--data", str(shards), "--out", str(tmp_path / "out"), *options]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert said in line
    assert not (tmp_path / "out" / "metrics.json").exists()


@pytest.mark.parametrize("dims", ["0", "-4", "x", "", "4,,8"])
def test_a_width_is_a_whole_number_from_1(dims: str, model: str, shards: Path, tmp_path: Path, capsys) -> None:
    assert main(["evaluate", model, "--data", str(shards), "--out", str(tmp_path), f"--dims={dims}"]) == 2
    assert "--dims" in capsys.readouterr().err
