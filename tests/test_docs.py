"""The pages in docs: their code runs, and what they say of the code holds."""

from __future__ import annotations

import inspect
import re
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gru_xp
from gru_xp.interop.layouts import LAYOUTS, Layout, Stored
from tests.frameworks import imported

DOCS = Path(__file__).parents[1] / "docs"
WEIGHTS = ["Wrx", "Wzx", "Wnx", "Wrh", "Wzh", "Wnh", "brx", "bzx", "bnx", "brh", "bzh", "bnh"]
OPTIONAL = ("torch", "jax", "keras", "flax", "haiku", "onnx")


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


def run(block: str, names: dict[str, Any]) -> None:
    for name in OPTIONAL:
        if re.search(rf"^(import|from) {name}\b|gru_xp\.interop\.{name}\b", block, re.MULTILINE):
            imported(name)
    exec(compile(block, "docs", "exec"), names)


# --- The site's own pages


@pytest.mark.parametrize("page", ["index.md", "equations.md"])
def test_the_code_of_a_page_runs(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code = blocks(page)
    assert code
    for block in code:
        run(block, {})


def test_the_version_of_the_package_is_that_of_its_metadata() -> None:
    project = tomllib.loads((DOCS.parent / "pyproject.toml").read_text())["project"]
    assert gru_xp.__version__ == project["version"]
    assert f"\nversion: {project['version']}\n" in (DOCS.parent / "CITATION.cff").read_text()
    assert f"({project['version']})" in (DOCS.parent / "CHANGELOG.md").read_text()


# --- Which bias goes where


@pytest.mark.parametrize("block", blocks("biases.md"), ids=lambda block: block.splitlines()[0])
def test_a_block_of_the_page_on_biases_runs(
    block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run(block, {})


@pytest.mark.parametrize("block", blocks("onnx.md"), ids=["writes and reads", "mends"])
def test_a_block_of_the_page_on_onnx_runs(
    block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    imported("onnx")
    from gru_xp.interop import onnx

    onnx.save(gru_xp.GRU(3, 4, reset_after=False), "exported.onnx")  # as a wrong exporter does
    run(block, names := {})
    assert names["gru"].reset_after


def table() -> list[str]:
    """The table of conventions, as the page has it."""
    head = [
        "| | matrices | gates | biases | `z` weighs | `r` acts |",
        "|---|---|---|---|---|---|",
    ]
    return head + [f"| {' | '.join(row(layout))} |" for layout in LAYOUTS]


def row(layout: Layout) -> list[str]:
    matrices = [each for each in layout.arrays if not each.is_bias]
    biases = [
        f"`{each.name}` {each.shape}: {terms(layout, each)}"
        for each in layout.arrays
        if each.is_bias
    ]
    return [
        layout.name,
        "<br>".join(f"`{each.name}` {each.shape}" for each in matrices),
        " ".join(gates_of(matrices)),
        "<br>".join(biases) + ("<br>or none" if layout.bias_optional else ""),
        "candidate" if layout.z_weighs_candidate else "state",
        {True: "after", False: "before", None: "either"}[layout.reset_after],
    ]


def gates_of(matrices: list[Stored]) -> str:
    of_input = [each for each in matrices if each.blocks[0].source == "weight_ih"]
    return "".join(block.gates for each in of_input for block in each.blocks)


def terms(layout: Layout, stored: Stored) -> str:
    """What an array of biases holds, one term for each gate."""
    return ", ".join(
        " + ".join(f"b_{half}{gate}" for half in halves(layout, block.source, gate))
        for block in stored.blocks
        for gate in block.gates
    )


def halves(layout: Layout, source: str, gate: str) -> str:
    """Of which of the two products the biases are, i or h, that one number is the sum of."""
    if source != "bias":
        return source.removeprefix("bias_")[0]
    return "i" if gate == "n" and layout.reset_after else "ih"  # r scales b_hn, which is no part


def test_the_table_is_that_of_the_layouts() -> None:
    lines = (DOCS / "biases.md").read_text().splitlines()
    first = lines.index(table()[0])
    assert lines[first : first + len(table())] == table()
    assert not lines[first + len(table())].startswith("|")


@pytest.mark.parametrize("page", [path.name for path in sorted(DOCS.glob("*.md"))])
def test_the_links_of_a_page_lead_to_files(page: str) -> None:
    for link in re.findall(r"\]\((?!http)([^)#]+)", (DOCS / page).read_text()):
        assert (DOCS / link).exists(), link


def test_the_keras_and_our_padding_differ_as_the_page_says() -> None:
    keras = imported("keras")
    from gru_xp.interop.keras import from_keras

    layer = keras.layers.GRU(4, return_sequences=True)
    x = np.random.default_rng(0).normal(size=(1, 3, 2)).astype("float32")
    theirs = keras.ops.convert_to_numpy(layer(x, mask=np.array([[True, False, False]])))
    ours = from_keras(layer)(x, lengths=[1])[0]
    np.testing.assert_allclose(theirs[:, 0], ours[:, 0], atol=1e-6)
    assert np.array_equal(theirs[:, 2], theirs[:, 0])
    assert not ours[:, 1:].any()


# --- From a course


@pytest.fixture(scope="module")
def guide(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Run the guide's code, of which the first block is a file, and return what it leaves."""
    shim, *rest = blocks("from-a-course.md")
    folder = tmp_path_factory.mktemp("course")
    (folder / "mytorch").mkdir()
    (folder / "mytorch" / "gru_cell.py").write_text(shim)
    names: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        for block in rest:
            run(block, names)
        exec("from mytorch.gru_cell import *", star := {})
    return names | {"star": star}


def test_the_shim_is_one_line_that_gives_the_class(guide: dict[str, Any]) -> None:
    assert blocks("from-a-course.md")[0].count("\n") == 1
    assert guide["GRUCell"] is guide["star"]["GRUCell"] is gru_xp.GRUCell


def test_the_shapes_of_a_course_are_taken() -> None:
    cell = gru_xp.GRUCell(5, 2)
    assert cell(np.ones(5), np.zeros(2)).shape == (2,)
    assert [each.shape for each in cell.backward(np.ones(2))] == [(5,), (2,)]
    assert [each.shape for each in cell.backward(np.ones((1, 2)))] == [(1, 5), (1, 2)]
    assert cell(np.ones((3, 5)), np.zeros((3, 2))).shape == (3, 2)
    assert [each.shape for each in cell.backward(np.ones((3, 2)))] == [(3, 5), (3, 2)]


def test_init_weights_has_the_order_of_the_guide_and_copies(guide: dict[str, Any]) -> None:
    cell, names, weights = guide["cell"], guide["names"], guide["weights"]
    assert names == WEIGHTS == list(inspect.signature(cell.init_weights).parameters)
    for name, array in zip(names, weights, strict=True):
        np.testing.assert_array_equal(getattr(cell, name), array)
        assert not np.shares_memory(getattr(cell, name), array)
    assert cell.dtype == np.float64
    assert gru_xp.GRUCell(5, 2).dtype == np.float32


def test_six_matrices_by_name_are_those_of_the_equations(guide: dict[str, Any]) -> None:
    x, h = guide["rng"].normal(size=5), guide["rng"].normal(size=2)
    r = 1 / (1 + np.exp(-(guide["Wrx"] @ x + guide["Wrh"] @ h)))
    z = 1 / (1 + np.exp(-(guide["Wzx"] @ x + guide["Wzh"] @ h)))
    n = np.tanh(guide["Wx"] @ x + r * (guide["Wh"] @ h))
    np.testing.assert_allclose(guide["without"](x, h), (1 - z) * n + z * h, rtol=1e-12)


def test_weights_are_views_and_are_copied_in_when_assigned() -> None:
    cell = gru_xp.GRUCell(5, 2)
    assert np.shares_memory(cell.Wrx, cell.weight_ih)
    cell.Wrx[0, 0] = 9
    assert cell.weight_ih[0, 0] == 9
    array = np.full((2, 5), 3.0)
    cell.Wrx = array
    array[...] = 4
    assert (cell.weight_ih[:2] == 3).all()


def test_gradients_are_those_of_the_last_backward() -> None:
    cell = gru_xp.GRUCell(5, 2, rng=0)
    with pytest.raises(AttributeError, match="dWrx is not available before the first backward"):
        _ = cell.dWrx
    cell(np.ones(5), np.ones(2))
    cell.backward(np.ones(2))
    once = cell.dWrx.copy()
    cell.backward(np.ones(2))
    np.testing.assert_array_equal(cell.dWrx, once)
    cell.init_weights(*(getattr(cell, name) for name in WEIGHTS))
    with pytest.raises(AttributeError, match="dWrx is not available before the first backward"):
        _ = cell.dWrx


def test_backward_goes_through_the_last_forward() -> None:
    cell = gru_xp.GRUCell(5, 2, rng=0)
    cell(np.ones(5), np.ones(2))
    before = cell.backward(np.ones(2))[0]
    cell(np.zeros(5), np.ones(2))
    last = cell.backward(np.ones(2))[0]
    assert not np.array_equal(last, before)
    np.testing.assert_array_equal(cell.backward(np.ones(2))[0], last)  # no older step is reached


def test_steps_with_tapes_of_their_own_and_a_whole_sequence_have_one_gradient(
    guide: dict[str, Any],
) -> None:
    np.testing.assert_allclose(guide["gradient"][4:], guide["dWnh"], rtol=1e-10)
    np.testing.assert_allclose(guide["y"][-1], guide["h"], rtol=1e-10)
    np.testing.assert_allclose(guide["dh0"][0], guide["dh"], rtol=1e-10)
    assert np.abs(guide["dWnh"]).min() > 1e-3
    eps = 1e-6
    changed = guide["gru"].state_dict()
    sums = []
    for sign in (1, -1):
        changed["weight_hh_l0"][4, 1] += sign * eps
        guide["gru"].load_state_dict(changed)
        sums.append(guide["gru"](guide["xs"])[0].sum())
        changed["weight_hh_l0"][4, 1] -= sign * eps
    np.testing.assert_allclose((sums[0] - sums[1]) / (2 * eps), guide["dWnh"][0, 1], rtol=1e-5)


def test_in_eval_there_is_no_tape_and_unknown_attributes_are_errors() -> None:
    cell = gru_xp.GRUCell(5, 2)
    assert cell.training
    cell.eval()(np.ones(5), np.zeros(2))
    with pytest.raises(RuntimeError, match="in eval"):
        cell.backward(np.ones(2))
    with pytest.raises(AttributeError, match="no attribute 'd'"):
        cell.d = 5
    assert (cell.input_size, cell.hidden_size) == (5, 2)
