"""The check of a machine: right backends pass, wrong numbers are seen."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import gru_xp
from gru_xp.arrays import devices
from gru_xp.checking import CheckResult, check_backends, reference
from gru_xp.core import accelerators, equations, recurrence, sequence
from gru_xp.core.parameters import shapes
from gru_xp.functional import GRUParams, gru_cell, gru_cell_backward
from tests.library import Library
from tests.native import PORTABLE


def test_a_backend_passes_on_every_device_dtype_and_path(lib: Library) -> None:
    results = check_backends([lib.name])
    assert all(each.passed for each in results), results
    assert {each.device for each in results} == {
        devices.device_name(d) for d in devices.devices(lib.name)
    }
    assert {each.dtype for each in results} == {"float32", "float64"}
    paths = {"portable"}
    if lib.name == "jax" or accelerators.find(lib.name).module:  # NumPy's needs a compiler
        paths.add(accelerators.find(lib.name).reason.partition(" ")[0])
    assert {each.path.partition(" ")[0] for each in results} == paths
    for each in results:
        assert 0 < each.forward_error < each.tolerance  # rounding: an exact zero compares nothing
        assert 0 < each.backward_error < each.tolerance


def checked_portable() -> list[CheckResult]:
    """Check NumPy; its accelerator must pass, as what was broken is the portable path alone."""
    results = check_backends(["numpy"])
    assert all(each.passed for each in results if each.path != "portable"), results
    return [each for each in results if each.path == "portable"]


def test_a_wrong_equation_fails_forward_and_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(equations, "sigmoid", lambda x, *, xp: 0.5 * xp.tanh(0.4 * x) + 0.5)
    results = checked_portable()
    assert len(results) == 2  # a dtype each
    for each in results:
        assert not each.passed
        assert each.forward_error > each.tolerance
        assert each.backward_error > each.tolerance


def test_a_wrong_adjoint_fails_backward_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(equations, "_tanh_slope", lambda value: 1 - value)
    results = checked_portable()
    assert len(results) == 2
    for each in results:
        assert not each.passed
        assert each.forward_error <= each.tolerance < each.backward_error


def test_a_wrong_accelerator_fails_on_its_own_path_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(*arguments: Any, **options: Any) -> Any:
        h, tape = PORTABLE.forward(*arguments, **options)
        return h * 1.001, tape

    module = SimpleNamespace(
        forward=forward, backward=PORTABLE.backward, OPTIONS=frozenset({"lengths", "reverse"})
    )
    found = accelerators.Found(module, "wrong")  # type: ignore[arg-type]
    monkeypatch.setitem(accelerators._found, "numpy", found)
    results = check_backends(["numpy"])
    assert {each.path: each.passed for each in results} == {"portable": True, "wrong": False}
    for each in results:
        assert each.backward_error <= each.tolerance


def test_a_backend_that_raises_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any, **options: Any) -> Any:
        raise MemoryError("out of device memory")

    monkeypatch.setattr(sequence, "forward", broken)  # both paths
    for each in check_backends(["numpy"]):
        assert not each.passed
        assert each.message == "MemoryError: out of device memory"


def test_a_backend_that_gives_nan_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    right = recurrence.forward  # which both paths go through

    def forward(*arguments: Any, **options: Any) -> Any:
        h, tape = right(*arguments, **options)
        return h * float("nan"), tape

    monkeypatch.setattr(recurrence, "forward", forward)
    assert not any(each.passed for each in check_backends(["numpy"]))


def test_a_backend_that_is_not_here_is_an_error() -> None:
    with pytest.raises(gru_xp.BackendError, match="unknown backend"):
        check_backends(["nonesuch"])


def test_the_switch_is_back_where_it_was() -> None:
    with gru_xp.use_accelerators(False):
        check_backends(["numpy"])
        assert not accelerators.are_on()


class TestReference:
    """The oracle itself, against what its formulas say by hand and by finite differences."""

    def test_one_unit_by_hand(self) -> None:
        weights = {
            "weight_ih": np.array([[0.5], [-0.25], [1.0]]),
            "weight_hh": np.array([[0.1], [0.2], [0.3]]),
            "bias_ih": np.array([0.01, 0.02, 0.03]),
            "bias_hh": np.array([0.04, 0.05, 0.06]),
        }
        r = 1 / (1 + np.exp(-(0.5 * 2 + 0.01 + 0.1 * 0.7 + 0.04)))
        z = 1 / (1 + np.exp(-(-0.25 * 2 + 0.02 + 0.2 * 0.7 + 0.05)))
        n = np.tanh(1.0 * 2 + 0.03 + r * (0.3 * 0.7 + 0.06))
        h = reference.states(weights, np.array([[[2.0]]]), np.array([[0.7]]))
        assert h[0, 0, 0] == pytest.approx((1 - z) * n + z * 0.7, abs=1e-15)

    @pytest.mark.parametrize("reverse", [False, True])
    def test_gradients_are_finite_differences(self, reverse: bool) -> None:
        rng = np.random.default_rng(0)
        weights = {name: rng.normal(size=shape) for name, shape in shapes(2, 3).items()}
        x, h0 = rng.normal(size=(4, 2, 2)), rng.normal(size=(2, 3))
        dh, dh_last = rng.normal(size=(4, 2, 3)), rng.normal(size=(2, 3))
        options: dict[str, Any] = {"lengths": [4, 2], "reverse": reverse}

        def loss(weights: Any, x: Any, h0: Any) -> float:
            h = reference.states(weights, x, h0, **options)
            return float(np.sum(dh * h) + np.sum(dh_last * h[0 if reverse else -1]))

        got = reference.gradients(weights, x, h0, dh, dh_last, **options)
        step = 1e-6
        for name, gradient in got.items():
            direction = rng.normal(size=gradient.shape)
            moved = []
            for sign in (1, -1):
                everything = {**weights, "x": x, "h0": h0}
                everything[name] = everything[name] + sign * step * direction
                moved.append(
                    loss({k: everything[k] for k in weights}, everything["x"], everything["h0"])
                )
            slope = (moved[0] - moved[1]) / (2 * step)
            assert np.sum(gradient * direction) == pytest.approx(slope, rel=1e-7, abs=1e-8)

    def test_inputs_stay_as_they_were(self) -> None:
        params = GRUParams(np.ones((3, 1)), np.ones((3, 1)))
        x, h, delta = np.ones((1, 1)), np.ones((1, 1)), np.ones((1, 1))
        _, tape = gru_cell(params, x, h)
        gru_cell_backward(params, tape, delta)
        reference.gradients(params.named(), x[None], h, delta[None])
        assert (x == 1).all()
        assert (h == 1).all()
