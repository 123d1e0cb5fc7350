"""How an accelerator is found, switched off, and steps aside."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import gru_xp
from gru_xp.accelerator_api import Accelerator, Loop, OptionalFunctions, Place
from gru_xp.arrays import libraries
from gru_xp.core import accelerators, recurrence
from gru_xp.core.tape import Tape
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

    module = SimpleNamespace(
        forward=forward, backward=backward, calls=calls, OPTIONS=frozenset({"lengths"})
    )
    for name in libraries.NAMESPACES:
        found = accelerators.Found(module, "recording")  # type: ignore[arg-type]
        monkeypatch.setitem(accelerators._found, name, found)
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


@pytest.mark.parametrize("reset_after", [True, False])
def test_a_cell_in_eval_asks_for_the_quick_step_unless_it_is_off(
    lib: Library, recording: Any, reset_after: bool
) -> None:
    marked = lib.array(np.full((N, H), 7.0))
    answers = [NotImplemented, marked]
    given: list[Any] = []

    def step(*arguments: Any) -> Any:
        recording.calls.append("step")
        given.append(arguments)
        return answers.pop(0)

    recording.step = step
    recording.OPTIONS = frozenset({"reset_after"})
    cell = make_cell(lib, reset_after=reset_after).eval()
    x = lib.array(draw(N, I, seed=0))
    with gru_xp.use_accelerators(False):
        portable = cell(x)
    assert recording.calls == []
    with gru_xp.use_accelerators(True):
        lib.assert_close(cell(x), lib.numpy(portable), atol=0)  # declined
        assert recording.calls == ["step", "forward"]
        assert cell(x) is marked
        cell.train()(x)  # a step of which nothing is kept has no gradient
    assert recording.calls == ["step", "forward", "step", "forward"]
    for its_x, its_h, *params, its_reset_after in given:
        assert its_x is x
        assert its_h is None
        assert all(one is other for one, other in zip(params, cell.params, strict=True))
        assert its_reset_after is reset_after


def test_a_cell_whose_reset_gate_acts_before_asks_only_who_takes_that(
    lib: Library, recording: Any
) -> None:
    cell, x = make_cell(lib, reset_after=False), lib.array(draw(N, I, seed=0))
    with gru_xp.use_accelerators(True):
        cell.backward(cell(x))
        assert recording.calls == []
        recording.OPTIONS = frozenset({"reset_after"})
        cell.backward(cell(x))
    assert recording.calls == ["forward", "backward"]


def test_the_switch_belongs_to_the_thread_and_nests(recording: Any) -> None:
    def ask() -> Any:
        return accelerators.accelerated("forward", Place.named("numpy"))

    seen = []
    with gru_xp.use_accelerators(False):
        with gru_xp.use_accelerators(True):
            assert ask() is recording.forward
        assert ask() is None
        thread = threading.Thread(target=lambda: seen.append(ask()))
        thread.start()
        thread.join()
    assert seen == [recording.forward]


def run(code: str, path: Any, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(path), **environment},
    )


def write_accelerator(path: Any, source: str, *libraries: str) -> None:
    """Install an accelerator by what an installer writes: module and entry point; for NumPy's."""
    (path / "gru_xp_fake.py").write_text(source)
    metadata = path / "gru_xp_fake-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: gru-xp-fake\nVersion: 1.0\n")
    points = [f"{library} = gru_xp_fake\n" for library in libraries or ("numpy",)]
    (metadata / "entry_points.txt").write_text("[gru_xp.backends]\n" + "".join(points))


STEP = (
    "import numpy as np, gru_xp\n"
    "cell = gru_xp.GRUCell(2, 3, rng=0)\n"
    "print(cell(np.ones((1, 2), np.float32)).shape, cell(np.ones((1, 2), np.float32)).shape)\n"
)


def test_an_accelerator_is_found_by_its_entry_point_alone(tmp_path: Any) -> None:
    write_accelerator(
        tmp_path,
        "def forward(*a, **k): print('asked'); return NotImplemented\n"
        "backward, OPTIONS = forward, frozenset()\n",
    )
    assert run(STEP, tmp_path).stdout == "asked\nasked\n(1, 3) (1, 3)\n"
    assert run(STEP, tmp_path, GRU_XP_ACCELERATORS="0").stdout == "(1, 3) (1, 3)\n"


def test_an_accelerator_that_fails_to_load_warns_once_and_steps_aside(tmp_path: Any) -> None:
    write_accelerator(tmp_path, "raise ImportError('built for another processor')")
    done = run(STEP + "print(gru_xp.backends()[0].accelerator_reason)\n", tmp_path)
    reason = "accelerator gru_xp_fake failed to load: ImportError: built for another processor"
    assert done.stdout == f"(1, 3) (1, 3)\n{reason}\n"
    assert done.stderr.count("RuntimeWarning") == 1
    assert f"{reason}. The portable loop runs instead" in done.stderr


FIND = "import gru_xp\nfrom gru_xp.core.accelerators import find\n"


@pytest.mark.parametrize(
    ("libraries", "code", "warnings"),
    [
        # An error without words, after another library's accelerator has been found.
        (["array_api_strict"], "find('numpy')\nfind('array_api_strict')\n", 1),
        (["numpy", "array_api_strict"], "find('numpy')\nfind('array_api_strict')\n", 1),
        (
            ["numpy", "array_api_strict"],
            "with gru_xp.use_accelerators(False):\n    find('numpy')\nfind('array_api_strict')\n",
            1,
        ),
        (["numpy"], "with gru_xp.use_accelerators(False):\n    find('numpy')\n", 0),
    ],
)
def test_one_reason_is_told_once_to_who_has_not_switched_them_off(
    tmp_path: Any, libraries: list[str], code: str, warnings: int
) -> None:
    write_accelerator(tmp_path, "raise ImportError\n", *libraries)
    done = run(FIND + code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("RuntimeWarning") == warnings


@pytest.mark.parametrize(
    ("source", "lack"),
    [
        ("forward = None\n", "function forward"),
        ("def forward(): ...\n", "function backward"),
        ("def forward(): ...\nbackward, OPTIONS = forward, ['lengths']\n", "frozenset OPTIONS"),
    ],
)
def test_an_accelerator_that_lacks_what_it_must_have_is_not_used(
    tmp_path: Any, source: str, lack: str
) -> None:
    write_accelerator(tmp_path, source)
    done = run(STEP + "print(gru_xp.backends()[0].accelerator)\n", tmp_path)
    assert done.stdout == "(1, 3) (1, 3)\nNone\n"
    assert f"failed to load: AttributeError: it has no {lack}" in done.stderr


CONTRACT = [
    (protocol, name)
    for protocol in (Accelerator, OptionalFunctions)
    for name, member in vars(protocol).items()
    if isinstance(member, staticmethod)
]


@pytest.mark.parametrize("library", list(libraries.NAMESPACES))
@pytest.mark.parametrize(("protocol", "function"), CONTRACT, ids=[name for _, name in CONTRACT])
def test_every_accelerator_takes_the_arguments_of_the_contract(
    protocol: Any, function: str, library: str
) -> None:
    if libraries.unusable(library):
        pytest.skip(libraries.unusable(library))
    found = accelerators.find(library)
    if found.module is None:
        pytest.skip(f"{library}: {found.reason}")
    own = getattr(found.module, function, None)
    if own is None and protocol is OptionalFunctions:
        pytest.skip(f"{library}'s accelerator has no {function}")
    if own is not None and not inspect.isfunction(own):
        pytest.skip(f"{library}'s {function} is compiled, and does not tell its signature")
    got = inspect.signature(own)  # type: ignore[arg-type]
    expected = inspect.signature(getattr(protocol, function))
    for each in (got, expected):
        assert all(p.default in (p.empty, None, True, 0.2) for p in each.parameters.values())
    assert [(p.name, p.kind, p.default) for p in got.parameters.values()] == [
        (p.name, p.kind, p.default) for p in expected.parameters.values()
    ]


@dataclass(frozen=True, eq=False)
class Invented(Loop):
    """A loop with options that nobody knows."""

    every_other_step: bool = False
    share: float = 0.0
    rows: Any = None


def test_a_loop_names_the_options_in_use() -> None:
    array = np.zeros(3)
    assert Loop().options() == []
    assert Loop(lengths=array, reverse=True).options() == ["lengths", "reverse"]
    assert Loop(reset_after=False).options() == ["reset_after"]
    share = float("0")  # equal to the default, and another object
    assert Invented(share=share, rows=None).options() == []
    assert Invented(share=0.5, rows=array).options() == ["share", "rows"]


def test_an_option_that_nobody_has_heard_of_is_declined_by_every_accelerator(
    accelerated: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    lib = accelerated
    module = accelerators.find(lib.name).module
    assert module is not None
    asked: list[str] = []

    def spy(name: str) -> Any:
        own = getattr(module, name)
        return lambda *arguments, **options: asked.append(name) or own(*arguments, **options)

    for name in ("forward", "backward"):
        monkeypatch.setattr(module, name, spy(name))
    arrays = [lib.array(draw(*shape, seed=0)) for shape in ((4, N, 3 * H), (N, H), (3 * H, H))]
    results = []
    with gru_xp.use_accelerators(True):
        for loop in (Loop(), Invented(every_other_step=True)):
            h, tape = recurrence.forward(*arrays, None, loop, keep_tape=True, place=lib.place())
            assert tape is not None
            gradients = recurrence.backward(h, None, tape, arrays[2], loop, place=lib.place())
            results.append([lib.numpy(each) for each in (h, *gradients)])
    assert asked == ["forward", "backward"]  # for the first alone
    for one, other in zip(*results, strict=True):  # and the portable loop ran in its place
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-13)


def test_an_accelerator_gets_the_options_that_it_takes_and_no_other(
    lib: Library, recording: Any
) -> None:
    place, lengths = lib.place(), lib.array([4, 0, 2], "int64")
    with gru_xp.use_accelerators(True):
        for loop, taken in (
            (Loop(), True),
            (Loop(lengths=lengths), True),
            (Loop(reverse=True), False),
            (Loop(lengths=lengths, reset_after=False), False),
        ):
            asked = accelerators.accelerated("forward", place, loop)
            assert asked is (recording.forward if taken else None)


def test_a_whole_gru_in_eval_goes_to_an_accelerator_that_has_sequence(
    lib: Library, recording: Any
) -> None:
    gru = gru_xp.GRU(I, H, backend=lib.name, device=lib.device, dtype="float64", rng=0)
    x, marked = lib.array(draw(4, N, I, seed=0)), object()
    given: list[Any] = []

    def sequence(*arguments: Any) -> Any:
        given.append(arguments)
        return (marked, marked) if len(given) == 2 else NotImplemented

    with gru_xp.use_accelerators(False):
        wanted, _ = gru.eval()(x, lengths=[4, 0, 2])
    with gru_xp.use_accelerators(True):
        recording.sequence = sequence
        gru.train()(x)
        gru.eval()(x, return_gates=True)
        assert given == []  # which leave a tape, or need one
        lib.assert_close(gru(x, lengths=[4, 0, 2])[0], lib.numpy(wanted), atol=1e-14)  # declined
        assert gru(x, lengths=[4, 0, 2]) == (marked, marked)
    (its_x, h0, params, loop, form), _ = given
    assert its_x is x
    assert h0 is None
    assert [each.weight_ih is gru.weight_ih_l0 for each in params] == [True]
    assert loop.lengths == [4, 0, 2]  # as it was given
    assert form == (False, False)


@pytest.mark.parametrize("enabled", [True, False])
def test_torch_compile_traces_through_an_accelerator_and_its_switch(
    lib: Library, recording: Any, enabled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if lib.name != "torch":
        pytest.skip("about torch.compile")
    torch = pytest.importorskip("torch", reason="about torch")
    torch._dynamo.reset()
    from gru_xp.functional import gru_cell

    accelerators._let_torch_compile_ask()  # as where torch's accelerator is loaded
    place_marks = lib.array(np.full((1, N, H), 7.0))

    def forward(gx: Any, *arguments: Any, **options: Any) -> Any:
        return gx[..., :H] * 0 + place_marks, None

    recording.forward = forward
    params = make_cell(lib).params
    compiled = torch.compile(
        lambda x: gru_cell(params, x, keep_tape=False)[0], fullgraph=True, backend="eager"
    )
    x = lib.array(draw(N, I, seed=0))
    with gru_xp.use_accelerators(enabled):
        got = compiled(x)
    with gru_xp.use_accelerators(False):
        portable = gru_cell(params, x)[0]
    wanted = np.full((N, H), 7.0) if enabled else lib.numpy(portable)
    lib.assert_close(got, wanted, atol=1e-14)


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
    rest = (h0, weight_hh, None, Loop())
    assert module.forward(gx, *rest, keep_tape=True) is NotImplemented
    two = lib.xp.concat([gx, gx])
    assert module.forward(two, *rest, keep_tape=True) is not NotImplemented
