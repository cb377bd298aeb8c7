"""What every loss asks of its arguments, and the precision it works in."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, get_args

import torch
from torch import Tensor

T = TypeVar("T")


def full_precision(loss: Callable[..., T]) -> Callable[..., T]:
    """Switches autocast off inside a loss, on the device of its first argument that is a tensor or a list of them."""

    @wraps(loss)
    def without_autocast(*args: Any, **kwargs: Any) -> T:
        firsts = (each[0] if isinstance(each, list) and each else each for each in (*args, *kwargs.values()))
        device = next((each.device.type for each in firsts if isinstance(each, Tensor)), "cpu")
        with torch.autocast(device, enabled=False):
            return loss(*args, **kwargs)

    return without_autocast


def working_precision(*tensors: Tensor) -> list[Tensor]:
    """All tensors in float64 if one of them is, else in float32."""
    double = any(tensor.dtype == torch.float64 for tensor in tensors)
    return [tensor.to(torch.float64 if double else torch.float32) for tensor in tensors]


def check_captions(
    image: Tensor,
    texts: Tensor,
    present: Tensor | None = None,
    image_ids: Tensor | None = None,
    text_ids: Tensor | None = None,
    languages: Tensor | None = None,
) -> None:
    """image [B, D], texts [B, K, D], present bool [B, K], image_ids int64 [B], languages int64 [B, K], text_ids
    int64 [B, K], or [B] where all captions of a row have one.

    Raises:
        ValueError: naming the argument whose shape or type differs.
    """
    check_rows("image", image)
    B, D = image.shape
    if texts.dim() != 3 or texts.shape[0] != B or texts.shape[2] != D or texts.shape[1] == 0:
        raise ValueError(f"texts: got shape {list(texts.shape)}, expected [{B}, K, {D}] with K at least 1")
    K = texts.shape[1]
    check_mask("present", present, (B, K))
    check_integers("image_ids", image_ids, (B,))
    check_integers("text_ids", text_ids, (B,) if text_ids is not None and text_ids.dim() == 1 else (B, K))
    check_integers("languages", languages, (B, K))


def check_rows(name: str, rows: Tensor, like: Tensor | None = None) -> None:
    """Rows [B, D] of numbers, of the shape of others where these are given."""
    expected = "[B, D] with B and D at least 1" if like is None else str(list(like.shape))
    if rows.dim() != 2 or 0 in rows.shape or (like is not None and rows.shape != like.shape):
        raise ValueError(f"{name}: got shape {list(rows.shape)}, expected {expected}")


def check_finite(name: str, values: Tensor) -> None:
    if not values.isfinite().all():
        raise ValueError(f"{name}: got {values[~values.isfinite()][0].item()}, expected finite numbers")


def check_mask(name: str, mask: Tensor | None, shape: tuple[int, ...]) -> None:
    if mask is not None and (mask.dtype != torch.bool or tuple(mask.shape) != shape):
        raise ValueError(f"{name}: got {mask.dtype} {list(mask.shape)}, expected torch.bool {list(shape)}")


def check_integers(name: str, values: Tensor | None, shape: tuple[int, ...]) -> None:
    if values is not None and (values.dtype != torch.int64 or tuple(values.shape) != shape):
        raise ValueError(f"{name}: got {values.dtype} {list(values.shape)}, expected torch.int64 {list(shape)}")


def one_number(name: str, value: Tensor | float, like: Tensor) -> Tensor:
    """The number as a 0-d tensor on the device and in the type of `like`. Raises ValueError for several numbers."""
    tensor = torch.as_tensor(value, device=like.device)
    if tensor.numel() != 1:
        raise ValueError(f"{name}: got shape {list(tensor.shape)}, expected one number")
    return tensor.reshape(()).to(like.dtype)


def positive_scale(scale: Tensor | float, like: Tensor) -> Tensor:
    """The multiplier as a 0-d tensor beside `like`. Raises ValueError when it is not one positive number."""
    tensor = one_number("scale", scale, like)
    if not tensor.detach() > 0:
        raise ValueError(
            f"scale: got {tensor.item():.6g}, expected a positive number (the exponential, not its logarithm)"
        )
    return tensor


def choice(name: str, value: str, choices: object) -> None:
    """Raises ValueError unless `value` is one of a Literal's."""
    if value not in get_args(choices):
        raise ValueError(f"{name}: got {value!r}, expected one of {', '.join(get_args(choices))}")
