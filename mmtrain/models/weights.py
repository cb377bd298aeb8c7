"""Weights of several models as one."""

from collections.abc import Sequence

from torch import Tensor


def mean_of(states: Sequence[dict[str, Tensor]], weights: Sequence[float]) -> dict[str, Tensor]:
    """The mean of the weights of models of one kind, weighted by `weights` over their sum.

    Raises ValueError when the models differ in a parameter, naming it.
    """
    first, total = states[0], sum(weights)
    for number, state in enumerate(states[1:], start=2):
        for name in [*first, *state]:
            if name not in first or name not in state or first[name].shape != state[name].shape:
                raise ValueError(f"models 1 and {number} differ in {name}; only models of one kind have an average")
    mean = dict(first)
    for name, value in first.items():
        if value.is_floating_point():
            # in float64, so that two equal models give the same weights again
            parts = [state[name].double() * (weight / total) for state, weight in zip(states, weights, strict=True)]
            mean[name] = sum(parts[1:], parts[0]).to(value.dtype)
    return mean
