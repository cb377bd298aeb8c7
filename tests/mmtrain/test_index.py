"""An index folder: the same from any number of processes, after a kill, and with what its kind loses measured."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import faiss
import numpy as np
import pytest

import mmtrain
from mmtrain.cli import main
from mmtrain.embedding import division
from mmtrain.embedding.one_pass import embed
from mmtrain.embedding.parts import EmbeddingParts
from mmtrain.embedding.processes import Processes
from mmtrain.embedding.splits import MeasuredShards
from mmtrain.evaluation.ranking.nearest import flat_top_k
from mmtrain.models.fingerprint import fingerprint
from mmtrain.search.building import print_index
from mmtrain.search.index import SearchIndex
from mmtrain.search.items import ItemWriter
from mmtrain.search.kinds import build_index, describe_kind
from mmtrain.search.recall import Queries, recall_lost
from tests.mmtrain.indexes import SIZES, built, contents, model
from tests.mmtrain.small import ENVIRONMENT, ROOT, in_two_processes

__all__ = ["built", "model"]


def test_an_index_holds_every_picture_with_its_id_and_captions(built: Path, model: Path, shards: Path) -> None:
    assert sorted(path.name for path in built.iterdir()) == ["index.faiss", "index.json", "items.sqlite", "rows.npy"]
    assert not [path.name for path in built.parent.iterdir() if path != built]
    index = SearchIndex(built)
    assert len(index) == 32 and index.description["captions"] == {"ar": 16, "en": 32, "lv": 32}
    assert index.exact and index.description["recall"] is None
    encoder = mmtrain.load(model)
    split = embed(encoder, MeasuredShards(encoder, str(shards), None, 4, 0))
    np.testing.assert_allclose(index.rows, split.images, atol=1e-6)
    first, fourth = index.items.read([0, 3])
    assert (first.id, first.captions) == ("c0", {"en": ["red"], "lv": ["sarkans"]})
    assert (fourth.id, fourth.captions["ar"]) == ("c3", ["رمادي"])
    scores, numbers = index.search(index.rows[:5], 3)
    assert numbers[:, 0].tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(scores[:, 0], 1, atol=1e-5)


@pytest.mark.system
def test_two_processes_make_what_one_makes(
    built: Path, model: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    arguments = ["index", str(model), "--data", str(shards), "--out", str(tmp_path / "shared"), *SIZES]
    said = in_two_processes(arguments, monkeypatch)
    assert "pictures" not in capsys.readouterr().out
    assert "32 pictures" in said, said
    assert contents(tmp_path / "shared") == contents(built)
    assert [path.name for path in tmp_path.iterdir()] == ["shared"]


KILLED = """
import os, signal, sys
from mmtrain import cli
from mmtrain.embedding import parts

write, written = parts._write, []

def write_two_parts(path, encoded):
    if len(written) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    written.append(path)
    write(path, encoded)

parts._write = write_two_parts
cli.main(sys.argv[1:])
"""


@pytest.mark.system
def test_a_killed_embedding_goes_on_with_its_parts(
    built: Path, model: Path, shards: Path, tmp_path: Path, capsys
) -> None:
    out = tmp_path / "killed"
    arguments = ["index", str(model), "--data", str(shards), "--out", str(out), *SIZES]
    done = subprocess.run([sys.executable, "-c", KILLED, *arguments], env=ENVIRONMENT, cwd=ROOT, capture_output=True)
    assert done.returncode == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == ["killed.parts"]
    (parts,) = (tmp_path / "killed.parts").iterdir()
    assert len(list(parts.iterdir())) == 2
    assert main(arguments) == 0
    assert "2 of 4 parts are there" in capsys.readouterr().out
    assert contents(out) == contents(built)
    assert [path.name for path in tmp_path.iterdir()] == ["killed"]


@pytest.fixture
def parts(model: Path, shards: Path, tmp_path: Path) -> EmbeddingParts:
    encoder = mmtrain.load(model)
    split = MeasuredShards(encoder, str(shards), None, 4, 0)
    return EmbeddingParts(
        tmp_path / "parts", encoder, split, fingerprint=fingerprint(encoder), batch_size=4, part_size=8
    )


def test_process_0_makes_what_the_others_left(parts: EmbeddingParts, monkeypatch: pytest.MonkeyPatch) -> None:
    parts.embed(Processes(rank=2, world=3))
    assert parts.division.missing() == [0, 1, 3]
    parts.embed(Processes(rank=0, world=3))  # and process 1 never comes
    assert parts.division.missing() == []
    rows = [row for part in parts.read() for row in part.rows.tolist()]
    assert rows == list(range(32))
    monkeypatch.setattr(division, "LEAVING_SECONDS", 0)
    parts.division.remove(Processes(rank=0, world=3))
    assert not parts.division.folder.parent.exists()


def test_the_parts_hold_every_caption_and_embed_the_wanted_ones(parts: EmbeddingParts) -> None:
    parts.embed(Processes())
    encoder = parts.encoder
    whole = embed(encoder, MeasuredShards(encoder, str(parts.dataset.shards[0].shard).rsplit("/", 1)[0], None, 4, 0))
    np.testing.assert_allclose(np.concatenate([part.texts for part in parts.read()]), whole.texts, atol=1e-6)
    shown = [text for part in parts.read() for captions in part.captions for _, text in captions]
    assert shown == whole.captions
    sparse = EmbeddingParts(
        parts.division.folder.parent, encoder, parts.shards, fingerprint="x", batch_size=4, part_size=8, text_every=16
    )
    assert sparse.division.folder != parts.division.folder
    sparse.embed(Processes())
    assert sorted({int(row) for part in sparse.read() for row in part.text_rows}) == [0, 16]
    assert sum(len(part.captions) for part in sparse.read()) == 32


def test_equal_pictures_are_one_item_and_broken_ones_are_counted(model: Path, shards: Path, tmp_path: Path) -> None:
    from webdataset import TarWriter

    red, green = ((shards.parent / f"{number}.png").read_bytes() for number in (0, 1))
    with TarWriter(str(tmp_path / "odd.tar")) as tar:
        for number, (picture, caption) in enumerate([(red, "a"), (green, "b"), (green[:60], "c"), (red, "d")]):
            record = {"id": f"p{number}", "captions": {"en": caption}}
            tar.write({"__key__": f"{number}", "png": picture, "json": json.dumps(record).encode()})
    out = tmp_path / "odd"
    assert main(["index", str(model), "--data", str(tmp_path / "odd.tar"), "--out", str(out), *SIZES]) == 0
    index = SearchIndex(out)
    assert [item.id for item in index.items.read([0, 1])] == ["p0", "p1"] and len(index) == 2
    assert index.items.read([0])[0].captions == {"en": ["a", "d"]}
    assert index.description["skipped"] == {"broken image": 1}


@pytest.mark.parametrize("kind", ["hnsw", "ivf"])
def test_what_a_kind_loses_is_measured_by_language_and_written_down(
    kind: str, model: Path, shards: Path, tmp_path: Path, capsys
) -> None:
    options = ["--kind", kind, "--candidates", "5", *SIZES]
    assert main(["index", str(model), "--data", str(shards), "--out", str(tmp_path / kind), *options]) == 0
    recall = json.loads((tmp_path / kind / "index.json").read_text())["recall"]
    assert set(recall["text"]) == {"ar", "en", "lv"}
    assert recall["text"]["ar"]["queries"] == 16 and recall["image"]["queries"] == 32
    assert recall["text"]["en"]["found"] == 100  # 32 pictures are no task
    said = capsys.readouterr().out
    assert "text, ar" in said and "image" in said and "lost" in said


def synthetic(folder: Path, kind: str, similarity: str, rows: np.ndarray, candidates: int) -> SearchIndex:
    folder.mkdir()
    np.save(folder / "rows.npy", rows)
    faiss.write_index(build_index(rows, kind, similarity), str(folder / "index.faiss"))
    ItemWriter(folder / "items.sqlite").close()
    description = {"format": 1, "kind": kind, "similarity": similarity, "candidates": candidates}
    (folder / "index.json").write_text(json.dumps(description))
    return SearchIndex(folder)


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def space() -> tuple[np.ndarray, np.ndarray]:
    """2,000 pictures and a caption of every tenth, which lie apart from the pictures, as in models of two towers."""
    random = np.random.default_rng(0)
    pictures = random.standard_normal((2000, 16))
    captions = pictures[::10] + 0.3 * random.standard_normal((200, 16))
    gap = np.zeros(16)
    gap[0] = 4
    return unit(pictures + gap), unit(captions - gap)


@pytest.mark.parametrize("similarity", ["cosine", "asymmetric"])
@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw", "pq"])
def test_scores_are_exact_whatever_proposes_the_candidates(kind, similarity, space, tmp_path: Path) -> None:
    pictures, captions = space
    index = synthetic(tmp_path / "index", kind, similarity, pictures, candidates=200)
    scores, numbers = index.search(captions[:20], 5)
    everything, _ = flat_top_k(captions[:20], pictures, len(pictures), similarity, turned=True)
    for query, (row, items) in enumerate(zip(scores, numbers, strict=True)):
        assert (items >= 0).all() and len(set(items.tolist())) == 5
        np.testing.assert_allclose(row, index.scores(captions[query], items), atol=1e-6)
        assert row[0] <= everything[query, 0] + 1e-6 and (np.diff(row) <= 0).all()


@pytest.mark.parametrize("similarity", ["cosine", "asymmetric"])
def test_all_pictures_as_candidates_is_exact_search(similarity: str, space, tmp_path: Path) -> None:
    pictures, captions = space
    index = synthetic(tmp_path / "index", "pq", similarity, pictures, candidates=len(pictures))
    expected, _ = flat_top_k(captions, pictures, 10, similarity, turned=True)
    np.testing.assert_allclose(index.search(captions, 10)[0], expected, atol=1e-5)


def test_codes_lose_captions_and_full_scores_find_them_again(space, tmp_path: Path) -> None:
    pictures, captions = space
    index = synthetic(tmp_path / "index", "pq", "cosine", pictures, candidates=100)
    asking = np.arange(0, 2000, 10)
    recall = recall_lost(index, {"en": Queries(captions, asking)}, Queries(pictures[asking], asking))
    text, image = recall["text"]["en"], recall["image"]
    assert text["found_alone"] < 80 and text["found_alone"] < text["found"] <= 100
    assert image["found_alone"] < image["found"]
    _, best = flat_top_k(captions, pictures, 10)
    assert text["R@10_exact"] == pytest.approx(100 * (best == asking[:, None]).any(1).mean())
    loops = [len(set(a) & set(b)) / 10 for a, b in zip(index.search(captions, 10)[1], best, strict=True)]
    assert text["found"] == pytest.approx(100 * np.mean(loops), abs=0.3)


def test_an_exact_index_loses_nothing_and_an_asymmetric_one_says_what_it_does(space, tmp_path: Path) -> None:
    pictures, captions = space
    asking = np.arange(0, 2000, 10)
    queries = {"en": Queries(captions, asking)}, Queries(pictures[asking], asking)
    exact = recall_lost(synthetic(tmp_path / "exact", "flat", "cosine", pictures, 10), *queries)
    assert exact["text"]["en"]["found"] == exact["image"]["found"] == 100
    few, many = (
        recall_lost(synthetic(tmp_path / f"{count}", "flat", "asymmetric", pictures, count), *queries)
        for count in (10, 500)
    )
    assert few["text"]["en"]["found"] < many["text"]["en"]["found"] <= 100


def test_an_index_of_one_image_has_figures_of_texts_alone(tmp_path: Path, capsys) -> None:
    rows = np.eye(1, 8, dtype=np.float32)
    index = synthetic(tmp_path / "index", "flat", "asymmetric", rows, 1)
    queries = Queries(rows, np.zeros(1, dtype=np.int64))
    recall = recall_lost(index, {"en": queries}, queries)
    facts = {"images": 1, "captions": {"en": 1}, "faiss": "Flat", "recall": recall}
    print_index(index.folder, index.description | facts)
    printed = capsys.readouterr().out
    assert "text, en" in printed and "image" not in printed.partition("text, en")[2]


def test_pq_needs_enough_pictures() -> None:
    assert describe_kind("pq", 256, 24) == "PQ6np" and describe_kind("ivf", 1_000_000, 24) == "IVF4000,Flat"
    with pytest.raises(ValueError, match="at least 256 pictures, got 255"):
        describe_kind("pq", 255, 24)


def test_queries_of_another_space_are_refused(built: Path) -> None:
    index = SearchIndex(built)
    with pytest.raises(ValueError, match=r"rows of shape \[1, 3\], the index has width 16"):
        index.search(np.zeros((1, 3), np.float32), 5)
    with pytest.raises(ValueError, match="NaN or infinity"):
        index.search(np.full((1, 16), np.nan, np.float32), 5)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--out", "OTHER"], "OTHER holds other files"),
        (["--out", "NEW", "--kind", "pq"], "at least 256 pictures, got 32"),
        (["--out", "NEW", "--candidates", "0"], "--candidates"),
        (["--out", "NEW", "--languages", "[xx]"], "xx"),
    ],
)
def test_bad_input_gets_one_line_and_leaves_nothing(options, says, model, shards, tmp_path: Path, capfd) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    places = {"OTHER": str(tmp_path / "other"), "NEW": str(tmp_path / "new")}
    options = [places.get(option, option) for option in options]
    assert main(["index", str(model), "--data", str(shards), *SIZES, *options]) == 1
    errors = [line for line in capfd.readouterr().err.splitlines() if "error:" in line]
    assert len(errors) == 1 and says.replace("OTHER", places["OTHER"]) in errors[0]
    assert [path.name for path in tmp_path.iterdir()] == ["other"] and os.listdir(tmp_path / "other") == ["thesis.txt"]


def test_an_incomplete_folder_is_no_index(built: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no index"):
        SearchIndex(tmp_path)
    for name in ("index.faiss", "rows.npy", "items.sqlite"):
        broken = shutil.copytree(built, tmp_path / name)
        (broken / name).write_bytes(b"half")
        with pytest.raises(ValueError, match="again"):
            SearchIndex(broken)
