"""Which dtype a step computes in, and which its results come in."""

from __future__ import annotations

import numpy as np
import pytest

from gru_xp.arrays import dtypes
from tests.library import Library
from tests.test_cell_values import H, I, N, draw, host, make_cell


def name(array: object) -> str:
    return dtypes.dtype_name(array.dtype)  # type: ignore[attr-defined]


@pytest.mark.parametrize("reset_after", [True, False])
@pytest.mark.parametrize("weights", ["float32", "float64"])
@pytest.mark.parametrize("x_dtype", ["float32", "float64"])
@pytest.mark.parametrize("h_dtype", ["float32", "float64", None])
def test_floats_of_several_widths_compute_in_the_promoted_one(
    lib: Library, reset_after: bool, weights: str, x_dtype: str, h_dtype: str | None
) -> None:
    cell = make_cell(lib, dtype=weights, reset_after=reset_after)
    x, h, delta = draw(N, I, seed=0), draw(N, H, seed=1), draw(N, H, seed=2)
    h_given = None if h_dtype is None else lib.array(h, h_dtype)
    h_t = cell(lib.array(x, x_dtype), h_given)
    dx, dh = cell.backward(lib.array(delta, "float32"))

    computing = "float64" if "float64" in (weights, x_dtype, h_dtype) else "float32"
    assert name(h_t) == computing
    assert name(cell.r) == name(cell.dr) == computing
    assert name(dx) == x_dtype
    assert name(dh) == (computing if h_dtype is None else h_dtype)
    assert {name(g) for g in cell.gradients().values()} == {weights}

    twin = make_cell(lib, dtype="float64", reset_after=reset_after)
    twin.load_state_dict(host(cell.parameters()))
    rounded_h = None if h_dtype is None else lib.array(h.astype(h_dtype))
    wanted = twin(lib.array(x.astype(x_dtype)), rounded_h)
    atol = 1e-14 if computing == "float64" else 1e-6
    lib.assert_close(h_t, lib.numpy(wanted), atol=atol)


@pytest.mark.parametrize("dtype", ["int8", "int32", "int64", "uint8", "bool"])
def test_integers_are_cast_to_the_weights_dtype(lib: Library, dtype: str) -> None:
    cell = make_cell(lib, dtype="float32")
    x = np.arange(N * I).reshape(N, I) % 3
    h = np.arange(N * H).reshape(N, H) % 2
    delta = lib.array(draw(N, H, seed=2), "float32")
    h_t = cell(lib.array(x, dtype), lib.array(h, dtype))
    dx, dh = cell.backward(delta)
    assert name(h_t) == name(dx) == name(dh) == "float32"

    if dtype == "bool":
        x = x.astype(bool)
    wanted = cell(lib.array(x, "float32"), lib.array(h, "float32"))
    wanted_dx, wanted_dh = cell.backward(delta)
    lib.assert_close(h_t, lib.numpy(wanted), atol=0)
    lib.assert_close(dx, lib.numpy(wanted_dx), atol=0)
    lib.assert_close(dh, lib.numpy(wanted_dh), atol=0)


@pytest.mark.feature("cell")
@pytest.mark.parametrize("reset_after", [True, False])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_16_bit_floats_compute_in_16_bits_where_the_library_has_them(
    lib: Library, dtype: str, reset_after: bool
) -> None:
    lib.skip_without(dtype)
    cell = make_cell(lib, dtype=dtype, reset_after=reset_after)
    twin = make_cell(lib, dtype="float64", reset_after=reset_after)
    twin.load_state_dict(host(cell.parameters()))
    x, h, delta = (lib.array(draw(N, k, seed=s), dtype) for s, k in enumerate((I, H, H)))
    exact = [lib.xp.astype(each, lib.xp.float64) for each in (x, h, delta)]
    got = (cell(x, h), *cell.backward(delta), cell.dr)
    wanted = (twin(*exact[:2]), *twin.backward(exact[2]), twin.dr)
    eps = {"float16": 2.0**-10, "bfloat16": 2.0**-7}[dtype]
    for one, other in zip(got, wanted, strict=True):
        assert name(one) == dtype
        scale = max(1.0, np.abs(lib.numpy(other)).max())
        lib.assert_close(one, lib.numpy(other), atol=8 * eps * scale)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_gradients_of_16_bit_biases_add_up_over_thousands_of_rows(lib: Library, dtype: str) -> None:
    lib.skip_without(dtype)
    cell = make_cell(lib, dtype=dtype)
    twin = make_cell(lib, dtype="float64")
    twin.load_state_dict(host(cell.parameters()))
    rows = 4096  # added up in 16 bits one by one, 4096 equal numbers come to a standstill
    for each in (cell, twin):
        x, delta = (lib.array(np.full((rows, k), 0.5), name(each.weight_ih)) for k in (I, H))
        each(x)
        each.backward(delta)
    eps = {"float16": 2.0**-10, "bfloat16": 2.0**-7}[dtype]
    for one, other in zip(cell.gradients().values(), twin.gradients().values(), strict=True):
        wanted = lib.numpy(other)
        lib.assert_close(one, wanted, atol=8 * eps * np.abs(wanted).max())


def test_two_16_bit_formats_meet_in_float32(lib: Library) -> None:
    for dtype in ("float16", "bfloat16"):
        lib.skip_without(dtype)
    cell = make_cell(lib, dtype="float16")
    assert name(cell(lib.array(draw(N, I, seed=0), "bfloat16"))) == "float32"
