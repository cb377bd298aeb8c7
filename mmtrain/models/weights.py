"""Weights of models, compared and averaged."""

from collections.abc import Sequence

from torch import Tensor

from mmtrain.towers.transformers_weights import POSITIONS

State = dict[str, Tensor]


def first_difference(one: State, other: State) -> str | None:
    """The first parameter that only one of two models has, or that has another shape; None where all are alike.

    Buffers of positions do not count: only some versions of transformers store them.
    """
    for name in [*one, *other]:
        shapes = [state[name].shape if name in state else None for state in (one, other)]
        if shapes[0] != shapes[1] and not name.endswith(POSITIONS):
            return name
    return None


def shape_of(name: str, state: State) -> str:
    return str(list(state[name].shape)) if name in state else "not there"


def mean_of(states: Sequence[State], weights: Sequence[float]) -> State:
    """The mean of the weights of models of one kind, weighted by `weights` over their sum.

    Raises ValueError when the models differ in a parameter, naming it.
    """
    first, total = states[0], sum(weights)
    for number, state in enumerate(states[1:], start=2):
        if name := first_difference(first, state):
            raise ValueError(f"models 1 and {number} differ in {name}; only models of one kind have an average")
    mean = dict(first)
    for name, value in first.items():
        if value.is_floating_point():
            # in float64, so that two equal models give the same weights again
            parts = [state[name].double() * (weight / total) for state, weight in zip(states, weights, strict=True)]
            mean[name] = sum(parts[1:], parts[0]).to(value.dtype)
    return mean
