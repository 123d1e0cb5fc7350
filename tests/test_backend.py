"""Array libraries: what is found, what is told of it, and what importing costs."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest

import gru_xp
from gru_xp.arrays import devices, libraries
from gru_xp.arrays.place import Place, runs_there
from gru_xp.arrays.transfer import private
from gru_xp.arrays.typing import Backend
from gru_xp.core import stack, step
from tests.library import Library


def python(code: str, **environment: str) -> str:
    """Run code in a fresh interpreter and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_backends_tells_of_every_known_library() -> None:
    told = {each.name: each for each in gru_xp.backends()}
    assert list(told) == ["numpy", "cupy", "torch", "jax", "array_api_strict"]
    assert told["numpy"].usable
    assert told["numpy"].version == np.__version__
    assert told["numpy"].devices == ("cpu",)
    for each in told.values():
        assert each.usable == (not each.reason)
        assert each.usable == bool(each.devices)
        assert (each.accelerator is None) == bool(each.accelerator_reason)


def test_the_type_of_the_argument_backend_names_every_library() -> None:
    assert get_args(Backend) == (*libraries.NAMESPACES, "auto")


def test_backends_names_jaxs_accelerator_where_it_is_on(lib: Library) -> None:
    if lib.name != "jax":
        pytest.skip("about JAX's accelerator")
    (jax,) = (each for each in gru_xp.backends() if each.name == "jax")
    assert jax.accelerator == ("gru_xp_jax" if lib.accelerated else None)


def test_a_library_that_is_not_installed_says_how_to_install_it() -> None:
    code = (
        "import importlib.util, sys\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *a: None if name == 'jax' else find(name, *a)\n"
        "from gru_xp.arrays import libraries\n"
        "print(libraries.unusable('jax'))\n"
        "try: libraries.namespace('jax')\n"
        "except libraries.BackendError as error: print(error)\n"
    )
    assert python(code) == "jax is not installed: pip install jax\n" * 2


def test_a_library_that_fails_to_start_says_why(tmp_path: Any) -> None:
    (tmp_path / "cupy.py").write_text("raise OSError('libcudart is missing')")
    code = (
        "import gru_xp; from gru_xp.arrays import libraries\n"
        "print(libraries.unusable('cupy')); print(*gru_xp.backends())"
    )
    printed = python(code, PYTHONPATH=str(tmp_path))
    assert printed.startswith(
        "cupy is installed but fails to start: OSError: libcudart is missing\n"
    )


def fake_cupy(path: Any, answer: str) -> None:
    """Write a package that answers as CuPy does, asked for the number of CUDA devices."""
    package = path / "cupy"
    package.mkdir()
    (package / "__init__.py").write_text(
        "__version__ = '0.0'\n"
        "from numpy import matmul, ones, tanh\n"
        "class cuda:\n"
        "    class runtime:\n"
        "        @staticmethod\n"
        f"        def getDeviceCount(): {answer}\n"
    )
    compat = path / "sitecustomize.py"  # array_api_compat.cupy wants the whole of CuPy
    compat.write_text(
        "import sys, types; sys.modules['array_api_compat.cupy'] = "
        "types.ModuleType('array_api_compat.cupy')"
    )


def test_auto_is_numpy_without_a_cuda_device_and_says_so(tmp_path: Any) -> None:
    fake_cupy(tmp_path, "raise RuntimeError('cudaErrorNoDevice')")
    printed = python(
        "from gru_xp import GRUCell; from gru_xp.arrays import libraries\n"
        "print(*libraries.resolve('auto'))\n"
        "print(GRUCell(2, 2, backend='auto').backend)",
        PYTHONPATH=str(tmp_path),
    )
    assert printed == (
        "numpy no GPU: cupy is installed but finds no usable CUDA device, or no driver for it: "
        "cudaErrorNoDevice\n"
        "numpy\n"
    )


def test_auto_is_cupy_where_a_cuda_device_is_usable(tmp_path: Any) -> None:
    fake_cupy(tmp_path, "return 1")
    code = "from gru_xp.arrays import libraries; print(*libraries.resolve('auto'))"
    assert python(code, PYTHONPATH=str(tmp_path)) == "cupy a CUDA device is usable\n"


def test_auto_is_numpy_where_cupy_finds_a_device_but_cannot_compute(tmp_path: Any) -> None:
    fake_cupy(tmp_path, "return 1")
    with (tmp_path / "cupy" / "__init__.py").open("a") as file:
        file.write("def tanh(x): raise RuntimeError('no NVRTC')\n")
    code = "from gru_xp.arrays import libraries; print(*libraries.resolve('auto'))"
    assert python(code, PYTHONPATH=str(tmp_path)) == (
        "numpy no GPU: cupy finds a CUDA device but cannot compute on it: no NVRTC\n"
    )


@pytest.mark.parametrize("platforms", ["cuda", "nonsense"])
def test_a_jax_that_cannot_start_is_reported(lib: Library, platforms: str) -> None:
    if lib.name != "jax":
        pytest.skip("about JAX")
    code = "import gru_xp; print([b for b in gru_xp.backends() if b.name == 'jax'][0])"
    printed = python(code, JAX_PLATFORMS=platforms)
    assert "usable=False" in printed
    assert "jax is installed but fails to start: " in printed


def test_a_backend_asked_for_by_name_resolves_to_itself(lib: Library) -> None:
    assert libraries.resolve(lib.name) == (lib.name, "asked for by name")


def test_importing_imports_no_array_library_but_numpy() -> None:
    code = (
        "import sys, gru_xp\n"
        "gru_xp.GRUCell(2, 3)\n"
        "print(sorted({'torch', 'jax', 'cupy', 'array_api_strict', 'click', 'rich', 'matplotlib',"
        " 'safetensors'} & set(sys.modules)))"
    )
    assert python(code) == "[]\n"


def test_importing_costs_at_most_a_tenth_of_a_second_over_numpy() -> None:
    code = (
        "import time, numpy\n"
        "start = time.thread_time(); import gru_xp; print(time.thread_time() - start)"
    )
    assert min(float(python(code)) for _ in range(5)) <= 0.1


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "bool"])
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3)])
def test_arrays_come_back_from_the_library_as_they_went_in(
    lib: Library, dtype: str, shape: tuple[int, ...]
) -> None:
    host = (np.random.default_rng(0).normal(size=shape) * 4).astype(dtype)
    back = lib.numpy(lib.array(host, dtype))
    assert back.dtype == host.dtype
    np.testing.assert_array_equal(back, host)


def test_to_numpy_resolves_what_torch_computes_lazily() -> None:
    torch: Any = pytest.importorskip("torch", reason="about torch")
    conjugate = torch.tensor([1 + 2j, 3 - 4j]).conj()
    assert conjugate.is_conj()
    assert torch.imag(conjugate).is_neg()
    assert gru_xp.to_numpy(conjugate).tolist() == [1 - 2j, 3 + 4j]
    assert gru_xp.to_numpy(torch.imag(conjugate)).tolist() == [-2, 4]


def test_to_numpy_copies(lib: Library) -> None:
    if not lib.mutable or lib.read_only:
        pytest.skip("needs an array that can be changed")
    array = lib.array(np.zeros(3))
    copied = gru_xp.to_numpy(array)
    copied[...] = 1
    assert not lib.numpy(array).any()


def test_bfloat16_comes_back_as_float32(lib: Library) -> None:
    if lib.name != "torch":
        pytest.skip("NumPy has no bfloat16; JAX brings its own to NumPy")
    back = lib.numpy(lib.array([1.5, -2.0], "bfloat16"))
    assert back.dtype == np.float32
    np.testing.assert_array_equal(back, [1.5, -2.0])


def test_devices_resolve_by_name_index_and_object(lib: Library) -> None:
    for index, device in enumerate(devices.devices(lib.name)):
        assert devices.as_device(lib.name, device) == device
        assert devices.as_device(lib.name, str(device)) == device
        if lib.name != "torch":  # where a number means an accelerator's
            assert devices.as_device(lib.name, index) == device
    assert devices.as_device(lib.name, None) is None


def test_calls_on_cupy_run_on_the_device_of_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """CuPy makes new arrays on the current device; a stand-in for a second GPU records it."""
    events: list[str] = []

    class Device:
        def __enter__(self) -> None:
            events.append("enter")

        def __exit__(self, *reason: object) -> None:
            events.append("exit")

    @runs_there
    def call(*, place: Place) -> list[str]:
        return list(events)

    @runs_there
    def refused(message: str, *, place: Place) -> None:
        raise NotImplementedError(message)

    assert call(place=Place("numpy", "cpu", None)) == []
    assert call(place=Place("cupy", Device(), None)) == ["enter"]
    assert events == ["enter", "exit"]
    stand_in = SimpleNamespace(astype=lambda *a, **k: events.append("copy"))
    monkeypatch.setitem(libraries._namespaces, "cupy", stand_in)
    private(np.zeros(1), Place("cupy", Device(), None))
    assert events[2:] == ["enter", "copy", "exit"]
    with pytest.raises(RuntimeError, match="outside of the stream capture"):
        refused("calling cuBLAS API during stream capture", place=Place("cupy", Device(), None))
    with pytest.raises(NotImplementedError, match="something else"):
        refused("something else", place=Place("cupy", Device(), None))
    for function in (step.forward, step.backward, step.gate_gradients):
        assert hasattr(function, "__wrapped__")
    for function in (stack.forward, stack.backward, stack.gates):
        assert hasattr(function, "__wrapped__")
