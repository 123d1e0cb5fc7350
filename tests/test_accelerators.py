"""How an accelerator is found, switched off, and steps aside."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import gru_xp
from gru_xp import accelerators, backend, products, recurrence
from gru_xp.tape import Tape
from tests.library import Library
from tests.test_cell_values import H, I, N, draw, make_cell


@pytest.fixture
def recording(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """An accelerator for every library that counts its calls and declines them all."""
    calls: list[str] = []

    def forward(*arguments: Any, **options: Any) -> Any:
        calls.append("forward")
        return NotImplemented

    def backward(*arguments: Any, **options: Any) -> Any:
        calls.append("backward")
        return NotImplemented

    module = SimpleNamespace(forward=forward, backward=backward, calls=calls)
    monkeypatch.setattr(accelerators, "find", lambda name: accelerators.Found(module, "recording"))
    return module


def step_and_back(lib: Library) -> Any:
    cell = make_cell(lib)
    h_t = cell(lib.array(draw(N, I, seed=0)))
    cell.backward(lib.array(draw(N, H, seed=2)))
    return lib.numpy(h_t), lib.numpy(cell.dWrh)


def test_a_declined_call_runs_the_portable_loop(lib: Library, recording: Any) -> None:
    with gru_xp.use_accelerators(True):
        asked = step_and_back(lib)
    assert recording.calls == ["forward", "backward"]
    with gru_xp.use_accelerators(False):
        portable = step_and_back(lib)
    assert recording.calls == ["forward", "backward"]  # not asked again
    for one, other in zip(asked, portable, strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_an_accelerator_returns_is_used(lib: Library, recording: Any) -> None:
    marked = lib.array(np.full((1, N, H), 7.0))
    tape = Tape(*[marked] * 5)
    recording.forward = lambda *arguments, **options: (marked, tape)
    with gru_xp.use_accelerators(True):
        h_t = make_cell(lib)(lib.array(draw(N, I, seed=0)))
    lib.assert_close(h_t, np.full((N, H), 7.0), atol=0)


def test_a_cell_in_eval_asks_for_the_quick_step_unless_it_is_off(
    lib: Library, recording: Any
) -> None:
    marked = lib.array(np.full((N, H), 7.0))
    answers = [NotImplemented, marked]
    recording.step = lambda *arguments: recording.calls.append("step") or answers.pop(0)
    cell, x = make_cell(lib).eval(), lib.array(draw(N, I, seed=0))
    with gru_xp.use_accelerators(False):
        portable = cell(x)
    assert recording.calls == []
    with gru_xp.use_accelerators(True):
        lib.assert_close(cell(x), lib.numpy(portable), atol=0)  # declined
        assert recording.calls == ["step", "forward"]
        assert cell(x) is marked
        cell.train()(x)  # a step of which nothing is kept has no gradient
    assert recording.calls == ["step", "forward", "step", "forward"]


def test_the_switch_belongs_to_the_thread_and_nests(recording: Any) -> None:
    xp, module = SimpleNamespace(__name__="numpy"), recording
    seen = []
    with gru_xp.use_accelerators(False):
        with gru_xp.use_accelerators(True):
            assert accelerators.accelerator(xp) is module
        assert accelerators.accelerator(xp) is None
        thread = threading.Thread(target=lambda: seen.append(accelerators.accelerator(xp)))
        thread.start()
        thread.join()
    assert seen == [module]


def run(code: str, path: Any, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(path), **environment},
    )


def write_accelerator(path: Any, source: str) -> None:
    """Install an accelerator for NumPy by what an installer writes: module and entry point."""
    (path / "gru_xp_fake.py").write_text(source)
    metadata = path / "gru_xp_fake-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: gru-xp-fake\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[gru_xp.backends]\nnumpy = gru_xp_fake\n")


STEP = (
    "import numpy as np, gru_xp\n"
    "cell = gru_xp.GRUCell(2, 3, rng=0)\n"
    "print(cell(np.ones((1, 2), np.float32)).shape, cell(np.ones((1, 2), np.float32)).shape)\n"
)


def test_an_accelerator_is_found_by_its_entry_point_alone(tmp_path: Any) -> None:
    write_accelerator(
        tmp_path,
        "def forward(*a, **k): print('asked'); return NotImplemented\nbackward = forward\n",
    )
    assert run(STEP, tmp_path).stdout == "asked\nasked\n(1, 3) (1, 3)\n"
    assert run(STEP, tmp_path, GRU_XP_ACCELERATORS="0").stdout == "(1, 3) (1, 3)\n"


def test_an_accelerator_that_fails_to_load_warns_once_and_steps_aside(tmp_path: Any) -> None:
    write_accelerator(tmp_path, "raise ImportError('built for another processor')")
    done = run(STEP + "print(gru_xp.backends()[0].accelerator_reason)\n", tmp_path)
    reason = "accelerator gru_xp_fake failed to load: ImportError: built for another processor"
    assert done.stdout == f"(1, 3) (1, 3)\n{reason}\n"
    assert done.stderr.count("RuntimeWarning") == 1
    assert f"{reason}; the portable loop runs instead" in done.stderr


def test_an_accelerator_without_its_functions_is_not_used(tmp_path: Any) -> None:
    write_accelerator(tmp_path, "forward = None\n")
    done = run(STEP + "print(gru_xp.backends()[0].accelerator)\n", tmp_path)
    assert done.stdout == "(1, 3) (1, 3)\nNone\n"
    assert "failed to load: AttributeError: it has no function forward" in done.stderr


@pytest.mark.parametrize("name", list(backend.NAMESPACES))
@pytest.mark.parametrize(
    "portable",
    [recurrence.forward, recurrence.backward, products.matmul],
    ids=["forward", "backward", "matmul"],
)
def test_every_accelerator_takes_the_arguments_of_the_package(portable: Any, name: str) -> None:
    if backend.unusable(name):
        pytest.skip(backend.unusable(name))
    found = accelerators.find(name)
    if found.module is None:
        pytest.skip(f"{name}: {found.reason}")
    own = getattr(found.module, portable.__name__, None)
    if own is None and portable is products.matmul:
        pytest.skip(f"{name}'s accelerator leaves products to its library")
    expected = inspect.signature(portable).parameters
    got = inspect.signature(own).parameters
    assert [(p.name, p.kind, p.default) for p in got.values()] == [
        (p.name, p.kind, p.default) for p in expected.values() if p.name != "xp"
    ]


def test_what_runs_the_loop_is_told_with_the_switch(lib: Library) -> None:
    found = accelerators.find(lib.name)
    told = accelerators.running(lib.name)
    if found.module is not None and lib.accelerated:
        assert told == found.reason
    else:
        assert told.startswith(f"portable loop, {found.reason}")
        assert told.endswith("is switched off") == (found.module is not None)


def test_jaxs_accelerator_declines_a_single_step(lib: Library) -> None:
    if lib.name != "jax":
        pytest.skip("about JAX's accelerator")
    module = accelerators.find("jax").module
    gx, h0 = lib.array(draw(1, N, 3 * H, seed=0)), lib.array(draw(N, H, seed=1))
    weight_hh = lib.array(draw(3 * H, H, seed=2))
    assert module.forward(gx, h0, weight_hh, None) is NotImplemented
    assert module.forward(lib.xp.concat([gx, gx]), h0, weight_hh, None) is not NotImplemented
