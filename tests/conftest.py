"""The array libraries under test: one fixture, `lib`, that every numeric test takes.

Each usable library is a variant, on a device that is not its default one where it has another;
NumPy once more with read-only inputs; each library that has an accelerator once more without it.
``--backend NAME`` (repeatable) runs those alone, and fails where one is missing.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import gru_xp
import tests.environment  # noqa: F401  (before all that imports an array library)
from gru_xp.arrays import libraries
from gru_xp.core.accelerators import find, use_accelerators
from tests import cuda, support
from tests.cuda import Machine
from tests.library import Library


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--backend",
        action="append",
        metavar="NAME",
        choices=list(libraries.NAMESPACES),
        help="run on this backend only (repeatable); fails where it is not usable",
    )
    parser.addoption(
        "--path",
        choices=["portable", "accelerated"],
        help="run with the accelerators off, or with those backends alone that have one",
    )
    parser.addoption(
        "--support", type=Path, metavar="FILE", help="write which features passed on which library"
    )


def pytest_configure(config: pytest.Config) -> None:
    for name in config.getoption("--backend") or []:
        if reason := libraries.unusable(name):
            raise pytest.UsageError(f"--backend {name}: {reason}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an accelerator that does not load is in the header
        for name in libraries.NAMESPACES:
            if not libraries.unusable(name):
                find(name)
    if (file := config.getoption("--support")) is not None:
        config.pluginmanager.register(support.Recorder(file))


def pytest_report_header(config: pytest.Config) -> list[str]:
    lines = []
    for each in gru_xp.backends():
        if each.usable:
            extra = each.accelerator or each.accelerator_reason
            lines.append(f"backend {each.name} {each.version}: {', '.join(each.devices)}; {extra}")
        else:
            lines.append(f"backend {each.name}: not tested, {each.reason}")
    return lines


def _variants(config: pytest.Config) -> list[Library]:
    names = config.getoption("--backend") or [
        name for name in libraries.NAMESPACES if not libraries.unusable(name)
    ]
    variants = []
    path = config.getoption("--path")
    for name in names:
        has_one = find(name).module is not None
        if path != "portable" or not has_one:
            variants.append(Library(name))
        if name == "numpy":
            variants.append(Library(name, read_only=True))
        if path != "accelerated" and has_one:
            variants.append(Library(name, accelerated=False))
    return variants


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "lib" in metafunc.fixturenames:
        variants = _variants(metafunc.config)
        metafunc.parametrize("lib", variants, ids=[each.id for each in variants], indirect=True)
    if "accelerated" in metafunc.fixturenames:
        fast = [
            each
            for each in _variants(metafunc.config)
            if each.accelerated and not each.read_only and find(each.name).module is not None
        ]
        metafunc.parametrize("accelerated", fast, ids=[each.id for each in fast])


@pytest.fixture
def lib(request: pytest.FixtureRequest) -> Iterator[Library]:
    """Run the test once on each array library, accelerators on and off."""
    library: Library = request.param
    with use_accelerators(library.accelerated):
        yield library


@pytest.fixture
def native(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Provide the extension of NumPy's accelerator; afterwards its settings are as they were."""
    if "numpy" not in (request.config.getoption("--backend") or ["numpy"]):
        pytest.skip("about NumPy's accelerator")
    if request.config.getoption("--path") == "portable":
        pytest.skip("about NumPy's accelerator, which is off")
    if find("numpy").module is None:
        pytest.skip(find("numpy").reason)
    from gru_xp_numpy import _native

    isa, threads = _native.isa(), _native.num_threads()
    with use_accelerators(True):
        yield _native
    _native.set_isa(isa)
    _native.set_num_threads(threads)


@pytest.fixture(params=["plain", "avx2", "avx512"])
def isa(request: pytest.FixtureRequest, native: Any) -> str:
    """Run the test once with each instruction set that the processor has."""
    if not native.set_isa(request.param):
        pytest.skip(f"this processor, or this build, has no {request.param}")
    return str(native.isa())


@pytest.fixture
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """CuPy's accelerator with kernels that run on the CPU, and a stand-in for CuPy."""
    if cuda.COMPILER is None:
        pytest.skip("there is no g++ to compile the CUDA kernels for the CPU")
    folder = tmp_path_factory.getbasetemp() / "kernels"
    folder.mkdir(exist_ok=True)
    machine = Machine(folder)
    before = _take_modules("cupy", "gru_xp_cupy")
    sys.modules["cupy"] = machine.cupy()
    try:
        from gru_xp_cupy import arrays, compiled

        arrays.address = cuda.address
        machine.replaced = SimpleNamespace(gates=compiled.gates, persistent=compiled.persistent)
        compiled.gates, compiled.persistent = machine.gates, machine.persistent
        yield machine
    finally:
        _take_modules("cupy", "gru_xp_cupy")
        sys.modules.update(before)


def _take_modules(*names: str) -> dict[str, ModuleType]:
    """Take packages out of what has been imported."""
    taken = [name for name in sys.modules if name.partition(".")[0] in names]
    return {name: sys.modules.pop(name) for name in taken}
