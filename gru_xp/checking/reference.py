"""The GRU in float64, one scalar at a time: an oracle that shares no code with the package.

It follows the equations literally and is slow. Gradients are computed by the complex-step
derivative (Squire and Trapp, "Using Complex Variables to Estimate Derivatives of Real Functions",
SIAM Review 40, 1998): the imaginary part of ``L(v + i * 1e-20)`` divided by 1e-20 is ``dL/dv`` to
the last digits. The reference therefore contains no formulas of a backward pass.
"""

from __future__ import annotations

import cmath
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

HostArray = np.ndarray[Any, Any]

_STEP = 1e-20


def states(
    weights: Mapping[str, HostArray],
    x: HostArray,
    h0: HostArray,
    *,
    lengths: Sequence[int] | None = None,
    reverse: bool = False,
    reset_after: bool = True,
) -> HostArray:
    """Return the state after each step, (T, N, H).

    Parameters
    ----------
    weights : mapping
        ``weight_ih`` (3H, I), ``weight_hh`` (3H, H), and either both or none of ``bias_ih`` and
        ``bias_hh`` (3H,).
    x : array, (T, N, I)
        Input.
    h0 : array, (N, H)
        Initial state.
    lengths : sequence of int, optional
        Number of steps of each row without padding. In padding the state passes through unchanged.
    reverse : bool
        Run from the last step to the first.
    reset_after : bool
        Whether the reset gate is applied after the recurrent product or, if False, before it.
    """
    return _complex_states(weights, x, h0, lengths, reverse, reset_after).real


def gradients(
    weights: Mapping[str, HostArray],
    x: HostArray,
    h0: HostArray,
    dh: HostArray,
    dh_last: HostArray | None = None,
    *,
    lengths: Sequence[int] | None = None,
    reverse: bool = False,
    reset_after: bool = True,
) -> dict[str, HostArray]:
    """Return the gradients of ``sum(dh * states) + sum(dh_last * last state)``.

    Parameters
    ----------
    weights, x, h0, lengths, reverse, reset_after
        As in `states`.
    dh : array, (T, N, H)
        Gradient with respect to the states.
    dh_last : array, (N, H), optional
        Gradient with respect to the last state, in addition to that in `dh`.

    Returns
    -------
    dict of array
        Gradients by the names of `weights`, and by "x" and "h0".
    """
    arrays = {name: np.array(array, dtype=complex) for name, array in weights.items()}
    arrays |= {"x": np.array(x, dtype=complex), "h0": np.array(h0, dtype=complex)}
    result = {}
    for name, array in arrays.items():
        gradient = np.empty(array.shape)
        for index in np.ndindex(array.shape):
            value = array[index]
            array[index] = value + 1j * _STEP
            packed = {key: arrays[key] for key in weights}
            h = _complex_states(packed, arrays["x"], arrays["h0"], lengths, reverse, reset_after)
            loss = np.sum(dh * h)
            if dh_last is not None:
                loss += np.sum(dh_last * h[0 if reverse else -1])
            gradient[index] = loss.imag / _STEP
            array[index] = value
        result[name] = gradient
    return result


def _complex_states(
    weights: Mapping[str, HostArray],
    x: HostArray,
    h0: HostArray,
    lengths: Sequence[int] | None,
    reverse: bool,
    reset_after: bool,
) -> HostArray:
    steps, rows, _ = x.shape
    numbers = {name: array.tolist() for name, array in weights.items()}
    inputs, state = x.tolist(), h0.tolist()
    result = np.zeros((steps, *h0.shape), dtype=complex)
    for t in reversed(range(steps)) if reverse else range(steps):
        for row in range(rows):
            if lengths is None or t < lengths[row]:
                state[row] = _next_state(numbers, inputs[t][row], state[row], reset_after)
            result[t, row] = state[row]
    return result


def _next_state(
    weights: Mapping[str, Any], x: list[complex], h: list[complex], reset_after: bool
) -> list[complex]:
    size = len(h)

    def of_input(gate: int, unit: int) -> complex:
        return _affine(weights["weight_ih"], weights.get("bias_ih"), gate * size + unit, x)

    def of_state(gate: int, unit: int, state: list[complex]) -> complex:
        return _affine(weights["weight_hh"], weights.get("bias_hh"), gate * size + unit, state)

    r = [_sigmoid(of_input(0, unit) + of_state(0, unit, h)) for unit in range(size)]
    z = [_sigmoid(of_input(1, unit) + of_state(1, unit, h)) for unit in range(size)]
    if reset_after:
        recurrent = [r[unit] * of_state(2, unit, h) for unit in range(size)]
    else:
        scaled = [r[unit] * h[unit] for unit in range(size)]
        recurrent = [of_state(2, unit, scaled) for unit in range(size)]
    n = [cmath.tanh(of_input(2, unit) + recurrent[unit]) for unit in range(size)]
    return [(1 - z[unit]) * n[unit] + z[unit] * h[unit] for unit in range(size)]


def _affine(matrix: Any, bias: Any, row: int, vector: list[complex]) -> complex:
    total = sum((a * b for a, b in zip(matrix[row], vector, strict=True)), start=0j)
    return total if bias is None else total + complex(bias[row])


def _sigmoid(value: complex) -> complex:
    return 1 / (1 + cmath.exp(-value))
