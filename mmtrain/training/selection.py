"""Active selection: of a larger batch the samples that are worth learning, chosen together, while training.

Letters: b samples of this process's batch, S of all processes', n of the b that are kept, D dimensions.
"""

from collections.abc import Callable, Mapping
from copy import copy
from time import perf_counter
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.nn import functional

from datamodules.batch import Batch
from losses import Objective
from losses.engine.captions import shared_ids
from losses.engine.checks import full_precision
from losses.engine.distributed import default_group, gather, rank_and_size
from losses.temperature import ScaledObjective, clamped_scale
from mmtrain.models.batches import embed_batch
from mmtrain.models.image_text import ImageTextModel
from mmtrain.objectives.teacher import Teacher
from mmtrain.training.data import TrainingData

Score = Literal["learnability", "easy-reference"]


class ActiveSelection:
    """Chooses which samples of each batch are trained, by what the model and a reference MODEL lose on them (JEST:
    Evans et al., NeurIPS 2024; with a reference that is the better model: Udandarao et al., CVPR 2025, which SigLIP 2
    ends with).

    A pair of picture i and text j of all processes loses, in a model with its own scale and bias,

        l_ij = -log sigmoid(z_ij (scale <image_i, text_j> + bias)), z = 1 where i = j, else -1

    and scores s_ij = l_ij(model) - l_ij(reference), or -l_ij(reference). Pairs of equal ids that are not a sample's own
    count nothing. A sample with several captions or views has the mean of their rows. A loss without a bias gets the
    one by which all pairs of the batch together make softmax's denominators. The samples are drawn chunk by chunk,
    each without replacement with probability in proportion to

        exp(s_ii + sum over the j drawn in earlier chunks of (s_ij + s_ji))

    Every process keeps as many of its own samples. All samples of the batch count as samples seen. What is drawn
    depends on seed and samples seen alone, so a resumed run keeps what the undisturbed one would have kept. With
    data.parts every part that has pictures and captions is drawn from by itself, and the others are trained whole.

    Args:
        reference: MODEL that reads the same pictures and texts, see `mmtrain.objectives.Teacher`.
        filter_share: f, the share of each batch that is not trained, at least 0 and below 1.
        score: learnability, or easy-reference, which needs no forward pass of the model.
        chunks: In which the samples are drawn; 1 looks at each sample by itself.

    Raises:
        ValueError: for values out of range, or a MODEL that cannot be loaded or whose scale is not known.
    """

    def __init__(
        self, reference: str, filter_share: float = 0.5, score: Score = "learnability", chunks: int = 16
    ) -> None:
        if not 0 <= filter_share < 1:
            raise ValueError(f"model.selection.filter_share: got {filter_share}, expected at least 0 and below 1")
        if score not in get_args(Score):
            raise ValueError(f"model.selection.score: got {score!r}, expected one of {', '.join(get_args(Score))}")
        if chunks < 1:
            raise ValueError(f"model.selection.chunks: got {chunks}, expected at least 1")
        self.filter_share, self.score, self.chunks = filter_share, score, chunks
        try:
            self.reference = Teacher(reference)
        except ValueError as error:
            raise ValueError(f"model.selection.reference: {str(error).removeprefix('teacher: ')}") from error
        scale, self._bias = self.reference.scale_and_bias
        if scale is None:
            raise ValueError(f"model.selection.reference: {reference} does not say what its loss multiplied cosines by")
        self._scale = scale
        self._scaled: ScaledObjective | None = None
        self._name = "selection"
        self._gain, self._passes, self._seconds, self._since = 0.0, 0.0, 0.0, perf_counter()

    def of_parts(
        self, objectives_on: Callable[[str], Mapping[str, Objective]], model: ImageTextModel, data: TrainingData
    ) -> dict[str, "ActiveSelection"]:
        """Called before the first step: what draws from each part that has pictures and captions ("" without parts).

        Args:
            objectives_on: Gives those that see a part.

        Raises:
            ValueError: one line, for data or objectives that it cannot judge by.
        """
        judged = [part for part, brings in data.brings.items() if {"image", "texts"} <= brings]
        if not judged or model.missing:
            raise ValueError(
                "model.selection: it judges pictures by their captions; expected samples with both, and no"
                " model.missing"
            )
        found = {part: copy(self) if part else self for part in judged}
        for part, each in found.items():
            each._name = f"selection/{part}" if part else "selection"
            pieces = (piece for objective in objectives_on(part).values() for piece in objective.modules())
            each._scaled = next((piece for piece in pieces if isinstance(piece, ScaledObjective)), None)
            if each._scaled is None and self.score == "learnability":
                where = f" on {part}" if part else ""
                raise ValueError(
                    f"model.selection: no objective{where} has a temperature; losses.SiglipLoss, or easy-reference"
                )
        self.reference.prepare(data.languages)
        return found

    @torch.no_grad()
    def chosen(self, batch: Batch, model: ImageTextModel) -> Batch:
        """The samples of the batch that are trained. Every process must come here."""
        if batch.rows.is_cuda:
            torch.cuda.synchronize()  # what came before is none of ours
        start = perf_counter()
        views, group = batch.views, default_group()
        same = shared_ids(batch.image_ids[::views], batch.text_ids.unflatten(0, (-1, views)).flatten(1, 2), group)
        read = {name: self.reference(batch, name) for name in ("image", "texts")}
        known = _losses(batch, same, read["image"].rows[:, 0], read["texts"].rows, self._scale, self._bias)
        own, pairs = -known[0], -known[1]
        if self.score == "learnability":
            embedded = embed_batch(model, batch, without=batch.fields)
            assert self._scaled is not None and embedded.image is not None and embedded.texts is not None
            scale, bias = clamped_scale(self._scaled.log_scale), getattr(self._scaled, "bias", None)
            lost = _losses(batch, same, embedded.image, embedded.texts, scale, bias)
            own, pairs = own + lost[0], pairs + lost[1]
        count = max(round(len(own) * (1 - self.filter_share)), 1)
        kept = drawn(own, pairs, count, self.chunks, group)
        self._gain = float(own[kept].mean() - own.mean())
        self._passes = (1 + (self.score == "learnability")) * len(own) / count
        self._seconds += perf_counter() - start
        return batch.take(kept)

    def logged(self) -> dict[str, float]:
        """What it costs and gives, of this process: selection/time_share, of all time since this was last called;
        selection/forward_passes beside the one that is trained, by either model, a sample trained; selection/gain, how
        much higher than on average those last kept scored. With parts selection/PART/...
        """
        now = perf_counter()
        share = self._seconds / (now - self._since)
        self._seconds, self._since = 0.0, now
        figures = {"time_share": share, "forward_passes": self._passes, "gain": self._gain}
        return {f"{self._name}/{figure}": value for figure, value in figures.items()}


def _losses(
    batch: Batch, same: Tensor, image: Tensor, texts: Tensor, scale: Tensor | float, bias: Tensor | float | None
) -> tuple[Tensor, Tensor]:
    """`pair_losses` of the samples of a batch, of rows image [B, D] and texts [B, K, D]."""
    views, there = batch.views, batch.present.unflatten(0, (-1, batch.views)).sum((1, 2))
    image = image.unflatten(0, (-1, views)).mean(1)
    texts = texts.unflatten(0, (-1, views)).sum((1, 2)) / there.clamp(min=1)[:, None]
    return pair_losses(image, texts, scale, bias, same, default_group())


@full_precision
def pair_losses(
    image: Tensor,
    texts: Tensor,
    scale: Tensor | float,
    bias: Tensor | float | None,
    same: Tensor,
    group: ProcessGroup | None = None,
) -> tuple[Tensor, Tensor]:
    """l_ii [b] of this process's samples, and l_ij + l_ji [b, S], 0 where i and j share an id.

    Args:
        image: float [b, D].
        texts: float [b, D].
        scale: Multiplier of the cosines.
        bias: Added to them; None for log S less the log of the sum of exp over all pairs i != j.
        same: bool [b, S], which pairs share an id or are one sample, see `shared_ids`.
        group: Processes that hold the rest of the batch, equally many samples each.
    """
    image, texts = image.float(), texts.float()
    to_texts, to_images = (scale * ours @ gather(theirs, group).T for ours, theirs in ((image, texts), (texts, image)))
    if bias is None:
        together = to_texts.masked_fill(same, -torch.inf).flatten().logsumexp(0, keepdim=True)
        bias = torch.tensor(same.shape[1]).log() - gather(together, group).logsumexp(0)
    own = functional.softplus(-bias - to_texts.diagonal(rank_and_size(group)[0] * len(image)))
    pairs = functional.softplus(to_texts + bias) + functional.softplus(to_images + bias)
    return own, pairs.masked_fill(same, 0)


def drawn(own: Tensor, pairs: Tensor, count: int, chunks: int, group: ProcessGroup | None = None) -> Tensor:
    """Samples of this process drawn without replacement, as their rows in order, int64 [n].

    Args:
        own: float [b], s_ii.
        pairs: float [b, S], s_ij + s_ji with the samples of all processes.
        count: n.
        chunks: In how many parts.
        group: Processes that hold the rest of the batch, and draw as many.
    """
    chosen = torch.zeros_like(own, dtype=torch.bool)
    for chunk in range(chunks):
        more = count * (chunk + 1) // chunks - count * chunk // chunks
        logits = own + pairs @ gather(chosen, group).float()
        noise = -torch.empty(len(own)).exponential_().log().to(own.device)  # Gumbel: the largest are such a draw
        chosen[(logits + noise).masked_fill(chosen, -torch.inf).topk(more).indices] = True
    return chosen.nonzero()[:, 0]
