"""One-hot input by its indices against the one-hot rows themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gru_xp
from gru_xp.core import one_hot
from gru_xp.functional import GRUParams, OneHot, gru, gru_backward, gru_cell
from tests.library import Library

H = 3
BLOCK = one_hot._BLOCK


def weights(lib: Library, classes: int, form: Any, dtype: str = "float64") -> list[GRUParams]:
    """Two layers, of one direction or two."""
    rng = np.random.default_rng(classes)
    directions = 1 + form["bidirectional"]
    return [
        GRUParams(
            *(
                lib.array(0.5 * rng.normal(size=shape), dtype)
                for shape in ((3 * H, width), (3 * H, H), (3 * H,), (3 * H,))
            )
        )
        for width in (classes, directions * H)
        for _ in range(directions)
    ]


def drawn(classes: int, shape: tuple[int, ...], seed: int = 0) -> Any:
    """Indices some of which come often, as letters do."""
    rng = np.random.default_rng(seed)
    often = rng.integers(0, min(classes, 3), size=shape)
    return np.where(rng.random(shape) < 0.4, often, rng.integers(0, classes, size=shape))


FORMS = [
    {"batch_first": False, "bidirectional": False, "reset_after": True},
    {"batch_first": True, "bidirectional": True, "reset_after": False},
    {"batch_first": True, "bidirectional": False, "reverse": True},
]


@pytest.mark.feature("OneHot")
@pytest.mark.parametrize("form", FORMS, ids=["plain", "every option", "reverse"])
@pytest.mark.parametrize(
    ("classes", "steps", "rows"),
    [
        (5, 4, 3),
        (BLOCK + 1, 4, 3),  # more classes than rows, in one block
        (BLOCK + 1, 61, 9),  # blocks, of which the first ones hold little but the frequent
        (1, 3, 2),
        (BLOCK + 9, 0, 2),
    ],
)
def test_values_and_gradients_are_those_of_the_rows(
    lib: Library, form: Any, classes: int, steps: int, rows: int
) -> None:
    params = weights(lib, classes, form)
    shape = (rows, steps) if form["batch_first"] else (steps, rows)
    indices = drawn(classes, shape)
    lengths = np.random.default_rng(1).integers(0, steps + 1, size=rows)
    lengths[0] = steps
    dy = lib.array(np.random.default_rng(2).normal(size=(*shape, H * (1 + form["bidirectional"]))))
    wanted = gru(params, lib.array(np.eye(classes)[indices]), lengths=lengths, **form)
    got = gru(params, OneHot(lib.array(indices, "int32")), lengths=lengths, **form)
    for ours, theirs in zip(got[:2], wanted[:2], strict=True):
        lib.assert_close(ours, lib.numpy(theirs), atol=1e-14)
    ours, dx, dh0 = gru_backward(params, got[2], dy, **form)
    theirs, _, their_dh0 = gru_backward(params, wanted[2], dy, **form)
    assert dx is None
    lib.assert_close(dh0, lib.numpy(their_dh0), atol=1e-13)
    for mine, other in zip(ours, theirs, strict=True):
        for name, gradient in mine.named().items():
            lib.assert_close(gradient, lib.numpy(getattr(other, name)), atol=1e-12)


def test_a_sum_goes_on_over_blocks(lib: Library) -> None:
    """One class has the rows of three blocks and a half, its neighbours one row each."""
    classes, count = BLOCK + 10, 4 * BLOCK
    indices = np.full(count, 7)
    indices[:2], indices[2:4] = 6, 8
    indices[4 : BLOCK // 2] = np.arange(4, BLOCK // 2) + 10
    order = np.random.default_rng(0).permutation(count)
    drows = np.random.default_rng(1).normal(size=(count, 5))
    got = one_hot.weight_gradient(
        lib.array(indices[order], "int64"), lib.array(drows), classes, place=lib.place()
    )
    lib.assert_close(got, drows.T @ np.eye(classes)[indices[order]], atol=1e-12)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_16_bits_keep_their_dtype(lib: Library, dtype: str) -> None:
    lib.skip_without(dtype)
    form = FORMS[0]
    params, indices = weights(lib, BLOCK + 5, form, dtype), drawn(BLOCK + 5, (40, 8))
    exact = [GRUParams(*(lib.array(lib.numpy(array)) for array in each)) for each in params]
    y, _, tape = gru(params, OneHot(lib.array(indices, "int32")))
    wanted, _, their_tape = gru(exact, OneHot(lib.array(indices, "int32")))
    lib.assert_close(y, lib.numpy(wanted), atol=0.03, dtype=dtype)
    ours, _, _ = gru_backward(params, tape, y)
    theirs, _, _ = gru_backward(exact, their_tape, lib.array(lib.numpy(y)))
    largest = np.max(np.abs(lib.numpy(theirs[0].weight_ih)))
    lib.assert_close(
        ours[0].weight_ih, lib.numpy(theirs[0].weight_ih), atol=0.05 * largest, dtype=dtype
    )


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint32", "int64"])
def test_indices_may_be_of_any_integer_dtype(lib: Library, dtype: str) -> None:
    if getattr(lib.xp, dtype, None) is None or (lib.name, dtype) == ("jax", "int64"):
        pytest.skip(f"{lib.name} has no {dtype} here")
    params, indices = weights(lib, 9, FORMS[0]), drawn(9, (4, 2))
    y, _, tape = gru(params, OneHot(lib.array(indices, dtype)))
    wanted, _, _ = gru(params, lib.array(np.eye(9)[indices]))
    lib.assert_close(y, lib.numpy(wanted), atol=1e-14)
    gru_backward(params, tape, y)


def test_what_padding_holds_does_not_matter(lib: Library) -> None:
    params, indices = weights(lib, 9, FORMS[0]), drawn(9, (4, 2))
    lengths = [4, 2]
    wanted, _, tape = gru(params, OneHot(lib.array(indices, "int32")), lengths=lengths)
    indices[2, 1], indices[3, 1] = -1, 1_000_000
    y, _, odd = gru(params, OneHot(lib.array(indices, "int32")), lengths=lengths)
    lib.assert_close(y, lib.numpy(wanted), atol=0)
    ours, theirs = gru_backward(params, odd, y)[0], gru_backward(params, tape, y)[0]
    lib.assert_close(ours[0].weight_ih, lib.numpy(theirs[0].weight_ih), atol=0)


def test_one_sequence_needs_no_batch_axis(lib: Library) -> None:
    params, indices = weights(lib, 9, FORMS[0]), drawn(9, (4,))
    y, h_n, tape = gru(params, OneHot(lib.array(indices, "int32")))
    wanted, their_h_n, _ = gru(params, lib.array(np.eye(9)[indices]))
    lib.assert_close(y, lib.numpy(wanted), atol=1e-14)
    lib.assert_close(h_n, lib.numpy(their_h_n), atol=1e-14)
    assert gru_backward(params, tape, y)[1] is None


@pytest.mark.parametrize(("dtype", "base"), [("float16", 2048), ("bfloat16", 256)])
def test_16_bits_add_up_their_blocks_in_float32(lib: Library, dtype: str, base: int) -> None:
    """Sums of blocks that 16 bits hold, as they do their total, but not the sums on the way."""
    lib.skip_without(dtype)
    classes, blocks = BLOCK + 10, 11
    drows = np.zeros((blocks, BLOCK, 2))
    drows[0] = base / BLOCK
    drows[1:, 0] = 1
    got = one_hot.weight_gradient(
        lib.array(np.full(blocks * BLOCK, 4), "int32"),
        lib.array(drows.reshape(-1, 2), dtype),
        classes,
        place=lib.place(dtype),
    )
    lib.assert_close(got[:, 4], [base + 10, base + 10], atol=0, dtype=dtype)


def test_a_negative_index_means_the_same_forward_and_backward() -> None:
    """Where it is not checked: an index from the end, which JAX and torch's portable path take."""
    lib = Library("array_api_strict")
    for classes in (9, BLOCK + 4):
        drows = np.random.default_rng(0).normal(size=(3, 2))
        got = one_hot.weight_gradient(
            lib.array([1, -1, -1], "int32"), lib.array(drows), classes, place=lib.place()
        )
        wanted = drows.T @ np.eye(classes)[[1, -1, -1]]
        lib.assert_close(got, wanted, atol=1e-14)


@pytest.mark.parametrize(
    ("index", "told"), [(9, "got 9"), (-1, "got -1"), (2**32 + 1, "got 4294967297")]
)
def test_an_index_out_of_range_is_refused_on_numpy(index: int, told: str) -> None:
    params = weights(Library("numpy"), 9, FORMS[0])
    with pytest.raises(ValueError, match=f"from 0 to 8, because the weights .* {told}"):
        gru(params, OneHot(np.asarray([[0], [index]])))
    if index > 0:
        with pytest.raises(ValueError, match=told):
            gru(params, OneHot(np.asarray([[0], [index]], dtype=np.uint64)))


@pytest.mark.parametrize(
    ("indices", "error", "told"),
    [
        (np.asarray([[0.0]]), TypeError, "integer dtype, got float64"),
        (np.asarray([[True]]), TypeError, "integer dtype, got bool"),
        (np.zeros((1, 1, 1), dtype=int), ValueError, r"1-D \(time,\) or 2-D .* got 3-D"),
        ([[0]], TypeError, "the indices in OneHot to be an array of numpy"),
    ],
)
def test_wrong_indices_are_refused(indices: Any, error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        gru(weights(Library("numpy"), 9, FORMS[0]), OneHot(indices))


def test_the_classes_and_a_step_refuse_it_by_name() -> None:
    given: Any = OneHot(np.asarray([[0]]))
    for call in (
        lambda: gru_xp.GRU(3, 2)(given),
        lambda: gru_xp.GRU(3, 2).eval()(given),
        lambda: gru_xp.GRUCell(3, 2)(given),
        lambda: gru_xp.GRUCell(3, 2).eval()(given),
        lambda: gru_cell(weights(Library("numpy"), 9, FORMS[0])[0], given),
    ):
        with pytest.raises(TypeError, match=r"OneHot, which only gru_xp\.functional\.gru accepts"):
            call()


@pytest.mark.feature("OneHot", library="jax", under="jit")
def test_jax_jits_and_differentiates_it() -> None:
    jax = pytest.importorskip("jax", reason="jax is what is tested here")
    lib = Library("jax")
    classes = BLOCK + 3
    params = weights(lib, classes, FORMS[0], "float32")
    indices = lib.array(drawn(classes, (40, 8)), "int32")

    def loss(params: Any, x: Any) -> Any:
        return (gru(params, x)[0] ** 2).sum()

    @jax.jit  # type: ignore[untyped-decorator]
    def by_hand(params: Any, x: Any) -> Any:
        y, _, tape = gru(params, x)
        return gru_backward(params, tape, 2 * y)[0]

    ours = by_hand(params, OneHot(indices))
    theirs = jax.grad(loss)(params, jax.nn.one_hot(indices, classes))
    through = jax.grad(loss)(params, OneHot(indices))
    for got in (ours, through):
        for mine, other in zip(got, theirs, strict=True):
            for name, gradient in mine.named().items():
                lib.assert_close(gradient, lib.numpy(getattr(other, name)), atol=1e-4)


@pytest.mark.feature("OneHot", library="torch", under="compile")
def test_torch_compiles_it_without_a_warning() -> None:
    torch = pytest.importorskip("torch", reason="torch is what is tested here")
    lib = Library("torch")
    params, indices = weights(lib, 9, FORMS[0]), lib.array(drawn(9, (4, 2)), "int64")
    wanted, _, _ = gru(params, OneHot(indices), keep_tape=False)
    compiled = torch.compile(
        lambda indices: gru(params, OneHot(indices), keep_tape=False)[0],
        backend="aot_eager",
        fullgraph=True,
    )
    lib.assert_close(compiled(indices), lib.numpy(wanted), atol=1e-14)


@pytest.mark.feature("OneHot", library="torch")
def test_torch_differentiates_it() -> None:
    torch = pytest.importorskip("torch", reason="torch is what is tested here")
    lib = Library("torch")
    params = weights(lib, 9, FORMS[0])
    for each in params:
        for array in each:
            array.requires_grad_(True)
    indices = lib.array(drawn(9, (4, 2)), "int64")
    y, _, _ = gru(params, OneHot(indices))
    got = torch.autograd.grad(y.sum(), params[0].weight_ih)[0]
    again, _, _ = gru(params, torch.eye(9, dtype=torch.float64)[indices])
    theirs = torch.autograd.grad(again.sum(), params[0].weight_ih)[0]
    torch.testing.assert_close(got, theirs)
