"""Adapters by name in the commands that embed, index, search and serve, and on several processes."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import mmtrain
from mmtrain.cli import main
from mmtrain.search.index import SearchIndex
from mmtrain.search.queries import open_model
from mmtrain.serving.service import open_service
from tests.mmtrain.indexes import SIZES
from tests.mmtrain.runs import column, weights
from tests.mmtrain.small import ENVIRONMENT
from tests.mmtrain.test_adapters import base, with_adapters

__all__ = ["base"]

ADAPTERS = "{lv: {rank: 4}, other: {rank: 2, targets: [text]}}"


def sources(shards: Path) -> str:
    named = [{"shards": str(shards), "name": name, "adapter": name} for name in ("lv", "other")]
    return f"--data.train={json.dumps(named)}"


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory, shards: Path, base: Path) -> Path:
    run = tmp_path_factory.mktemp("bank")
    assert main(with_adapters(shards, base, run, ADAPTERS, sources(shards))) == 0
    assert main(["export", str(run), "--out", str(run / "export")]) == 0
    return run / "export"


def index(model: Path, shards: Path, out: Path, *options: str) -> Path:
    assert main(["index", str(model), "--data", str(shards), "--out", str(out), *SIZES, *options]) == 0
    return out


def test_an_index_is_asked_by_the_adapter_that_built_it(bank: Path, shards: Path, tmp_path: Path, capsys) -> None:
    plain, own = (index(bank, shards, tmp_path / name, *more) for name, more in (("a", []), ("b", ["--adapter", "lv"])))
    indices = SearchIndex(plain), SearchIndex(own)
    assert np.abs(indices[0].rows - indices[1].rows).max() > 1e-4
    row = mmtrain.load(bank, adapter="lv").encode_text(["red"])
    np.testing.assert_array_equal(open_model(indices[1]).encode_text(["red"]), row)
    np.testing.assert_array_equal(open_model(indices[0], adapter="lv").encode_text(["red"]), row)
    other = open_model(indices[1], adapter="other").encode_text(["red"])
    np.testing.assert_array_equal(other, mmtrain.load(bank, adapter="other").encode_text(["red"]))
    service = open_service(str(own), model=None, device="cpu", trust=None)
    np.testing.assert_array_equal(service.encoder.encode_text(["red"]), row)
    service = open_service(str(bank), model=None, device="cpu", trust=None, adapter="other")
    np.testing.assert_array_equal(service.encoder.encode_text(["red"]), other)
    found = []
    for options in ([], ["--adapter", "other"]):
        capsys.readouterr()
        assert main(["search", str(own), "red", "-k", "3", "--json", *options]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[0] != found[1]
    assert main(["search", str(own), "red", "--adapter", "nobody"]) == 1
    assert "adapter 'nobody', but" in capsys.readouterr().err


def test_embedded_rows_are_those_of_the_adapter(bank: Path, shards: Path, tmp_path: Path) -> None:
    written = []
    for name in (None, "lv", "language"):
        out = tmp_path / str(name)
        options = [] if name is None else ["--adapter", name]
        command = ["embed", str(bank), "--data", str(shards), "--out", str(out), "--workers", "0", "--device", "cpu"]
        assert main([*command, *options]) == 0
        description = json.loads((out / "embedding.json").read_text())
        assert description.get("adapter") == name
        written.append((description["identity"], (out / "shard-000000.tar").read_bytes()))
    assert len({identity for identity, _ in written}) == len({rows for _, rows in written}) == 3


@pytest.mark.system
def test_two_processes_train_what_one_does(base: Path, shards: Path, tmp_path: Path) -> None:
    """A batch of two sources, each with its adapter, on one process and on two (gloo)."""
    options = [sources(shards), "--model.learning_rate=0.0005"]
    runs = tmp_path / "one", tmp_path / "two"
    assert main([*with_adapters(shards, base, runs[0], ADAPTERS, *options), "--data.batch_size=8"]) == 0
    two = ["--data.batch_size=4", "--trainer.devices=2", "--trainer.strategy=ddp"]
    command = [sys.executable, "-m", "mmtrain.cli", *with_adapters(shards, base, runs[1], ADAPTERS, *options), *two]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr[-2000:]
    assert column(runs[1], "train/loss") == pytest.approx(column(runs[0], "train/loss"), rel=1e-4)
    one, both = map(weights, runs)
    for name, tensor in one.items():
        torch.testing.assert_close(both[name], tensor, atol=1e-5, rtol=1e-3, msg=name)
    assert {"lv", "other"} == {name.split(".")[-2] for name, each in one.items() if "lora_B" in name and each.any()}
