"""Checks whether the array libraries on this machine compute a GRU correctly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import numpy as np

from gru_xp.arrays import devices, libraries, transfer
from gru_xp.arrays.libraries import BackendError
from gru_xp.arrays.place import Place
from gru_xp.arrays.typing import Array
from gru_xp.checking import reference
from gru_xp.core import sequence
from gru_xp.core.accelerators import find, use_accelerators
from gru_xp.core.loop import Loop
from gru_xp.core.parameters import GRUParams, shapes

_STEPS, _ROWS, _INPUT, _HIDDEN = 4, 3, 5, 4
_LENGTHS = (4, 0, 2)
_DTYPES = ("float32", "float64")


class CheckResult(NamedTuple):
    """Largest errors of one backend, device, dtype and path against the float64 reference."""

    backend: str
    device: str
    dtype: str
    path: str
    """"portable", or the accelerator's name."""
    forward_error: float
    """Largest absolute error of a state. States do not exceed 1 in absolute value."""
    backward_error: float
    """Largest error of a gradient, relative to the largest absolute value of that gradient."""
    tolerance: float
    passed: bool
    message: str
    """The error message, if an exception was raised."""


class _Case(NamedTuple):
    weights: dict[str, np.ndarray[Any, Any]]
    x: np.ndarray[Any, Any]
    h0: np.ndarray[Any, Any]
    dh: np.ndarray[Any, Any]
    dh_last: np.ndarray[Any, Any]
    reverse: bool
    states: np.ndarray[Any, Any]
    gradients: dict[str, np.ndarray[Any, Any]]


def check_backends(names: list[str] | None = None) -> list[CheckResult]:
    """Compare forward and backward of backends with `gru_xp.checking.reference`.

    Parameters
    ----------
    names : list of str, optional
        Backends to check. None means all usable backends.

    Returns
    -------
    list of CheckResult
        One result for each backend, device, dtype and path (the portable code, and the accelerator
        if there is one). The input has ragged lengths, and both directions are checked.

    Raises
    ------
    BackendError
        If a requested backend is not usable.
    """
    if names is None:
        names = [name for name in libraries.NAMESPACES if not libraries.unusable(name)]
    for name in names:
        libraries.namespace(name)
    cases = [_case(reverse) for reverse in (False, True)]
    return [result for name in names for result in _check(name, cases)]


def _case(reverse: bool) -> _Case:
    rng = np.random.default_rng(20141)
    weights = {
        name: rng.uniform(-0.8, 0.8, shape) for name, shape in shapes(_INPUT, _HIDDEN).items()
    }
    x = rng.normal(size=(_STEPS, _ROWS, _INPUT))
    h0 = rng.uniform(-1, 1, (_ROWS, _HIDDEN))
    dh = rng.normal(size=(_STEPS, _ROWS, _HIDDEN))
    dh_last = rng.normal(size=(_ROWS, _HIDDEN))
    options: dict[str, Any] = {"lengths": _LENGTHS, "reverse": reverse}
    return _Case(
        weights,
        x,
        h0,
        dh,
        dh_last,
        reverse,
        reference.states(weights, x, h0, **options),
        reference.gradients(weights, x, h0, dh, dh_last, **options),
    )


def _check(name: str, cases: list[_Case]) -> Iterator[CheckResult]:
    found = find(name)
    for device in devices.devices(name):
        for dtype in _DTYPES:
            try:
                place = Place.named(name, device, dtype)
            except BackendError:
                continue  # float64 may be disabled in the library, or not supported by the device
            for path in ("portable", *([found.reason] if found.module else [])):
                with use_accelerators(path != "portable"), _full_precision(name):
                    yield _compare(cases, place, dtype=dtype, path=path)


def _compare(cases: list[_Case], place: Place, /, *, dtype: str, path: str) -> CheckResult:
    tolerance = 64 * float(np.finfo(dtype).eps)
    forward_error = backward_error = float("nan")
    message = ""
    try:
        with place.current():
            errors = [_errors(case, place) for case in cases]
        forward_error, backward_error = (max(kind) for kind in zip(*errors, strict=True))
    except Exception as error:  # a broken library or driver may raise any exception
        message = f"{type(error).__name__}: {error}"
    # NaN also fails these comparisons.
    passed = forward_error <= tolerance and backward_error <= tolerance
    return CheckResult(
        place.library,
        devices.device_name(place.device),
        dtype,
        path,
        forward_error,
        backward_error,
        tolerance,
        passed,
        message,
    )


def _errors(case: _Case, place: Place) -> tuple[float, float]:
    def array(host: np.ndarray[Any, Any]) -> Array:
        return transfer.from_numpy(host, place)

    params = GRUParams(**{name: array(host) for name, host in case.weights.items()})
    x = array(case.x)
    integer = place.xp.int64 if place.dtype == place.xp.float64 else place.xp.int32
    lengths = transfer.from_numpy(np.asarray(_LENGTHS), place._replace(dtype=integer))
    loop = Loop(lengths=lengths, reverse=case.reverse)
    h, tape = sequence.forward(params, x, array(case.h0), loop, keep_tape=True, place=place)
    assert tape is not None
    dparams, dx, dh0 = sequence.backward(
        params, x, tape, array(case.dh), array(case.dh_last), loop, place=place
    )
    forward_error = float(np.max(np.abs(transfer.to_numpy(h) - case.states)))
    got = {**dparams.named(), "x": dx, "h0": dh0}
    backward_error = max(
        float(np.max(np.abs(transfer.to_numpy(got[name]) - wanted)) / np.max(np.abs(wanted)))
        for name, wanted in case.gradients.items()
    )
    return forward_error, backward_error


def _full_precision(name: str) -> AbstractContextManager[Any]:
    """Keep JAX from multiplying float32 matrices in TF32, which is its default on a GPU."""
    if name != "jax":
        return nullcontext()
    import jax

    context: AbstractContextManager[Any] = jax.default_matmul_precision("highest")
    return context
