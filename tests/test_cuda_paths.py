"""CuPy's accelerator: which kernels run when, and that they prove themselves first."""

from __future__ import annotations

import inspect
import logging
import time
import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import gru_xp
from gru_xp.accelerator_api import Accelerator, Place
from gru_xp.arrays import libraries
from gru_xp.core import accelerators, recurrence
from gru_xp.core.loop import Loop
from tests.cuda import Machine
from tests.test_cuda_values import DTYPES, TOLERANCE, assert_close, check, draw_case, exactly

WRONG = (("padding ? total : total * widen(x.z)", "total"),)


def does_not_compile(*_: Any) -> Any:
    raise ValueError("no such instruction")


@pytest.fixture
def cuda(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The accelerator's module; NumPy's namespace stands in for CuPy's."""
    import gru_xp_cupy

    monkeypatch.setitem(libraries._namespaces, "cupy", libraries.namespace("numpy"))
    return gru_xp_cupy


@pytest.mark.parametrize("function", ["forward", "backward"])
def test_its_functions_take_the_contracts_arguments(cuda: Any, function: str) -> None:
    expected, got = (
        [(p.name, p.kind, p.default) for p in inspect.signature(each).parameters.values()]
        for each in (getattr(Accelerator, function), getattr(cuda, function))
    )
    assert got == expected


def test_an_option_that_nobody_has_heard_of_is_declined(
    machine: Machine, cuda: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.test_accelerators import Invented

    monkeypatch.setitem(accelerators._found, "numpy", accelerators.Found(cuda, "CUDA on the CPU"))
    case = draw_case((2, 3, 24), "float32")
    with gru_xp.use_accelerators(True):
        for loop, launched in ((case.loop, True), (Invented(every_other_step=True), False)):
            machine.launched.clear()
            place = Place.named("numpy")
            recurrence.forward(*case.forward, loop, keep_tape=True, place=place)
            assert bool(machine.launched) == launched


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("capability", ["90", "80"])
def test_the_persistent_kernel_runs_where_it_is_recorded_or_asked_for(
    machine: Machine, cuda: Any, dtype: str, capability: str
) -> None:
    def runs(enabled: bool | None) -> bool:
        machine.launched.clear()
        with cuda.use_persistent_kernel(enabled):
            check(cuda, case, TOLERANCE[dtype])
        return any("persistent" in each for each in machine.launched)

    machine.compute_capability = capability
    case = draw_case((3, 5, 40), dtype)
    # Its record is of devices of compute capability 9.0; it does not know float64.
    assert runs(None) == (capability == "90" and dtype != "float64")
    assert runs(True) == (dtype != "float64")
    assert not runs(False)


def test_it_says_what_runs(machine: Machine, cuda: Any) -> None:
    from gru_xp_cupy import persistent

    assert cuda.describe() == "CUDA, persistent kernel"
    with cuda.use_persistent_kernel(False):
        assert cuda.describe() == "CUDA, a kernel a step"
        with cuda.use_persistent_kernel(None):
            assert cuda.describe() == "CUDA, persistent kernel"
    machine.compute_capability = "120"
    persistent._device.cache_clear()
    assert cuda.describe() == "CUDA, a kernel a step"
    with cuda.use_persistent_kernel():
        assert cuda.describe() == "CUDA, persistent kernel: experimental"


@pytest.mark.parametrize(
    ("value", "capability", "told"),
    [
        ("1", "80", "CUDA, persistent kernel: experimental"),
        ("0", "90", "CUDA, a kernel a step"),
        ("", "90", "CUDA, persistent kernel"),
    ],
)
def test_the_environment_switches_the_persistent_kernel(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, value: str, capability: str, told: str
) -> None:
    import importlib

    from gru_xp_cupy import functions

    machine.compute_capability = capability
    monkeypatch.setenv("GRU_XP_PERSISTENT_KERNEL", value)
    reloaded = importlib.reload(functions)
    assert reloaded.describe() == told
    with reloaded.use_persistent_kernel(False):
        assert reloaded.describe() == "CUDA, a kernel a step"


def test_what_is_expected_to_be_slower_goes_step_by_step(machine: Machine, cuda: Any) -> None:
    assert cuda.persistent_kernel_runs(5, 40, "float16", training=True)
    case = draw_case((1, 400, 40), "float32", ragged=False)  # on 4 multiprocessors
    with cuda.use_persistent_kernel():
        assert not cuda.persistent_kernel_runs(400, 40, "float32", training=False)
        h, _ = cuda.forward(*case.forward, case.loop, keep_tape=True)
    assert machine.launched[-1] == "forward_gates float"
    assert_close(h, exactly(case)[0], TOLERANCE["float32"])


def test_what_the_persistent_kernel_does_not_hold_goes_step_by_step(
    machine: Machine, cuda: Any
) -> None:
    case = draw_case((2, 5, 42), "float16")  # rows of 84 bytes, which are no multiple of 16
    with cuda.use_persistent_kernel():
        check(cuda, case, TOLERANCE["float16"])
    assert machine.launched[-5:] == ["forward_gates half"] * 2 + ["backward_gates half"] * 3


@pytest.mark.parametrize("training", [False, True])
def test_it_tells_beforehand_whether_the_persistent_kernel_would_run(
    machine: Machine, cuda: Any, training: bool
) -> None:
    from gru_xp_cupy import persistent

    def runs(hidden: int, dtype: str) -> bool:
        return bool(cuda.persistent_kernel_runs(5, hidden, dtype, training=training))

    assert runs(40, "float16")
    assert not runs(42, "float16")  # rows of 84 bytes
    assert not runs(40, "float64")
    assert not runs(40, "int32")
    assert not runs(1024, "float16")  # four multiprocessors would read nearly all of it again
    machine.blocks_at_once = 0
    persistent._launch_on.cache_clear()
    assert not runs(40, "float16")


def test_it_tells_what_a_step_is_expected_to_take(machine: Machine, cuda: Any) -> None:
    from gru_xp_cupy import persistent
    from gru_xp_cupy.plan import HOPPER_STEPS

    host, backward = HOPPER_STEPS.host, HOPPER_STEPS.tensor_backward
    two_launches = {"forward": host, "backward": host * backward}
    taken = cuda.expected_step(5, 40, "float16")
    assert taken == {
        way: persistent.expected(f"persistent_{way}", 5, 40, "float16").one_launch
        for way in ("forward", "backward")
    }
    assert 0 < taken["forward"] < host
    told = cuda.explain()
    assert told.startswith("forward ")
    assert "one " in told
    with cuda.use_persistent_kernel(False):
        assert cuda.expected_step(5, 40, "float16") == two_launches
        assert cuda.explain().startswith("All calls take two launches per step")
        assert cuda.explain().endswith(told)
    assert cuda.expected_step(5, 40, "float64") == two_launches
    assert cuda.expected_step(5, 40, "int32") == {}


def test_a_persistent_kernel_that_fails_its_check_would_not_run(
    machine: Machine, cuda: Any
) -> None:
    machine.faults = WRONG
    with pytest.warns(RuntimeWarning, match="persistent kernel"):
        assert not cuda.persistent_kernel_runs(5, 40, "float32", training=True)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((2, 3, 12), "int32"),
        ((0, 3, 12), "float32"),
        ((2, 0, 12), "float32"),
    ],
)
def test_other_calls_are_declined(
    machine: Machine, cuda: Any, shape: tuple[int, int, int], dtype: str
) -> None:
    gx, h0 = np.zeros(shape, dtype), np.zeros((shape[1], 4), dtype)
    weight = np.zeros((12, 4), dtype)
    assert cuda.forward(gx, h0, weight, None, Loop(), keep_tape=True) is NotImplemented
    dh = np.zeros((*shape[:2], 4), dtype)
    assert cuda.backward(dh, None, (dh,) * 5, weight, Loop()) is NotImplemented
    assert machine.launched == []


@pytest.mark.parametrize("infinite", [False, True])
def test_options_of_a_step(machine: Machine, cuda: Any, infinite: bool) -> None:
    case = draw_case((3, 4, 24), "float32")
    gx, h0, weight, _ = case.forward
    if infinite:  # in padding it multiplies zeros, and must not be seen
        weight = weight.copy()
        weight[0, 0] = np.inf
        h0 = np.abs(h0)
    lengths = np.asarray([0, 0, 0, 0], np.int32) if infinite else None
    gx, loop = gx if infinite else np.nan_to_num(gx), Loop(lengths=lengths)
    for enabled in (False, True):
        with cuda.use_persistent_kernel(enabled):
            h, tape = cuda.forward(gx, h0, weight, None, loop, keep_tape=False)
            assert tape is None
            _, tape = cuda.forward(gx, h0, weight, None, loop, keep_tape=True)
            dgx, dgh_n, dh0 = cuda.backward(case.dh, None, tape, weight, loop)
        if infinite:
            np.testing.assert_array_equal(h, np.broadcast_to(h0, h.shape))
            assert not dgx.any()
            assert not dgh_n.any()
            assert_close(dh0, case.dh.astype(np.float64).sum(0), 1e-6)
        else:
            none = np.zeros(24, np.float32)
            plain = case._replace(
                forward=(gx, h0, weight, none),
                dh_last=np.zeros_like(h0),
                loop=Loop(),
            )
            wanted_h, _, *wanted = exactly(plain)
            assert_close(h, wanted_h, 1e-6)
            for got, want in zip((dgx, dgh_n, dh0), wanted, strict=True):
                assert_close(got, want, 4e-6)


@pytest.mark.parametrize("precision", ["float16", "float32", "tf32"])
def test_the_persistent_kernel_has_the_same_bits_in_any_order_of_events(
    machine: Machine, precision: str
) -> None:
    from gru_xp_cupy import persistent

    machine.tf32 = precision == "tf32"
    case = draw_case((3, 17, 72), "float32" if machine.tf32 else precision)
    seen = set()
    for machine.seed in range(4):
        h, tape = persistent.forward(*case.forward, case.loop, keep_tape=True)
        gradients = persistent.backward(case.dh, case.dh_last, tape, case.forward[2], case.loop)
        seen.add(b"".join(each.tobytes() for each in (h, *tape, *gradients)))
    assert len(seen) == 1


def test_a_kernel_that_computes_something_else_steps_aside_and_is_told_once(
    machine: Machine, cuda: Any
) -> None:
    machine.faults = WRONG
    case = draw_case((2, 3, 24), "float32")
    with cuda.use_persistent_kernel():
        with pytest.warns(RuntimeWarning, match=r"persistent kernel, float32\) failed its check"):
            check(cuda, case, TOLERANCE["float32"])
        assert machine.launched[-1] == "backward_gates float"
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            check(cuda, case, TOLERANCE["float32"])


def test_a_persistent_kernel_that_does_not_compile_leaves_the_call_to_two_launches(
    machine: Machine, cuda: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gru_xp_cupy import compiled

    monkeypatch.setattr(compiled, "persistent", does_not_compile)
    case = draw_case((2, 3, 24), "float32")
    with pytest.warns(RuntimeWarning, match="cannot be used .*ValueError: no such instruction"):
        check(cuda, case, TOLERANCE["float32"])
    assert not any("persistent" in each for each in machine.launched)


def test_a_device_that_tells_little_goes_step_by_step(machine: Machine, cuda: Any) -> None:
    machine.attributes.clear()
    case = draw_case((2, 3, 24), "float32")
    with cuda.use_persistent_kernel():
        assert cuda.describe()
        check(cuda, case, TOLERANCE["float32"])
    assert not any("persistent" in each for each in machine.launched)


def test_no_memory_for_the_check_is_no_verdict(
    machine: Machine, cuda: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gru_xp_cupy import trust

    def fail(*_: Any) -> float:
        raise MemoryError

    case = draw_case((2, 3, 24), "float32")
    with monkeypatch.context() as full:
        full.setattr(trust, "_largest_error", fail)
        assert cuda.forward(*case.forward, case.loop, keep_tape=True) is NotImplemented
    check(cuda, case, TOLERANCE["float32"])
    assert any("persistent" in each for each in machine.launched)


def test_a_short_sequence_of_large_weights_goes_step_by_step(machine: Machine, cuda: Any) -> None:
    from gru_xp_cupy import persistent
    from gru_xp_cupy.plan import Device

    persistent._device.cache_clear()
    machine.attributes["MultiProcessorCount"] = 132
    machine.blocks_at_once = 1
    assert persistent._device(0) == Device(132, 227 << 10, 90)
    # 2.3 us a megabyte of 25, which 6.8 us a step make good.
    for steps, faster in ((1, False), (3, False), (20, True)):
        found = persistent.is_faster("persistent_backward", steps, 16, 2048, "float16")
        assert found == faster


@pytest.mark.parametrize("kind", ["offset", "transposed"])
def test_weights_may_begin_at_any_address(machine: Machine, cuda: Any, kind: str) -> None:
    from gru_xp_cupy import arrays, persistent

    case = draw_case((2, 3, 24), "float16")
    gx, h0, weight, b_hn = case.forward
    flat = np.zeros(weight.size + 8, np.float16)
    first = next(i for i in range(8) if (flat.ctypes.data + 2 * i) % 16 == 2)
    odd = flat[first : first + weight.size]
    # The transposed array of a transposed one is contiguous as it is.
    transposed = kind == "transposed"
    odd = odd.reshape(weight.shape[::-1]).T if transposed else odd.reshape(weight.shape)
    odd[...] = weight
    for array in (odd, odd.T):
        assert arrays.address(arrays.aligned(array)) % 16 == 0
        np.testing.assert_array_equal(arrays.aligned(array), array)
    check(persistent, case._replace(forward=(gx, h0, odd, b_hn)), TOLERANCE["float16"])


def test_a_kernel_that_does_not_compile_steps_aside(
    machine: Machine, cuda: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gru_xp_cupy import compiled

    monkeypatch.setattr(compiled, "gates", does_not_compile)
    case = draw_case((2, 3, 24), "float64")
    with pytest.warns(RuntimeWarning, match="ValueError: no such instruction"):
        assert cuda.forward(*case.forward, case.loop, keep_tape=True) is NotImplemented


def test_the_check_is_made_once_for_all_that_is_laid_out_alike(machine: Machine, cuda: Any) -> None:
    from gru_xp_cupy import persistent, trust

    layouts = set()
    for rows in (1, 3, 17, 30, 3, 1):
        case = draw_case((2, rows, 24), "float32")
        layouts.add(persistent.proof(rows, 24, "float32").kernels)
        cuda.forward(*case.forward, case.loop, keep_tape=True)
    assert len(layouts) >= 2
    asked = [kernels for name, _, kernels, _ in trust._trusted if name == persistent.NAME]
    assert len(asked) == len(layouts)
    assert set(asked) == layouts
    assert all(trust._trusted.values())


@pytest.mark.parametrize(
    "fault",
    [
        "a weight of the next split",
        "the rows of the first group for all",
        "no barrier between steps forward",
        "no barrier between steps backward",
    ],
)
def test_the_check_sees_faults_at_the_size_of_the_call(
    machine: Machine, cuda: Any, fault: str
) -> None:
    from tests.test_cuda_faults import FAULTS

    machine.faults, machine.seed = (FAULTS[fault][:2],), 1
    case = draw_case((2, 17, 72), "float16")
    with (
        cuda.use_persistent_kernel(),
        pytest.warns(RuntimeWarning, match=r"persistent kernel, float16\) failed its check"),
    ):
        check(cuda, case, TOLERANCE["float16"])


def test_where_the_kernel_does_not_exist_nothing_is_told(machine: Machine, cuda: Any) -> None:
    machine.compute_capability = "75"
    case = draw_case((2, 3, 24), "float16")
    with cuda.use_persistent_kernel():
        check(cuda, case, TOLERANCE["float16"])
    assert not any("persistent" in each for each in machine.launched)
    assert not cuda.persistent_kernel_runs(3, 24, "float16", training=True)


def test_arrays_of_several_dtypes_are_declined(machine: Machine, cuda: Any) -> None:
    case = draw_case((2, 3, 24), "float32")
    gx, h0, weight, b_hn = case.forward
    for place in range(1, 4):
        mixed = [gx, h0, weight, b_hn]
        mixed[place] = mixed[place].astype(np.float16)
        assert cuda.forward(*mixed, case.loop, keep_tape=True) is NotImplemented
    tape = (case.dh, case.dh, case.dh, case.dh, case.dh.astype(np.float64))
    assert cuda.backward(case.dh, None, tape, weight, case.loop) is NotImplemented
    assert machine.launched == []


def test_a_long_compilation_is_told(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    from gru_xp_cupy import compiled

    with caplog.at_level(logging.WARNING, "gru_xp"), compiled.compiling("nothing"):
        pass
    assert not caplog.records
    compiled._PATIENCE = 0.01

    class Slow:
        @property
        def num_regs(self) -> int:
            deadline = time.monotonic() + 10
            while not caplog.records and time.monotonic() < deadline:
                time.sleep(0.01)
            return 32

    module = SimpleNamespace(get_function=lambda name: Slow())
    with caplog.at_level(logging.WARNING, "gru_xp"):
        compiled._compiled(module, "forward_gates", "float")
    assert "compiling a CUDA kernel (forward_gates, float)" in caplog.text


@pytest.mark.parametrize("direction", ["bidirectional", "reverse"])
@pytest.mark.parametrize("persistent", [False, True])
def test_a_whole_gru_trains_through_it(
    machine: Machine, cuda: Any, monkeypatch: pytest.MonkeyPatch, persistent: bool, direction: str
) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, 3, 7)).astype(np.float32)
    results = []
    for module in (None, cuda):
        found = accelerators.Found(module, "CUDA on the CPU")
        monkeypatch.setitem(accelerators._found, "numpy", found)
        layer: Any = gru_xp.GRU(7, 24, num_layers=2, **{direction: True}, rng=1)
        with cuda.use_persistent_kernel(persistent):
            y, h_n = layer(x, lengths=[5, 0, 3])
            dx, dh0 = layer.backward(np.ones_like(y))
        results.append((y, h_n, dx, dh0, *layer.gradients().values()))
    assert any(("persistent" in each) == persistent for each in machine.launched)
    for wanted, got in zip(*results, strict=True):
        assert_close(got, wanted, 1e-5)


def test_cupy_is_asked_for_a_cooperative_launch_of_the_whole_text(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gru_xp_cupy import compiled, sources

    asked: list[dict[str, Any]] = []

    class RawModule:
        def __init__(self, **options: Any) -> None:
            asked.append(options)

        def get_function(self, name: str) -> Any:
            return SimpleNamespace(name=name, num_regs=32)

    monkeypatch.setattr(compiled.cupy, "RawModule", RawModule, raising=False)
    own = machine.replaced
    kernels = (
        own.persistent("persistent_forward", "Scalar<4>", 2, 6, True, 0),
        own.gates("backward_gates", "half"),
    )
    assert [kernel.name for kernel in kernels] == ["persistent_forward", "backward_gates"]
    persistent, gates = asked
    assert persistent["enable_cooperative_groups"] is True
    macros = {"TILE=Scalar<4>", "EARLY=2", "HELD=6", "STREAMS=1"}
    assert {f"-DGRU_XP_{each}" for each in macros} <= set(persistent["options"])
    assert "-DGRU_XP_NUMBER=half" in gates["options"]
    for options, file in ((persistent, "persistent.cu"), (gates, "gates.cu")):
        assert options["code"] == sources.source(file)
        assert '#include "' not in options["code"]
        assert "gate_gradients(const Gates<V>& g" in options["code"]  # the equations are in it


def test_a_check_in_a_captured_stream_is_no_verdict(
    machine: Machine, cuda: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gru_xp_cupy import blas, trust

    def refuse(*_: Any) -> None:
        raise NotImplementedError("as CuPy does while a stream is captured")

    case = draw_case((2, 3, 24), "float64")
    with monkeypatch.context() as capturing:
        capturing.setattr(blas.cupy.cuda.cublas, "gemmEx", refuse)
        with pytest.raises(NotImplementedError, match="captured"):
            cuda.forward(*case.forward, case.loop, keep_tape=True)
    assert trust._trusted == {}
    check(cuda, case, TOLERANCE["float64"])


@pytest.mark.parametrize("persistent", [False, True])
def test_arrays_need_not_be_contiguous_nor_lengths_of_64_bits(
    machine: Machine, cuda: Any, persistent: bool
) -> None:
    case = draw_case((3, 5, 24), "float32")
    strided = [np.repeat(each, 2, axis=-1)[..., ::2] for each in (*case.forward, case.dh)]
    odd = case._replace(
        forward=tuple(strided[:4]),
        dh=strided[4],
        dh_last=np.asfortranarray(case.dh_last),
        loop=Loop(lengths=case.loop.lengths.astype(np.int32), reverse=case.loop.reverse),
    )
    with cuda.use_persistent_kernel(persistent):
        check(cuda, odd, TOLERANCE["float32"])
