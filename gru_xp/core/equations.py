"""One step of the gated recurrent unit and its derivative.

This is the only place where the equations stand in Python::

    r_t = sigmoid(W_rx x_t + b_rx + W_rh h_{t-1} + b_rh)           reset gate
    z_t = sigmoid(W_zx x_t + b_zx + W_zh h_{t-1} + b_zh)           update gate
    n_t = tanh   (W_nx x_t + b_nx + r_t * (W_nh h_{t-1} + b_nh))   candidate (new gate)
    h_t = (1 - z_t) * n_t + z_t * h_{t-1}                          hidden state

This form, with the reset gate after the product, is the one of ``torch.nn.GRUCell``, of cuDNN, of
Keras's ``reset_after=True`` and of ONNX's ``linear_before_reset=1``. The unit is due to Cho et al.,
"Learning Phrase Representations using RNN Encoder-Decoder for Statistical Machine Translation"
(2014), where the reset gate acts before: `step_reset_before`. There as here z weighs the old state.

All functions take and return arrays of one namespace, dtype and device, work on any number of
leading axes, and check nothing: data was checked where it entered.
"""

from __future__ import annotations

from typing import NamedTuple

from gru_xp.arrays.typing import Array, Namespace


class Gates(NamedTuple):
    """What a step computes on its way, each of shape (..., H); its backward needs all four."""

    r: Array
    z: Array
    n: Array
    gh_n: Array | None
    """``W_nh h_{t-1} + b_nh``, which the reset gate scales; None where it acts before."""


def sigmoid(x: Array, /, *, xp: Namespace) -> Array:
    """Logistic function ``1 / (1 + exp(-x))``, as a tanh, which cannot overflow.

    The absolute error is 6e-8 in float32; far below zero the relative error is large, which the
    hidden state never sees.
    """
    return 0.5 * xp.tanh(0.5 * x) + 0.5


def step(
    gx: Array, gh: Array, b_hn: Array | None, h: Array, /, *, xp: Namespace
) -> tuple[Array, Gates]:
    """Next hidden state and gates.

    Parameters
    ----------
    gx : array, (..., 3H)
        ``W_x x_t`` plus every bias but ``b_nh``, gates in the order r, z, n.
    gh : array, (..., 3H)
        ``W_h h_{t-1}``.
    b_hn : array, (H,), or None
        The bias inside the reset gate's bracket.
    h : array, (..., H)
        ``h_{t-1}``.
    """
    size = h.shape[-1]
    r, z = _reset_and_update(gx, gh, size, xp=xp)
    gh_n = gh[..., 2 * size :]
    if b_hn is not None:
        gh_n = gh_n + b_hn
    n = xp.tanh(gx[..., 2 * size :] + r * gh_n)
    return _next_state(z, n, h), Gates(r, z, n, gh_n)


def step_reset_before(
    gx: Array, h: Array, weight_hh: Array, /, *, xp: Namespace
) -> tuple[Array, Gates]:
    """Next hidden state and gates where the reset gate acts before the product.

    In place of the third equation above::

        n_t = tanh(W_nx x_t + b_nx + W_nh (r_t * h_{t-1}) + b_nh)

    which is the form of Cho et al. (2014), of Keras's ``reset_after=False`` and of ONNX's
    ``linear_before_reset=0``. `gx` (..., 3H) holds every bias, `weight_hh` is (3H, H).
    """
    size = h.shape[-1]
    r, z = _reset_and_update(gx, xp.matmul(h, weight_hh[: 2 * size, :].T), size, xp=xp)
    n = xp.tanh(gx[..., 2 * size :] + xp.matmul(r * h, weight_hh[2 * size :, :].T))
    return _next_state(z, n, h), Gates(r, z, n, None)


def _reset_and_update(gx: Array, gh: Array, size: int, /, *, xp: Namespace) -> tuple[Array, Array]:
    rz = sigmoid(gx[..., : 2 * size] + gh[..., : 2 * size], xp=xp)
    return rz[..., :size], rz[..., size:]


def _next_state(z: Array, n: Array, h: Array, /) -> Array:
    return (1 - z) * n + z * h


class GateSlopes(NamedTuple):
    """Derivatives of ``h_t`` with respect to each gate, elementwise, (..., H)."""

    r: Array
    z: Array
    n: Array


def gate_slopes(h: Array, gates: Gates, /) -> GateSlopes:
    """Derivatives ``dh_t/dr_t``, ``dh_t/dz_t`` and ``dh_t/dn_t``, where h is ``h_{t-1}``."""
    n_slope = 1 - gates.z
    return GateSlopes(
        r=n_slope * _tanh_slope(gates.n) * gates.gh_n,
        z=h - gates.n,
        n=n_slope,
    )


class Slopes(NamedTuple):
    """Derivatives of ``h_t`` with respect to what enters the gates, elementwise, (..., H).

    A step's gates act on each hidden unit alone, so that its whole derivative, the product with
    W_hh aside, is a multiplication by these.
    """

    gx_r: Array
    gx_z: Array
    gx_n: Array
    gh_n: Array
    """For r and z the derivatives with respect to gx and gh are equal; for n they differ by r."""


def slopes(h: Array, gates: Gates, /) -> Slopes:
    """Derivatives of ``h_t`` with respect to the gates' inputs, where h is ``h_{t-1}``."""
    of_gates = gate_slopes(h, gates)
    gx_n = of_gates.n * _tanh_slope(gates.n)
    return Slopes(
        gx_r=of_gates.r * _sigmoid_slope(gates.r),
        gx_z=of_gates.z * _sigmoid_slope(gates.z),
        gx_n=gx_n,
        gh_n=gx_n * gates.r,
    )


def _sigmoid_slope(value: Array) -> Array:
    return value * (1 - value)


def _tanh_slope(value: Array) -> Array:
    # (1 - n)(1 + n) keeps the digits that 1 - n*n loses where n is close to 1.
    return (1 - value) * (1 + value)


class ResetBeforeSlopes(NamedTuple):
    """Derivatives where the reset gate acts before the product, elementwise, (..., H).

    There the way to r leads through the product ``W_nh (r * h_{t-1})``: its slope is of that
    product's argument, the others are of ``h_t``.
    """

    rh_r: Array
    """Of ``r * h_{t-1}`` with respect to the reset gate's input."""
    gx_z: Array
    gx_n: Array


def slopes_reset_before(h: Array, gates: Gates, /) -> ResetBeforeSlopes:
    """Derivatives for `step_reset_before`, where h is ``h_{t-1}``."""
    return ResetBeforeSlopes(
        rh_r=h * _sigmoid_slope(gates.r),
        gx_z=(h - gates.n) * _sigmoid_slope(gates.z),
        gx_n=(1 - gates.z) * _tanh_slope(gates.n),
    )


class GateGradients(NamedTuple):
    """Gradients with respect to each gate itself, not its input, (..., H)."""

    r: Array
    z: Array
    n: Array


def gate_gradients(dh: Array, h: Array, gates: Gates, /) -> GateGradients:
    """Gradients for `step`, where dh is that with respect to ``h_t``, and h is ``h_{t-1}``."""
    return GateGradients(*(dh * slope for slope in gate_slopes(h, gates)))


def gate_gradients_reset_before(
    dh: Array, h: Array, gates: Gates, weight_hn: Array, /, *, xp: Namespace
) -> GateGradients:
    """Gradients for `step_reset_before`, with ``W_nh`` (H, H), as the way to r leads through it."""
    drh = xp.matmul(dh * slopes_reset_before(h, gates).gx_n, weight_hn)
    return GateGradients(r=drh * h, z=dh * (h - gates.n), n=dh * (1 - gates.z))
