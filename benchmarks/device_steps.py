"""What `benchmarks.device` measures: training steps and pieces of them. Letters as in `datamodules.batch`."""

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.capped_rows import Line, reason
from benchmarks.losses import Case, open_clip_loss, seconds
from datamodules.batch import Batch
from losses import ClipLoss, OneToKLoss, clip_loss, one_to_k_loss
from mmtrain.models.batches import embed_batch
from mmtrain.models.image_text import ImageTextModel
from mmtrain.towers import TimmTower, TransformersTower
from mmtrain.training.optimisation import make_optimizer, parameter_groups

torch.set_float32_matmul_precision("high")  # bfloat16 rows are exact in TF32

LENGTHS = (8, 12, 16, 20, 24, 32, 40)  # of texts, in tokens
OPEN_CLIP_LENGTH = 77
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12}  # dense bfloat16, of the SXM cards
XLMR = {"model_type": "xlm-roberta", "vocab_size": 250002, "hidden_size": 768, "intermediate_size": 3072}
XLMR |= {"num_hidden_layers": 12, "num_attention_heads": 12, "max_position_embeddings": 514, "type_vocab_size": 1}
XLMR |= {"pad_token_id": 1, "layer_norm_eps": 1e-5}
TINY_TEXT = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
TINY_IMAGE: dict[str, Any] = {"embed_dim": 32, "depth": 1, "num_heads": 2, "patch_size": 16}


@dataclass(frozen=True)
class Size:
    """An image tower, in timm's name and open_clip's numbers, beside XLM-R base."""

    name: str
    patch: int = 16
    width: int = 768
    layers: int = 12
    pixels: int = 224
    small: bool = False

    @property
    def text(self) -> dict[str, Any]:
        return XLMR | (TINY_TEXT | {"num_attention_heads": 2} if self.small else {})

    def model(self) -> ImageTextModel:
        image = TimmTower(self.name, image_size=self.pixels, options=TINY_IMAGE if self.small else {})
        return ImageTextModel(image, TransformersTower(config=self.text), 512)


SMALL = Size("vit_tiny_patch16_224", width=32, layers=1, pixels=32, small=True)
B16, B32 = Size("vit_base_patch16_224"), Size("vit_base_patch32_224", patch=32)
L14 = Size("vit_large_patch14_clip_224", patch=14, width=1024, layers=24)


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def batch_of(size: Size, B: int, K: int) -> Batch:
    """B pictures with K texts each, on the device."""
    random = torch.Generator().manual_seed(0)
    lengths = torch.tensor(LENGTHS)[torch.randint(len(LENGTHS), (B, K), generator=random)]
    mask = torch.arange(int(lengths.max())) < lengths[..., None]
    tokens = torch.randint(5, size.text["vocab_size"], mask.shape, generator=random)
    numbers = torch.arange(B)
    batch = Batch(
        images=torch.randint(0, 256, (B, 3, size.pixels, size.pixels), generator=random, dtype=torch.uint8),
        tokens=tokens.where(mask, torch.tensor(size.text["pad_token_id"])),
        token_mask=mask,
        present=torch.ones(B, K, dtype=torch.bool),
        languages=torch.zeros(B, K, dtype=torch.int64),
        image_ids=numbers,
        text_ids=torch.arange(B * K).view(B, K),
        rows=numbers,
        sources=0 * numbers,
        ids=list(map(str, range(B))),
        captions=[["text"] * K] * B,
    )
    return batch.to(device())


# ---- counted and timed


def flops_of(encode: Callable[..., Tensor], *row: Tensor) -> int:
    """Floating-point operations of one row through a tower, forward and backward."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # whose products are all counted
        encode(*row).float().sum().backward()
    return counter.get_total_flops()


def work_of(model: ImageTextModel, batch: Batch, repeats: int = 1) -> tuple[int, int]:
    """F, and the tokens, of a batch whose pictures go through the tower so many times."""
    assert model.image is not None and batch.images is not None
    texts = Counter(batch.token_mask.sum(2).flatten().tolist())
    picture, patches = batch.images[:1], model.image(batch.images[:1])[1].shape[1]
    flops = repeats * len(batch) * flops_of(lambda images: model.image(images)[0], picture)
    for length, count in texts.items():
        tokens, mask = batch.tokens[:1, 0, :1].expand(1, length), batch.token_mask[:1, 0, :1].expand(1, length)
        flops += count * flops_of(lambda *text: model.text(*text)[0], tokens, mask)
    model.zero_grad()
    return flops, repeats * len(batch) * patches + sum(length * count for length, count in texts.items())


def timed(step: Callable[[], object], repeats: int) -> tuple[float, float | None]:
    """Seconds of a step, and the GiB of the device at its peak."""
    cuda = device() == "cuda"
    for _ in range(3 if cuda else 1):
        step()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(repeats if cuda else 1):
        step()
    if not cuda:
        return time.perf_counter() - start, None
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / repeats, torch.cuda.max_memory_allocated() / 2**30


def line(whose: str, step: Callable[[], object], images: int, work: tuple[int, int], note: str = "") -> Line:
    """What a step of so many pictures, operations and tokens comes to."""
    took, gib = timed(step, 10)
    peak = next(
        (peak for name, peak in PEAKS.items() if device() == "cuda" and name in torch.cuda.get_device_name()), None
    )
    flops, tokens = work
    return Line(whose, 1e3 * took, images / took, tokens / took, peak and flops / took / peak, gib, note)


# ---- training steps


class Training(nn.Module):
    """Our model and its objective; forward(batch) is the loss."""

    def __init__(self, size: Size, K: int) -> None:
        super().__init__()
        with torch.device(device()):  # random weights are drawn fastest there
            self.model, self.objective = size.model(), OneToKLoss() if K > 1 else ClipLoss()

    def forward(self, batch: Batch) -> Tensor:
        return self.objective(embed_batch(self.model, batch))

    def step_on(self, batch: Batch) -> Callable[[], None]:
        """One step of training on the batch."""
        parts = {**dict(self.model.named_children()), "objectives": self.objective}
        groups = parameter_groups(parts, learning_rate=1e-4, weight_decay=0.1)
        return stepping(lambda: self(batch), make_optimizer(None, groups, (0.9, 0.98), device() == "cuda"))


def stepping(forward: Callable[[], Tensor], optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    """Forward, which gives the loss, backward and the optimiser."""

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device(), torch.bfloat16):
            loss = forward()
        loss.backward()
        optimizer.step()

    return step


def open_clip_lines(size: Size, batch: Batch, work: tuple[int, int]) -> Iterator[Line]:
    """open_clip's own towers and loss in its loop, with its own optimiser's settings."""
    from open_clip.model import CLIPTextCfg, CLIPVisionCfg, CustomTextCLIP
    from transformers import AutoConfig

    K, L = batch.tokens.shape[1:]
    assert batch.images is not None
    with tempfile.TemporaryDirectory() as folder:
        AutoConfig.for_model(**size.text).save_pretrained(folder)
        text = CLIPTextCfg(hf_model_name=folder, hf_model_pretrained=False, hf_proj_type="linear")
        head = 16 if size.small else 64
        vision = CLIPVisionCfg(size.layers, size.width, head, patch_size=size.patch, image_size=size.pixels)
        with torch.device(device()):
            model = CustomTextCLIP(512, vision, text, output_dict=True).train()
    images = batch.images.repeat_interleave(K, 0).float() / 255
    decays = {0.0: [each for each in model.parameters() if each.ndim < 2]}
    decays |= {0.2: [each for each in model.parameters() if each.ndim >= 2]}
    optimizer = torch.optim.AdamW([{"params": own, "weight_decay": decay} for decay, own in decays.items()], lr=1e-4)
    for length in (OPEN_CLIP_LENGTH, L):
        padded = nn.functional.pad(batch.tokens.flatten(0, 1), (0, length - L), value=size.text["pad_token_id"])
        step = stepping(partial(their_loss, model, images, padded), optimizer)
        yield line(f"open_clip, {length} tokens", step, len(batch), work, f"{len(images):,} pairs")


def their_loss(model: nn.Module, images: Tensor, tokens: Tensor) -> Tensor:
    from open_clip.loss import ClipLoss as TheirLoss

    with torch.no_grad():
        model.get_parameter("logit_scale").clamp_(0, 4.6052)
    return TheirLoss()(**model(images, tokens))


def step_row(size: Size, B: int, K: int, peer: bool = True, micro_batch: int | None = None) -> Iterator[Line]:
    """Our step, and open_clip's."""
    batch, training = batch_of(size, B, K), Training(size, K)
    training.model.micro_batch = micro_batch
    work, theirs = work_of(training.model, batch), work_of(training.model, batch, K)
    yield line("ours", training.step_on(batch), B, work, f"{B:,} pictures")
    del training
    if peer:
        yield from open_clip_lines(size, batch, theirs)


def compiled_row(size: Size, B: int) -> Iterator[Line]:
    batch, training = batch_of(size, B, 1), Training(size, 1)
    work = work_of(training.model, batch)
    training.model.compile_towers()
    yield line("ours, torch.compile", training.step_on(batch), B, work, f"{B:,} pictures")


def divided_row(size: Size, B: int) -> Iterator[Line]:
    """FSDP2 in one process: what dividing costs where nothing is gained by it."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh

    from mmtrain.training.sharding import divide

    batch, training = batch_of(size, B, 1), Training(size, 1)
    work = work_of(training.model, batch)
    with tempfile.NamedTemporaryFile() as meeting:
        dist.init_process_group(
            "nccl" if device() == "cuda" else "gloo", f"file://{meeting.name}", rank=0, world_size=1
        )
    try:
        divide(training, init_device_mesh(device(), (1,)))
        yield line("ours, FSDP2, one process", training.step_on(batch), B, work, f"{B:,} pictures")
    finally:
        dist.destroy_process_group()


# ---- pieces


def product_row(width: int) -> Iterator[Line]:
    """A product of two square matrices: what the device gives at best."""
    left, right = (torch.randn(width, width, device=device(), dtype=torch.bfloat16) for _ in range(2))
    took, gib = timed(lambda: left @ right, 20)
    yield Line("torch", 1e3 * took, gib=gib, note=f"{2 * width**3 / took / 1e12:,.1f} TFLOP/s")


def loss_cases(B: int, D: int, K: int = 1) -> dict[str, Case]:
    """By contender: a loss of bfloat16 rows, forward and backward."""

    def ours(image: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
        return clip_loss(image, texts[:, 0], scale) if K == 1 else one_to_k_loss(image, texts, scale)

    cases = {"ours": Case("", "", ours, ours, B, K, D)}
    return cases if K > 1 else cases | {"open_clip": Case("", "", open_clip_loss, open_clip_loss, B, K, D)}


def loss_row(B: int, D: int, K: int = 1) -> Iterator[Line]:
    for whose, case in loss_cases(B, D, K).items():
        try:
            inputs = case.inputs(device())
            took, gib = timed(partial(seconds, case.ours, inputs), 3)
            yield Line(whose, 1e3 * took, gib=gib, note=f"D = {D}")
        except (ModuleNotFoundError, torch.OutOfMemoryError) as error:
            yield Line(whose, note=reason(error))


def largest_row(B: int, limit: int, D: int, each: float) -> Iterator[Line]:
    """Doubles B from a first one up to a limit; each contender has so many seconds."""
    for whose in loss_cases(B, D):
        size, fits, took, end, why = B, 0, 0.0, time.monotonic() + each, "the largest that was tried"
        try:
            while size <= limit and time.monotonic() + 4 * took < end:
                case = loss_cases(size, D)[whose]
                took = seconds(case.ours, case.inputs(device()))
                fits, size = size, 2 * size
        except torch.OutOfMemoryError:
            why = f"{size:,} is out of memory"
        except ModuleNotFoundError as error:
            why = reason(error)
        yield Line(whose, note=f"B = {fits:,}; {why}" if fits else why)


def loader_row(samples: int, workers: int, size: int, batch_size: int) -> Iterator[Line]:
    from benchmarks.loader import SIDE, write
    from datamodules import ByteTokenizer, ImagePipeline, ShardDataModule

    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), None, samples, workers)
        images = ImagePipeline(size=size)
        data = ShardDataModule(
            train=folder, batch_size=batch_size, workers=workers, tokenizer=ByteTokenizer(), images=images
        )
        data.setup("fit")
        batches = iter(data.train_dataloader())
        next(batches)
        start = time.perf_counter()
        seen = sum(len(batch) for batch in batches)
        took = time.perf_counter() - start
    yield Line("ours", images=seen / took, note=f"{workers} workers, JPEG of {SIDE} pixels to {size}")


def search_row(rows: int, width: int) -> Iterator[Line]:
    import faiss

    if device() != "cuda" or not hasattr(faiss, "StandardGpuResources"):
        raise RuntimeError("no faiss for GPUs here")
    table = torch.nn.functional.normalize(torch.randn(rows, width), dim=1).numpy()
    index = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, faiss.IndexFlatIP(width))
    index.add(table)
    took, _ = timed(lambda: index.search(table[:4096], 10), 3)
    yield Line("faiss, flat", 1e3 * took, note=f"4,096 queries in {rows:,} rows of {width}")
