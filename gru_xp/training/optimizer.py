"""Adam, clipping by the global norm, and the learning rate's schedule.

Weights and gradients are dicts of arrays by name. Every function is pure: it returns new arrays.
Weights of 16 bits are trained as by Micikevicius et al., "Mixed Precision Training" (2018): all
that is computed here is float32, and so are the master weights, which the weights are rounded from.
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

from gru_xp.arrays.dtypes import at_least_float32, cast
from gru_xp.arrays.pieces import in_pieces
from gru_xp.arrays.typing import Array, Namespace

Arrays = dict[str, Array]


class AdamState(NamedTuple):
    """What Adam remembers from step to step."""

    mean: Arrays
    """Running mean of each weight's gradient, in float32 for weights of 16 bits."""
    square: Arrays
    """Running mean of its square, of the same dtype."""
    masters: Arrays
    """Each weight of 16 bits in float32, so that updates too small for 16 bits still add up.

    Others have none: they are their own.
    """
    steps: int
    """Number of updates made."""


def adam_start(params: Arrays, /, *, xp: Namespace) -> AdamState:
    """State before the first update: zeros, and the masters of these weights."""
    wide = {name: at_least_float32(param, xp=xp) for name, param in params.items()}
    return AdamState(
        mean={name: xp.zeros_like(array) for name, array in wide.items()},
        square={name: xp.zeros_like(array) for name, array in wide.items()},
        masters={name: array for name, array in wide.items() if array.dtype != params[name].dtype},
        steps=0,
    )


def adam(
    params: Arrays,
    gradients: Arrays,
    state: AdamState,
    /,
    *,
    learning_rate: float,
    scale: Array | float = 1.0,
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.999),
    epsilon: float = 1e-8,
    xp: Namespace,
) -> tuple[Arrays, AdamState]:
    """One update by Adam, with the bias correction: algorithm 1 of Kingma and Ba (2015).

    With weight decay it is AdamW, algorithm 2 of Loshchilov and Hutter (2019).

    Parameters
    ----------
    params, gradients : dict of arrays
        Of the same names and shapes. Of a parameter of 16 bits only the dtype counts, its value
        is the master's; its gradient may be float32.
    state : AdamState
        Of the update before, or `adam_start`.
    learning_rate : float
    scale : float or array, ()
        What the gradients are multiplied by, as `clipping_scale` gives it.
    weight_decay : float
        Share of each weight, times the learning rate, that is taken away; past the running means.
        Biases, all arrays of one axis, keep theirs.
    betas : tuple of two floats
        Decay rates of the running means of the gradient and of its square.
    epsilon : float
        Added to the root of the mean square, against division by zero.

    Returns
    -------
    params : dict of arrays
        Of the dtypes given.
    state : AdamState
    """
    decay_mean, decay_square = betas
    steps = state.steps + 1
    step_size = learning_rate / (1 - decay_mean**steps)
    square_scale = 1 / math.sqrt(1 - decay_square**steps)
    of_gradient = (1 - decay_mean) * scale
    of_square = (1 - decay_square) * (scale * scale)

    def updated(
        weight: Array, gradient: Array, mean: Array, square: Array, kept: float
    ) -> tuple[Array, Array, Array]:
        mean = decay_mean * mean + of_gradient * gradient
        square = decay_square * square + of_square * (gradient * gradient)
        update = mean / (xp.sqrt(square) * square_scale + epsilon)
        return kept * weight - step_size * update, mean, square

    fresh, means, squares, masters = {}, {}, {}, {}
    for name in gradients:
        weight = state.masters[name] if name in state.masters else params[name]
        kept = 1 - learning_rate * weight_decay if weight.ndim > 1 else 1.0
        weight, means[name], squares[name] = in_pieces(
            partial(updated, kept=kept),
            weight,
            at_least_float32(gradients[name], xp=xp),
            state.mean[name],
            state.square[name],
            xp=xp,
        )
        if name in state.masters:
            masters[name] = weight
        fresh[name] = cast(weight, params[name].dtype, xp=xp)
    return fresh, AdamState(means, squares, masters, steps)


def global_norm(gradients: Arrays, /, *, xp: Namespace) -> Array:
    """Root of the sum of all squares, (); in float32 for 16 bits, where such sums overflow.

    It is finite only if every gradient is.
    """
    wide = [at_least_float32(gradient, xp=xp) for gradient in gradients.values()]
    return xp.sqrt(xp.sum(xp.stack([xp.sum(xp.vecdot(array, array)) for array in wide])))


def clipping_scale(norm: Array, max_norm: float, /, *, xp: Namespace) -> Array:
    """Scale ``min(1, max_norm / norm)``, (), by which clipping multiplies all gradients.

    Parameters
    ----------
    norm : array, ()
        Their `global_norm`.
    max_norm : float
    """
    # The small constant is torch's, and keeps a norm of zero from dividing.
    return xp.clip(max_norm / (norm + 1e-6), 0.0, 1.0)


def cosine_learning_rate(step: int, /, *, steps: int, warm_up: int, peak: float) -> float:
    """Learning rate of update `step`, counted from 0: half a cosine from `peak` down to 0.

    Over the first `warm_up` updates it rises in equal parts instead, while Adam's running means
    are still of few gradients.
    """
    rising = min(1.0, (step + 1) / (warm_up + 1))
    return peak * rising * 0.5 * (1 + math.cos(math.pi * step / steps))
