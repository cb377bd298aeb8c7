"""What a person watching a contrastive run wants to know beside the loss. B: images, K: captions of one, D: width."""

from collections import Counter
from collections.abc import Mapping

import torch
from pytorch_lightning.strategies import Strategy
from torch import Tensor, nn

from losses import Embeddings
from losses.objective import image_of, texts_of
from mmtrain.training.sharding import whole

SAMPLE = 512  # rows looked at: pairwise figures of 512 rows cost little and are steady enough


@torch.no_grad()
def space_diagnostics(embeddings: Embeddings) -> dict[str, Tensor]:
    """Figures of this process's batch, of its first 512 images and each one's first present caption.

    margin: mean cosine of a pair minus that of its hardest negative caption (above 0: found first).
    alignment: mean squared distance of pairs; uniformity: log mean exp(-2 d^2) between images, and between captions
    (Wang and Isola 2020). modality_gap: distance of the two mean vectors (Liang et al. 2022).
    captions_per_image: mean number of present captions, the effective K.
    """
    image, texts = image_of(embeddings)[:SAMPLE].float(), texts_of(embeddings)[:SAMPLE].float()
    present = embeddings.present
    present = texts.new_ones(texts.shape[:2], dtype=torch.bool) if present is None else present[:SAMPLE]
    captions_per_image = present.sum(1).float().mean()
    rows = present.any(1).nonzero()[:, 0]
    if len(rows) < 2:
        # the same names with nothing to say: processes exchange these figures and must agree on their number
        nothing = image.new_tensor(float("nan"))
        names = ("margin", "alignment", "uniformity_image", "uniformity_text", "modality_gap")
        return dict.fromkeys(names, nothing) | {"captions_per_image": captions_per_image}
    image = image[rows]
    text = texts[rows, present[rows].int().argmax(1)]
    scores = image @ text.T
    own = scores.diagonal()
    hardest = scores.masked_fill(torch.eye(len(rows), dtype=torch.bool, device=scores.device), -2.0).amax(1)
    return {
        "margin": (own - hardest).mean(),
        "alignment": (2 - 2 * own).mean(),
        "uniformity_image": _uniformity(image),
        "uniformity_text": _uniformity(text),
        "modality_gap": (image.mean(0) - text.mean(0)).norm(),
        "captions_per_image": captions_per_image,
    }


def step_figures(
    embeddings: Embeddings | None,
    losses: Mapping[tuple[str, str], Tensor],
    total: Tensor,
    drawn: Mapping[str, float],
) -> dict[str, Tensor]:
    """What the log says of a step: its losses by objective (and part, where it sees several), the space, the draws.

    Args:
        embeddings: Of the first part that has pictures and captions.
        losses: By objective and part.
        total: Their weighted sum.
        drawn: As the data module counts it.
    """
    parts = Counter(name for name, _ in losses)
    figures = {"train/loss": total}
    figures |= {f"train/{name}" + f"/{part}" * (parts[name] > 1): loss for (name, part), loss in losses.items()}
    if embeddings is not None:
        figures |= {f"space/{name}": value for name, value in space_diagnostics(embeddings).items()}
    return figures | {f"drawn/{name}": total.new_tensor(share) for name, share in drawn.items()}


def gradient_norm(module: nn.Module) -> Tensor | None:
    """Euclidean norm of a module's gradients, whole where they are divided over processes; None where it has none."""
    norms = [whole(parameter.grad.norm()) for parameter in module.parameters() if parameter.grad is not None]
    return torch.stack([norm.float() for norm in norms]).norm() if norms else None


def _uniformity(rows: Tensor) -> Tensor:
    squared = (2 - 2 * rows @ rows.T).clamp(min=0)
    pairs = ~torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    return torch.logsumexp(-2 * squared[pairs], 0) - torch.log(torch.tensor(float(pairs.sum()), device=rows.device))


def mean_over_processes(figures: Mapping[str, Tensor], strategy: Strategy) -> dict[str, Tensor]:
    """The global figures of those that each process has of its part: their means, by one collective for all."""
    names = sorted(figures)
    values = strategy.reduce(torch.stack([figures[name].detach().float() for name in names]), reduce_op="mean")
    return dict(zip(names, values.unbind(), strict=True))
