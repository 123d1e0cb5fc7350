"""Bad input gets one error that says what was expected, what came, and what to do."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import gru_xp
from gru_xp.arrays import dtypes, libraries, transfer
from gru_xp.arrays.place import Place
from tests.library import Library
from tests.test_cell_values import H, I, N, draw, make_cell


def shaped(*shape: int) -> tuple[int, ...]:
    return shape


BAD_SHAPES = {
    "input 3-D": (shaped(1, N, I), None, r"expected input to be 1-D \(5,\) or 2-D .* got 3-D"),
    "input 0-D": (shaped(), None, r"expected input to be 1-D \(5,\) or 2-D .* got 0-D"),
    "input size": (shaped(N, I - 1), None, r"input_size: expected 5, got 4 \(shape \(3, 4\)\)"),
    "input size, unbatched": (shaped(I + 1), None, r"input_size: expected 5, got 6"),
    "hidden size": (shaped(N, I), shaped(N, H + 1), r"hidden_size: expected 4, got 5"),
    "batch": (shaped(N, I), shaped(N - 1, H), r"batch size 3 doesn't match hidden batch size 2"),
    "rank": (shaped(N, I), shaped(H), r"hidden to be 2-D like the input .* got 1-D"),
    "rank, unbatched": (shaped(I), shaped(1, H), r"hidden to be 1-D like the input .* got 2-D"),
    "hidden 3-D": (shaped(N, I), shaped(1, N, H), r"hidden to be 2-D like the input .* got 3-D"),
}


@pytest.mark.parametrize("case", BAD_SHAPES)
def test_shapes_that_do_not_fit_are_named(lib: Library, case: str) -> None:
    x_shape, h_shape, message = BAD_SHAPES[case]
    cell = make_cell(lib)
    x = lib.array(np.zeros(x_shape))
    h = None if h_shape is None else lib.array(np.zeros(h_shape))
    with pytest.raises(ValueError, match=message):
        cell(x, h)


@pytest.mark.parametrize(
    ("x_shape", "delta_shape"),
    [((N, I), (N, H + 1)), ((N, I), (H,)), ((I,), (2, H)), ((N, I), (1, N, H)), ((I,), ())],
)
def test_a_delta_of_another_shape_is_refused_and_changes_nothing(
    lib: Library, x_shape: tuple[int, ...], delta_shape: tuple[int, ...]
) -> None:
    cell = make_cell(lib)
    cell(lib.array(np.zeros(x_shape)))
    with pytest.raises(
        ValueError, match=r"expected delta of shape .*, the shape of the output, got"
    ):
        cell.backward(lib.array(np.zeros(delta_shape)))
    with pytest.raises(RuntimeError, match="no gradients are available"):
        cell.gradients()


@pytest.mark.parametrize("value", [0, -1])
@pytest.mark.parametrize("name", ["input_size", "hidden_size"])
def test_sizes_must_be_greater_than_zero(name: str, value: int) -> None:
    sizes = {"input_size": 3, "hidden_size": 3, name: value}
    with pytest.raises(ValueError, match=f"{name} must be greater than zero, got {value}"):
        gru_xp.GRUCell(**sizes)


@pytest.mark.parametrize("value", [2.5, "3", None, True])
def test_sizes_must_be_integers(value: Any) -> None:
    with pytest.raises(TypeError, match=r"hidden_size must be an integer, got"):
        gru_xp.GRUCell(3, value)


def test_a_numpy_integer_is_a_size() -> None:
    assert gru_xp.GRUCell(np.int64(3), np.int32(2)).hidden_size == 2


@pytest.mark.parametrize("value", [[[0.0] * I], 1.0, "text", np.float64(1)])
def test_what_is_no_array_is_refused_with_the_remedy(lib: Library, value: Any) -> None:
    cell = make_cell(lib)
    with pytest.raises(
        TypeError, match=rf"expected input to be an array of {lib.name}.*\. Convert it with"
    ):
        cell(value)


def test_arrays_of_another_library_are_refused_naming_both_and_the_remedy(lib: Library) -> None:
    other = "array_api_strict" if lib.name != "array_api_strict" else "numpy"
    foreign = transfer.from_numpy(np.zeros((N, I)), Place.named(other, dtype="float64"))
    cell = make_cell(lib)
    for call in (lambda: cell(foreign), lambda: cell(lib.array(np.zeros((N, I))), foreign)):
        with pytest.raises(
            TypeError, match=rf"array of {lib.name}, like the weights, got an array of {other}"
        ):
            call()
    with pytest.raises(TypeError, match=rf"\.to\(backend='{other}'\)"):
        cell(foreign)
    cell(lib.array(np.zeros((N, I))))
    with pytest.raises(TypeError, match=rf"expected delta .* got an array of {other}"):
        cell.backward(foreign)


def test_arrays_on_another_device_are_refused_naming_both(lib: Library) -> None:
    if lib.other_device == lib.device:
        pytest.skip(f"{lib.name} has one device here")
    cell = make_cell(lib)
    x = lib.moved(lib.array(np.zeros((N, I))))
    with pytest.raises(
        ValueError, match=r"expected input on device .*, like the weights, got .*\. Move input"
    ):
        cell(x)
    with pytest.raises(ValueError, match=r"device .*\. Move it first"):
        cell.Wrx = lib.moved(lib.array(np.zeros((H, I))))


def test_complex_numbers_are_refused(lib: Library) -> None:
    cell = make_cell(lib)
    with pytest.raises(TypeError, match="real floating or integer dtype"):
        cell(lib.xp.astype(lib.array(np.zeros((N, I))), lib.xp.complex128))


@pytest.mark.parametrize("dtype", ["int32", "complex64", "bool", "nonesuch", 7])
def test_a_cell_of_no_floating_dtype_is_refused(lib: Library, dtype: Any) -> None:
    with pytest.raises(TypeError, match="expected a real floating dtype"):
        gru_xp.GRUCell(I, H, backend=lib.name, dtype=dtype)


def test_a_dtype_that_the_library_has_not_is_refused() -> None:
    with pytest.raises(gru_xp.BackendError, match="numpy has no dtype bfloat16"):
        gru_xp.GRUCell(I, H, dtype="bfloat16")


def test_bfloat16_of_cupy_is_that_of_ml_dtypes(monkeypatch: pytest.MonkeyPatch) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    # Which has no attribute bfloat16.
    monkeypatch.setitem(libraries._namespaces, "cupy", SimpleNamespace())
    assert dtypes.as_dtype("cupy", "bfloat16") == np.dtype(ml_dtypes.bfloat16)
    assert dtypes.as_dtype("cupy", np.dtype(ml_dtypes.bfloat16)).name == "bfloat16"
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(
        gru_xp.BackendError, match="bfloat16 in cupy requires the package ml_dtypes"
    ):
        dtypes.as_dtype("cupy", "bfloat16")


def test_an_unknown_device_is_refused_naming_those_there_are(lib: Library) -> None:
    with pytest.raises(gru_xp.BackendError, match=f"{lib.name} has no device 'nonesuch'"):
        gru_xp.GRUCell(I, H, backend=lib.name, device="nonesuch")


def test_an_unknown_backend_is_refused_naming_the_known() -> None:
    with pytest.raises(
        gru_xp.BackendError, match="unknown backend 'tensorflow': gru_xp supports num"
    ):
        gru_xp.GRUCell(I, H, backend="tensorflow")


def test_an_assignment_of_another_shape_or_type_is_refused_and_changes_nothing(
    lib: Library,
) -> None:
    cell = make_cell(lib)
    before = lib.numpy(cell.weight_ih)
    with pytest.raises(ValueError, match=r"Wrx: expected shape \(4, 5\), got \(5, 4\)"):
        cell.Wrx = lib.array(draw(I, H, seed=0))
    with pytest.raises(ValueError, match=r"weight_ih: expected shape \(12, 5\), got \(4, 5\)"):
        cell.weight_ih = lib.array(draw(H, I, seed=0))
    with pytest.raises(TypeError, match=r"brx: expected an array .* got str"):
        cell.brx = "0.0"
    with pytest.raises(TypeError, match=r"brx: expected an array .* got bool"):
        cell.brx = False
    with pytest.raises(TypeError, match=r"bias_ih: expected an array .* got NoneType"):
        cell.bias_ih = None
    lib.assert_close(cell.weight_ih, before, atol=0)


def test_init_weights_checks_all_before_it_changes_one(lib: Library) -> None:
    cell = make_cell(lib)
    before = lib.numpy(cell.weight_ih)
    good = [draw(H, I, seed=0)] * 3 + [draw(H, H, seed=0)] * 3 + [draw(H, seed=0)] * 5
    with pytest.raises(ValueError, match=r"bnh: expected shape \(4,\), got \(5,\)"):
        cell.init_weights(*good, draw(H + 1, seed=0))
    with pytest.raises(TypeError, match="bnh: expected an array"):
        cell.init_weights(*good)
    lib.assert_close(cell.weight_ih, before, atol=0)


def test_float64_of_a_jax_without_it_names_the_switch() -> None:
    pytest.importorskip("jax", reason="about JAX")
    code = (
        "import gru_xp\n"
        "try: gru_xp.GRUCell(2, 2, backend='jax', dtype='float64')\n"
        "except gru_xp.BackendError as error: print(error)\n"
        "cell = gru_xp.GRUCell(2, 2, backend='jax')\n"
        "try: cell.to(dtype='float64')\n"
        "except gru_xp.BackendError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "JAX_ENABLE_X64": "0"},
    )
    assert done.stdout.count("jax.config.update('jax_enable_x64', True)") == 2, done.stderr


@pytest.mark.parametrize("dtype", ["complex128", "S3"])
def test_weights_that_are_no_real_numbers_are_refused(lib: Library, dtype: str) -> None:
    cell = make_cell(lib)
    before = lib.numpy(cell.weight_ih)
    with pytest.raises(TypeError, match="Wrx: expected a real dtype"):
        cell.Wrx = np.ones((H, I)).astype(dtype)
    lib.assert_close(cell.weight_ih, before, atol=0)


def test_a_state_that_is_no_mapping_is_refused() -> None:
    with pytest.raises(TypeError, match="expected a mapping of names to arrays"):
        gru_xp.GRUCell(I, H).load_state_dict(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("device", ["None", "", -1, 99, 1.5])
def test_what_names_no_device_is_refused(lib: Library, device: Any) -> None:
    with pytest.raises(gru_xp.BackendError, match=f"{lib.name} has no device"):
        gru_xp.GRUCell(I, H, backend=lib.name, device=device)
