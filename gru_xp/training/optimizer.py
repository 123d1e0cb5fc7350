"""Adam, clipping by the global norm, and the schedule of the learning rate.

Weights and gradients are dicts of arrays by name. Every function is pure and returns new arrays.
`xp` is the Array API namespace of the arrays, such as ``numpy``.

16-bit weights are trained as in Micikevicius et al., "Mixed Precision Training" (2018): the
computation and the master weights are float32, and the weights are rounded from the master weights.
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
    """The state of Adam between steps."""

    mean: Arrays
    """Running mean of each weight's gradient; float32 for 16-bit weights."""
    square: Arrays
    """Running mean of the squared gradient, in the same dtype as `mean`."""
    masters: Arrays
    """Float32 copies of the 16-bit weights, in which updates too small for 16 bits accumulate.

    Weights of other dtypes have no entry.
    """
    steps: int
    """Number of updates made."""


def adam_start(params: Arrays, /, *, xp: Namespace) -> AdamState:
    """Return the state before the first update: zero means, and the masters of these weights."""
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
    """Perform one update of Adam with bias correction: algorithm 1 of Kingma and Ba (2015).

    With weight decay it is AdamW, algorithm 2 of Loshchilov and Hutter (2019).

    Parameters
    ----------
    params, gradients : dict of arrays
        Weights and gradients with the same names and shapes. For a 16-bit weight, the value is
        taken from its master, and the gradient may be float32.
    state : AdamState
        State returned by the previous update or by `adam_start`.
    learning_rate : float
        Learning rate of this update.
    scale : float or array, ()
        Factor of the gradients, such as the result of `clipping_scale`.
    weight_decay : float
        Each weight is reduced by this fraction times the learning rate, independently of the
        running means. Biases (1-D arrays) are not decayed.
    betas : tuple of two floats
        Decay rates of the running means of the gradient and of its square.
    epsilon : float
        Added to the root of the mean square to avoid division by zero.

    Returns
    -------
    params : dict of arrays
        New weights, in the dtypes of `params`.
    state : AdamState
        State for the next update.
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
    """Return the root of the sum of all squares, (). It is finite only if every gradient is.

    It is computed in float32 for 16-bit gradients, since such sums overflow in float16.
    """
    wide = [at_least_float32(gradient, xp=xp) for gradient in gradients.values()]
    return xp.sqrt(xp.sum(xp.stack([xp.sum(xp.vecdot(array, array)) for array in wide])))


def clipping_scale(norm: Array, max_norm: float, /, *, xp: Namespace) -> Array:
    """Return ``min(1, max_norm / norm)``, (), the factor by which clipping scales all gradients.

    Parameters
    ----------
    norm : array, ()
        The `global_norm` of the gradients.
    max_norm : float
        Maximum norm after clipping.
    """
    # The constant, taken from torch, avoids division by a norm of zero.
    return xp.clip(max_norm / (norm + 1e-6), 0.0, 1.0)


def cosine_learning_rate(step: int, /, *, steps: int, warm_up: int, peak: float) -> float:
    """Return the learning rate of update `step`, counted from 0: half a cosine from `peak` to 0.

    During the first `warm_up` updates it is also multiplied by a factor that rises linearly to 1,
    because Adam's running means are still based on few gradients.
    """
    rising = min(1.0, (step + 1) / (warm_up + 1))
    return peak * rising * 0.5 * (1 + math.cos(math.pi * step / steps))
