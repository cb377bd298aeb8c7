"""The optimiser, its parameter groups, and the learning rate as a function of samples seen."""

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

from torch import nn
from torch.optim import AdamW, Optimizer

from mmtrain.towers import Tower

Schedule = Literal["cosine", "linear", "rsqrt", "constant"]
# made of parameter groups; in a config a class path, with init_args
OptimizerClass = Callable[[Iterable], Optimizer]


def depths_of(module: nn.Module) -> tuple[dict[str, int], int]:
    """The depth of each parameter, and the number n of blocks: 0 before the blocks, 1 to n in them, n + 1 behind."""
    blocks = module.blocks() if isinstance(module, Tower) else {}
    count, depths, behind = max(blocks.values(), default=-1) + 1, {}, False
    for name, _ in module.named_parameters():
        behind = behind or name in blocks
        outside = count + 1 if behind and "embed" not in name else 0
        depths[name] = blocks[name] + 1 if name in blocks else outside
    return depths, count


def parameter_groups(
    modules: dict[str, nn.Module],
    *,
    learning_rate: float,
    weight_decay: float,
    layer_decay: float = 1.0,
    tower_rate: float = 1.0,
) -> list[dict]:
    """Trainable parameters of each module in groups.

    Gains, biases, the temperature and every other parameter of fewer than two dimensions are not decayed (as in CLIP,
    Radford et al. 2021). With `layer_decay` d < 1 a parameter of a tower at depth l of n has the learning rate times
    d ** (n - l), embeddings being below the first block (BEiT, Bao et al. 2022); what lies outside the towers' blocks
    keeps the full rate. All but "head", "multi" and "objectives" have the rate times `tower_rate`.

    Args:
        modules: By name; "image" and "text" are the towers, to which layer_decay applies.

    Returns:
        Groups with "name", "params", "lr", "base_lr" (the peak) and "weight_decay".

    Raises:
        ValueError: for layer_decay with a tower that is trained and whose depth is not known.
    """
    groups: dict[tuple, dict] = {}
    for module_name, module in modules.items():
        depths, blocks = depths_of(module)
        decays = module_name in ("image", "text") and layer_decay != 1.0
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            if decays and not blocks:
                raise ValueError(
                    f"model.layer_decay: got {layer_decay}, but no depth found in the {module_name} tower"
                    f" ({type(module).__name__}); expected 1, or a tower with blocks"
                )
            decay = weight_decay if parameter.ndim >= 2 and not name.endswith("bias") else 0.0
            rate = learning_rate * layer_decay ** (blocks + 1 - depths[name]) if decays else learning_rate
            rate *= 1.0 if module_name in ("head", "multi", "objectives") else tower_rate
            label = f"{module_name}/{len(groups)}"
            group = {"name": label, "params": [], "lr": rate, "base_lr": rate, "weight_decay": decay}
            groups.setdefault((module_name, decay, rate), group)["params"].append(parameter)
    return list(groups.values())


def make_optimizer(
    optimizer: OptimizerClass | None,
    groups: list[dict[str, Any]],
    betas: tuple[float, float],
    fused: bool = False,
) -> Optimizer:
    """The optimiser of the groups, AdamW where none is chosen; rates and decay are those of the groups.

    Args:
        optimizer: The chosen one.
        groups: As `parameter_groups` gives them.
        betas: Of AdamW.
        fused: Whether AdamW makes its step in one pass over the weights, which pays on CUDA.

    Raises:
        ValueError: when it cannot be made of them, in one line.
    """
    if optimizer is None:
        adamw = AdamW(groups, betas=betas, eps=1e-6, fused=fused)
        adamw._step_supports_amp_scaling = False  # scaled gradients are not left to it: Lightning could not clip them
        return adamw
    try:
        return optimizer(groups)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"model.optimizer: cannot be made of the model's parameter groups ({error})") from error


def clip_adaptively(parameters: Iterable[nn.Parameter], ratio: float) -> None:
    """Shortens each row's gradient to `ratio` of the row's length, at least 1e-3, where it is longer."""
    from timm.utils.agc import adaptive_clip_grad

    adaptive_clip_grad(parameters, ratio)


def rate_factor(
    samples_seen: float,
    schedule: Schedule,
    *,
    warmup_samples: float,
    total_samples: float,
    cooldown_samples: float = 0,
) -> float:
    """The factor of the peak learning rate after `samples_seen` samples.

    It rises from 0 to 1 over `warmup_samples`. After them "cosine" is half a cosine and "linear" a line, both down to 0
    at `total_samples`; "constant" stays at 1, "rsqrt" is sqrt(warmup / samples seen) (Zhai et al. 2022, "Scaling Vision
    Transformers"), and both fall in a line to 0 over the last `cooldown_samples`. Without an end (total_samples
    infinite) cosine and linear stay at 1.
    """
    if samples_seen < warmup_samples:
        return samples_seen / warmup_samples
    if schedule in ("constant", "rsqrt"):
        factor = 1.0 if schedule == "constant" else math.sqrt(warmup_samples / max(samples_seen, warmup_samples, 1))
        remaining = max(total_samples - samples_seen, 0)
        return factor * remaining / cooldown_samples if remaining < cooldown_samples else factor
    if math.isinf(total_samples):
        return 1.0
    progress = min((samples_seen - warmup_samples) / max(total_samples - warmup_samples, 1), 1.0)
    return 1 - progress if schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
