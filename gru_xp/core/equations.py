"""One step of the gated recurrent unit and its derivative.

This is the only Python implementation of the equations::

    r_t = sigmoid(W_rx x_t + b_rx + W_rh h_{t-1} + b_rh)           reset gate
    z_t = sigmoid(W_zx x_t + b_zx + W_zh h_{t-1} + b_zh)           update gate
    n_t = tanh   (W_nx x_t + b_nx + r_t * (W_nh h_{t-1} + b_nh))   candidate (new gate)
    h_t = (1 - z_t) * n_t + z_t * h_{t-1}                          hidden state

This form, with the reset gate after the product, is used by ``torch.nn.GRUCell``, cuDNN, Keras with
``reset_after=True`` and ONNX with ``linear_before_reset=1``. The GRU was introduced by Cho et al.,
"Learning Phrase Representations using RNN Encoder-Decoder for Statistical Machine Translation"
(2014), with the reset gate before the product, as in `step_reset_before`. In both forms z weighs
the old state.

All functions take and return arrays of one namespace, dtype and device, with any number of leading
axes. They check nothing, because the public functions have checked their arguments.
"""

from __future__ import annotations

from typing import NamedTuple

from gru_xp.arrays.typing import Array, Namespace


class Gates(NamedTuple):
    """Intermediate values of a step, each of shape (..., H), which its backward needs."""

    r: Array
    z: Array
    n: Array
    gh_n: Array | None
    """``W_nh h_{t-1} + b_nh``, which the reset gate scales; None for `step_reset_before`."""


def sigmoid(x: Array, /, *, xp: Namespace) -> Array:
    """Return the logistic function ``1 / (1 + exp(-x))``, computed by tanh, which cannot overflow.

    The absolute error is 6e-8 in float32. For large negative x the relative error is large, but it
    does not affect the hidden state.
    """
    return 0.5 * xp.tanh(0.5 * x) + 0.5


def step(
    gx: Array, gh: Array, b_hn: Array | None, h: Array, /, *, xp: Namespace
) -> tuple[Array, Gates]:
    """Return the next hidden state and the gates.

    Parameters
    ----------
    gx : array, (..., 3H)
        ``W_x x_t`` plus all biases except ``b_nh``, with the gates in the order r, z, n.
    gh : array, (..., 3H)
        ``W_h h_{t-1}``.
    b_hn : array, (H,), or None
        The bias ``b_nh``, which the reset gate scales.
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
    """Return the next hidden state and the gates, with the reset gate before the product.

    The third equation above is replaced by::

        n_t = tanh(W_nx x_t + b_nx + W_nh (r_t * h_{t-1}) + b_nh)

    This is the form of Cho et al. (2014), of Keras with ``reset_after=False`` and of ONNX with
    ``linear_before_reset=0``. `gx` (..., 3H) contains all biases; `weight_hh` has shape (3H, H).
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
    """Return ``dh_t/dr_t``, ``dh_t/dz_t`` and ``dh_t/dn_t``, where h is ``h_{t-1}``."""
    n_slope = 1 - gates.z
    return GateSlopes(
        r=n_slope * _tanh_slope(gates.n) * gates.gh_n,
        z=h - gates.n,
        n=n_slope,
    )


class Slopes(NamedTuple):
    """Derivatives of ``h_t`` with respect to the inputs of the gates, elementwise, (..., H).

    The gates act on each hidden unit separately. Apart from the product with W_hh, the derivative
    of a step is therefore a multiplication by these values.
    """

    gx_r: Array
    gx_z: Array
    gx_n: Array
    gh_n: Array
    """For r and z, the derivatives with respect to gx and gh are equal. For n, that with respect to
    gh is r times that with respect to gx."""


def slopes(h: Array, gates: Gates, /) -> Slopes:
    """Return derivatives of ``h_t`` with respect to the gates' inputs, where h is ``h_{t-1}``."""
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
    # (1 - n)(1 + n) is accurate for n close to 1, where 1 - n*n suffers from cancellation.
    return (1 - value) * (1 + value)


class ResetBeforeSlopes(NamedTuple):
    """Derivatives for `step_reset_before`, elementwise, (..., H).

    r affects ``h_t`` only through the product ``W_nh (r * h_{t-1})``. The first derivative is that
    of the argument of this product; the others are those of ``h_t``.
    """

    rh_r: Array
    """Derivative of ``r * h_{t-1}`` with respect to the reset gate's input."""
    gx_z: Array
    gx_n: Array


def slopes_reset_before(h: Array, gates: Gates, /) -> ResetBeforeSlopes:
    """Return the derivatives for `step_reset_before`, where h is ``h_{t-1}``."""
    return ResetBeforeSlopes(
        rh_r=h * _sigmoid_slope(gates.r),
        gx_z=(h - gates.n) * _sigmoid_slope(gates.z),
        gx_n=(1 - gates.z) * _tanh_slope(gates.n),
    )


class GateGradients(NamedTuple):
    """Gradients with respect to the gates themselves (not their inputs), (..., H)."""

    r: Array
    z: Array
    n: Array


def gate_gradients(dh: Array, h: Array, gates: Gates, /) -> GateGradients:
    """Return gradients for `step`; dh is the gradient with respect to ``h_t``, h is ``h_{t-1}``."""
    return GateGradients(*(dh * slope for slope in gate_slopes(h, gates)))


def gate_gradients_reset_before(
    dh: Array, h: Array, gates: Gates, weight_hn: Array, /, *, xp: Namespace
) -> GateGradients:
    """Return gradients for `step_reset_before`; `weight_hn` (H, H) is ``W_nh``."""
    drh = xp.matmul(dh * slopes_reset_before(h, gates).gx_n, weight_hn)
    return GateGradients(r=drh * h, z=dh * (h - gates.n), n=dh * (1 - gates.z))
