"""An evaluation reads the checkpoint once, surveys the shards once, and decodes and encodes each picture once."""

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import mmtrain.models.loading as loading
from datamodules.images import ImagePipeline
from datamodules.reading.splits import Splits
from datamodules.tokenizers import ByteTokenizer
from mmtrain.cli import main
from mmtrain.embedding.collected import Embedded
from mmtrain.evaluation import rank_retrieval
from mmtrain.evaluation.measuring import reranking
from mmtrain.evaluation.measuring.reranking import rerank_retrieval
from mmtrain.fusion import ConcatFusion, CrossAttentionFusion, Fusion, MatchingHead, RowFusion, TextToImageAttention
from mmtrain.models.encoder import Encoder
from mmtrain.models.image_text import ImageTextModel
from mmtrain.towers import ByteGRU, FeatureTower, TimmTower
from tests.mmtrain.small import ENVIRONMENT, ROOT


def counting(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, counts: Counter[str]) -> None:
    before: Callable = getattr(owner, name)

    def counted(*arguments: object, **options: object) -> object:
        first = arguments[1] if len(arguments) > 1 else None
        counts[name] += len(first) if isinstance(first, torch.Tensor) else 1
        return before(*arguments, **options)

    monkeypatch.setattr(owner, name, counted)


def test_every_collector_shares_one_pass(
    trained: Path, posts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """48 posts: retrieval, relations, zero-shot by similarity, re-ranking and thumbnails."""
    counts: Counter[str] = Counter()
    counting(monkeypatch, ImagePipeline, "evaluate", counts)
    counting(monkeypatch, TimmTower, "forward", counts)
    counting(monkeypatch, loading, "read_checkpoint", counts)
    counting(monkeypatch, Splits, "survey", counts)
    options = ["--workers", "0", "--rerank", "3", "--zero_shot", "match", "--out", str(tmp_path)]
    assert main(["evaluate", str(trained), "--data", str(posts), *options]) == 0
    assert counts == {"evaluate": 48, "forward": 48, "read_checkpoint": 1, "survey": 1}


RERANK = """
import resource, sys
from tests.mmtrain.test_one_pass import rerank_many
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(*rerank_many(20_000, peak))
"""


class Tokens:
    """Token features of one token each, as the collector gives them."""

    def __init__(self, images: int, texts: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randn(images, 2, 8, generator=generator).half()
        self.texts = list(torch.randn(texts, 2, 8, generator=generator).half())

    def of(self, split: Embedded) -> tuple[torch.Tensor, list[torch.Tensor]]:
        return self.images, self.texts


def made(images: int, texts: int) -> tuple[Encoder, Embedded, Tokens]:
    """An untrained head over random rows; every picture has as many captions."""
    torch.manual_seed(0)
    generator = np.random.default_rng(0)
    rows, captions = generator.standard_normal((images, 16)), generator.standard_normal((texts, 16))
    rows, captions = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (rows, captions))
    number = np.arange(texts) % images
    split = Embedded(
        images=rows.astype(np.float32),
        texts=captions.astype(np.float32),
        image_of_text=number,
        language_of_text=np.zeros(texts, np.int64),
        captions=[""] * texts,
        ids=[""] * images,
        rows=np.arange(images),
        row_of_text=number,
        labels={},
    )
    model = ImageTextModel(FeatureTower(8), ByteGRU(width=8, embedding=4), 16)
    head = MatchingHead(ConcatFusion(width=8))
    head.connect(model)
    encoder = Encoder(model, ByteTokenizer(), None, ["en"], "cosine", "made", head=head)
    return encoder, split, Tokens(images, texts)


def rerank_many(texts: int, peak: Callable[[], float]) -> tuple[float, float]:
    """MiB before and after re-ranking."""
    encoder, split, tokens = made(2_000, texts)
    ranks = rank_retrieval(split.images, split.texts, split.image_of_text, ["en"] * texts)
    before = peak()
    rerank_retrieval(encoder, ranks, split, tokens, 5)  # type: ignore[arg-type]
    return before, peak()


def test_reranking_20_000_texts_takes_little_memory() -> None:
    done = subprocess.run(
        [sys.executable, "-c", RERANK], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    before, after = map(float, done.stdout.split())
    assert after - before < 300


@pytest.mark.parametrize("direction", ["text_to_image", "image_to_text"])
def test_reranking_is_what_sorting_all_pairs_says(direction: str) -> None:
    encoder, split, tokens = made(30, 60)
    ranks = rank_retrieval(split.images, split.texts, split.image_of_text, ["en"] * 60, recall_at=(1, 2, 5))
    table = rerank_retrieval(encoder, ranks, split, tokens, 4)[direction]["en"]  # type: ignore[arg-type]
    assert encoder.head is not None
    image, text = (each.flatten() for each in torch.meshgrid(torch.arange(30), torch.arange(60), indexing="ij"))
    pairs = tokens.images[image].float(), torch.stack(tokens.texts)[text].float(), torch.ones(1800, 2, dtype=torch.bool)
    with torch.inference_mode():
        logits = encoder.head(*pairs).double()
    judged = (logits[:, 1] - logits[:, 0]).view(30, 60).numpy()
    right = np.arange(60) % 30 == np.arange(30)[:, None]
    similar = split.images @ split.texts.T
    if direction == "text_to_image":
        judged, right, similar = judged.T, right.T, similar.T
    after = []
    for scores, wanted, rank in zip(judged, right, similar, strict=True):
        best = np.argsort(-rank, kind="stable")
        head, tail = best[:4], best[4:]
        order = [*head[np.argsort(-scores[head], kind="stable")], *tail]
        after.append(int(np.flatnonzero(wanted[order])[0]))
    for k in (1, 2, 5):
        assert table[f"R@{k}"] == pytest.approx(100 * np.mean(np.array(after) < k))


@pytest.mark.parametrize("fusion", [CrossAttentionFusion, ConcatFusion, TextToImageAttention])
def test_pairs_judged_in_blocks_are_what_the_head_says_of_each(
    fusion: type[Fusion], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of three pictures and of five pairs; texts of one to six tokens."""
    monkeypatch.setattr(reranking, "NUMBERS_AT_ONCE", 3 * 4 * 8)
    monkeypatch.setattr(reranking, "PAIRS_AT_ONCE", 5)
    torch.manual_seed(0)
    head = MatchingHead(fusion(16).connect(8, 8)).eval().requires_grad_(False)
    images, texts = torch.randn(7, 4, 8).half(), [torch.randn(1 + length, 8).half() for length in (6, 1, 4, 4, 2, 6)]
    image, text = np.divmod(np.random.default_rng(0).permutation(42)[:30].reshape(10, 3), 6)
    found = reranking.Matcher(head, images, texts, torch.device("cpu"))(image, text)
    for score, i, t in zip(found.flat, image.flat, text.flat, strict=True):
        logits = head(images[[i]].float(), texts[t][None].float(), torch.ones(1, len(texts[t]), dtype=torch.bool))[0]
        assert score == pytest.approx(float(logits[1] - logits[0]), abs=1e-6)


@pytest.mark.parametrize("fusion", [ConcatFusion, RowFusion])
def test_an_untrained_head_over_the_cosine_changes_no_rank(fusion: type[Fusion]) -> None:
    """Ties of equal rows included; once it has learned something it does."""
    encoder, split, tokens = made(30, 60)
    split.images[3] = split.images[4]
    ranks = rank_retrieval(split.images, split.texts, split.image_of_text, ["en"] * 60, recall_at=(1, 2, 5))
    encoder.head = head = MatchingHead(fusion(8), scale=1 / 0.07)
    head.connect(encoder.model)
    figures = rerank_retrieval(encoder, ranks, split, tokens, 6)  # type: ignore[arg-type]
    for direction in ("text_to_image", "image_to_text"):
        table = figures[direction]["en"]
        assert table["R@1_before"] < 100
        assert all(table[f"R@{k}"] == table[f"R@{k}_before"] for k in (1, 2, 5))
    torch.nn.init.normal_(head.out.weight, std=10.0)
    assert rerank_retrieval(encoder, ranks, split, tokens, 6) != figures  # type: ignore[arg-type]


COMMANDS = """
import sys
from mmtrain.cli import main
assert main(sys.argv[1:]) == 0
print("loaded", *{name.split(".")[0] for name in sys.modules})
"""
HEAVY = {"pytorch_lightning", "lightning_fabric", "wandb", "matplotlib", "transformers", "timm", "jsonargparse"}


@pytest.mark.system
def test_commands_bring_no_trainer(shards: Path, trained: Path, tmp_path: Path) -> None:
    """What `search`, `pack` and `inspect` import while they run; the towers of an image need timm, a text's do not."""
    index, export = str(tmp_path / "index"), str(tmp_path / "export")
    assert main(["export", str(trained), "--out", export]) == 0
    assert main(["index", export, "--data", str(shards), "--out", index, "--workers", "0"]) == 0
    rows = str(shards.parent / "rows.jsonl")
    for arguments, needed in (
        (["search", index, "red", "--json"], set()),
        (["pack", "jsonl", rows, "--out", str(tmp_path / "packed"), "--workers", "1"], set()),
        (["inspect", str(shards)], set()),
        (["inspect", str(trained)], set()),
        (["inspect", export], set()),
    ):
        done = subprocess.run([sys.executable, "-c", COMMANDS, *arguments], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert set(done.stdout.splitlines()[-1].split()) & HEAVY == needed, arguments
