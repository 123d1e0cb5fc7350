"""How the persistent kernel is laid out on devices."""

from __future__ import annotations

import pytest

from tests.cuda import Machine

HOPPER = (132, 227 << 10, 90)
TURING = (40, 64 << 10, 75)


def test_sizes_that_an_h100_holds(machine: Machine) -> None:
    from gru_xp_cupy.plan import Device, plan

    def fits(rows: int, size: int, dtype: str, *, tf32: bool = False) -> bool:
        ways = [
            plan(rows, size, dtype=dtype, gates=gates, tf32=tf32, device=Device(*HOPPER))
            for gates in (3, 1)
        ]
        return all(ways)

    for rows in (1, 16, 64):
        for dtype in ("float16", "bfloat16"):
            assert fits(rows, 1024, dtype)
            assert fits(rows, 2048, dtype)
            assert not fits(rows, 4096, dtype)
        assert fits(rows, 1024, "float32", tf32=True)
        assert fits(rows, 1024, "float32")
        assert not fits(rows, 2048, "float32")
    assert fits(256, 1024, "float16")
    assert not fits(1 << 14, 1024, "float16")


@pytest.mark.parametrize("rows", [1, 5, 16, 64, 200])
@pytest.mark.parametrize("size", [8, 256, 1000, 1024, 2048])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_all_units_have_a_block_and_all_blocks_a_multiprocessor(
    machine: Machine, rows: int, size: int, dtype: str
) -> None:
    from gru_xp_cupy.plan import Device, plan

    for gates in (3, 1):
        way = plan(rows, size, dtype=dtype, gates=gates, tf32=True, device=Device(*HOPPER))
        if way is None:
            assert (rows, size, dtype) in {(200, 2048, "float16")} or size == 2048
            continue
        assert way.units % 8 == 0
        assert way.blocks * way.units >= size > (way.blocks - 1) * way.units
        assert way.blocks <= HOPPER[0]
        assert way.shared_bytes <= HOPPER[1]


def test_what_does_not_fit_is_declined(machine: Machine) -> None:
    from gru_xp_cupy.plan import Device, plan

    def tile(size: int, dtype: str, *device: int, tf32: bool = False, **options: bool) -> str:
        way = plan(5, size, dtype=dtype, gates=3, tf32=tf32, device=Device(*device, **options))
        return "none" if way is None else way.tile

    assert tile(1024, "float64", *HOPPER) == "none"
    assert tile(1024, "float16", *HOPPER) == "Tensor<half>"
    assert tile(1020, "float16", *HOPPER) == "none"  # no multiple of 16 bytes
    assert tile(1020, "float32", *HOPPER) == "Scalar<8>"
    assert tile(1024, "float32", *HOPPER, tf32=True) == "Tensor<float>"
    assert tile(256, "float32", *TURING, tf32=True) == "Scalar<8>"
    assert tile(256, "float16", *TURING) == "none"
    assert tile(1024, "float32", *HOPPER, cooperative=False) == "none"


def test_a_driver_that_cannot_run_all_blocks_at_once_is_believed(machine: Machine) -> None:
    from gru_xp_cupy import persistent

    from tests.test_cuda_values import draw_case

    case = draw_case((2, 3, 24), "float32")
    machine.blocks_at_once = 0
    assert persistent.forward(*case.forward, case.loop, keep_tape=True) is NotImplemented
    gates = case.dh, case.dh, case.dh, case.dh, case.dh
    result = persistent.backward(case.dh, None, gates, case.forward[2], case.loop)
    assert result is NotImplemented
