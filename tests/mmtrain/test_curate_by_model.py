"""`mmtrain curate --by_model`: the captions that are most similar to their pictures."""

import io
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mmtrain
from datamodules.reading.whole import WholeSamples
from mmtrain.cli import main
from tests.mmtrain.indexes import model
from tests.mmtrain.mixed import mixed

__all__ = ["mixed", "model"]

OPTIONS = ["--share", "0.5", "--workers", "0", "--device", "cpu", "--batch_size", "8"]


def curate(model: Path, data: Path, out: Path) -> list[dict]:
    assert main(["curate", str(data), "--by_model", str(model), "--out", str(out), *OPTIONS]) == 0
    return [json.loads(line) for line in (out / "keep.jsonl").read_text(encoding="utf-8").splitlines()]


def test_the_most_similar_half_of_each_language_is_kept(model: Path, tmp_path: Path) -> None:
    data = tmp_path / "shards"
    options = ["--split", "val", "--languages", "[en,lv]", "--samples_per_shard", "40", "--workers", "1"]
    assert main(["pack", "numbers", "--out", str(data), *options]) == 0
    lines = curate(model, data, tmp_path / "out")
    assert [line["id"] for line in lines] == [id for id, _ in samples(data) for _ in range(2)]
    by_language = defaultdict(list)
    for line in lines:
        by_language[line["language"]].append(line)
    facts = json.loads((tmp_path / "out" / "curation.json").read_text())["languages"]
    for language, own in by_language.items():
        kept = [line["similarity"] for line in own if line["kept"]]
        others = [line["similarity"] for line in own if not line["kept"]]
        assert len(kept) == facts[language]["kept"] == round(len(own) / 2)
        assert min(kept) >= max(others)
    encoder = mmtrain.load(str(model), device="cpu")
    texts = encoder.encode_text([by_language["lv"][0]["caption"]], "lv")
    image = encoder.encode_image([Image.open(io.BytesIO(samples(data)[0][1]))])
    np.testing.assert_allclose((texts @ image.T).item(), by_language["lv"][0]["similarity"], atol=1e-4)


def samples(data: Path) -> list[tuple[str, bytes]]:
    """Id and encoded picture of each sample."""
    every = WholeSamples.named(str(data))
    return [(sample.sample.id, sample.sample.image) for sample in map(every.__getitem__, range(len(every)))]


def test_rows_that_were_embedded_give_the_same(model: Path, mixed: Path, tmp_path: Path, capsys) -> None:
    lines = curate(model, mixed, tmp_path / "first")
    assert main(["embed", str(model), "--data", str(mixed), "--out", str(tmp_path / "rows"), *OPTIONS[2:]]) == 0
    assert curate(tmp_path / "rows", mixed, tmp_path / "second") == lines
    assert {line["kept"] for line in lines if line["similarity"] is None} <= {False}
    assert curate(tmp_path / "rows", mixed, tmp_path / "second") == lines
    assert "all is there already" in capsys.readouterr().out


@pytest.mark.parametrize("share", ["0", "1.5"])
def test_a_share_out_of_range_is_refused(model: Path, mixed: Path, tmp_path: Path, capsys, share: str) -> None:
    arguments = ["curate", str(mixed), "--by_model", str(model), "--out", str(tmp_path / "out"), "--share", share]
    assert main(arguments) == 1
    assert "expected a share above 0" in capsys.readouterr().err
