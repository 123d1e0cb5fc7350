"""Weights from torch's modules and to them: the same outputs, options and all, real torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gru_xp
from gru_xp.arrays import dtypes
from tests.library import Library

torch = pytest.importorskip("torch", reason="torch is not installed")
interop = pytest.importorskip("gru_xp.interop.torch")

OPTIONS = pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_layers": 2, "batch_first": True, "dropout": 0.5},
        {"bidirectional": True, "bias": False},
        {"num_layers": 11, "bidirectional": True},
    ],
    ids=str,
)
T, N, I, H = 6, 3, 3, 5  # noqa: E741


def inputs(batch_first: bool = False) -> Any:
    shape = (N, T, I) if batch_first else (T, N, I)
    return torch.from_numpy(np.random.default_rng(1).standard_normal(shape))


def assert_outputs_equal(lib_numpy: Any, ours: Any, theirs: Any) -> None:
    for our, their in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(lib_numpy(our), their.detach().numpy(), rtol=1e-9, atol=1e-12)


@OPTIONS
@pytest.mark.parametrize("training", [True, False])
def test_a_gru_of_torch_becomes_ours(lib: Library, options: dict[str, Any], training: bool) -> None:
    theirs = torch.nn.GRU(I, H, **options).double().train(training)
    ours = interop.from_torch(theirs, backend=lib.name, device=lib.device)
    assert ours.training == training
    assert (ours.batch_first, ours.dropout) == (theirs.batch_first, theirs.dropout)
    assert dtypes.dtype_name(ours.dtype) == "float64"
    x = inputs(ours.batch_first)
    assert_outputs_equal(lib.numpy, ours.eval()(lib.array(x.numpy())), theirs.eval()(x))


def test_dropout_of_one_layer_comes_without_torchs_warning() -> None:
    theirs = interop.to_torch(gru_xp.GRU(I, H, dropout=0.5))
    assert theirs.dropout == 0.5


@OPTIONS
@pytest.mark.parametrize("training", [True, False])
def test_our_gru_becomes_torchs(lib: Library, options: dict[str, Any], training: bool) -> None:
    ours = gru_xp.GRU(
        I, H, **options, backend=lib.name, device=lib.device, dtype="float64", rng=0
    ).train(training)
    theirs = interop.to_torch(ours)
    assert theirs.training == training
    assert (theirs.batch_first, theirs.dropout) == (ours.batch_first, ours.dropout)
    x = inputs(ours.batch_first)
    assert_outputs_equal(lib.numpy, ours.eval()(lib.array(x.numpy())), theirs.eval()(x))


@pytest.mark.parametrize("bias", [True, False])
def test_a_cell_goes_there_and_back(lib: Library, bias: bool) -> None:
    theirs = torch.nn.GRUCell(I, H, bias=bias).double()
    ours = interop.from_torch(theirs, backend=lib.name, device=lib.device)
    x = inputs()[0]
    h = ours(lib.array(x.numpy()))
    assert_outputs_equal(lib.numpy, [h], [theirs(x)])
    back = interop.to_torch(ours).state_dict()
    assert list(back) == list(theirs.state_dict())
    assert all(torch.equal(back[name], value) for name, value in theirs.state_dict().items())


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_every_dtype_goes_there_and_back(dtype: str) -> None:
    theirs = torch.nn.GRU(I, H, dtype=getattr(torch, dtype))
    ours = interop.from_torch(theirs, backend="torch")
    assert dtypes.dtype_name(ours.dtype) == dtype
    back = interop.to_torch(ours)
    for name, value in theirs.state_dict().items():
        assert back.state_dict()[name].dtype == value.dtype
        assert torch.equal(back.state_dict()[name], value)


def test_the_weights_are_copies() -> None:
    theirs = torch.nn.GRU(I, H)
    ours = interop.from_torch(theirs, backend="torch")
    back = interop.to_torch(ours)
    before = ours.state_dict()
    with torch.no_grad():
        for each in (theirs, back):
            each.weight_hh_l0.zero_()
    assert torch.equal(ours.weight_hh_l0, before["weight_hh_l0"])
    assert all(parameter.requires_grad for parameter in back.parameters())


def test_a_module_is_made_on_the_cpu_wherever_torch_makes_others() -> None:
    ours = gru_xp.GRU(I, H, rng=0)
    with torch.device("meta"):
        theirs = interop.to_torch(ours)
    assert torch.equal(theirs.weight_hh_l0, torch.from_numpy(ours.weight_hh_l0))


def test_a_part_of_a_module_and_of_a_state_dict() -> None:
    whole = torch.nn.ModuleDict(
        {"coder": torch.nn.ModuleDict({"rnn": torch.nn.GRU(I, H, batch_first=True)})}
    )
    x = inputs(batch_first=True).float()
    expected = whole["coder"]["rnn"](x)[0].detach().numpy()
    ours = interop.from_torch(whole, prefix="coder.rnn.")
    np.testing.assert_allclose(ours(x.numpy())[0], expected, rtol=1e-5, atol=1e-6)
    ours = interop.from_torch(whole.state_dict(), prefix="coder.rnn.")
    assert not ours.batch_first
    assert np.array_equal(ours.weight_hh_l0, whole["coder"]["rnn"].weight_hh_l0.detach().numpy())


def test_computed_weights_are_taken_as_they_are() -> None:
    theirs = torch.nn.GRU(I, H).double()
    torch.nn.utils.parametrizations.weight_norm(theirs, "weight_hh_l0")
    with torch.no_grad():
        theirs.parametrizations.weight_hh_l0.original0.mul_(2)
    ours = interop.from_torch(theirs)
    assert_outputs_equal(np.asarray, ours(inputs().numpy()), theirs(inputs()))


def test_names_that_are_no_strings_are_ignored_with_a_prefix() -> None:
    state: dict[Any, Any] = {**torch.nn.GRU(3, 4).state_dict(prefix="rnn."), 1: torch.ones(2)}
    assert interop.from_torch(state, prefix="rnn.").hidden_size == 4


def test_what_is_refused() -> None:
    whole: Any = torch.nn.ModuleDict({"rnn": torch.nn.GRU(I, H), "head": torch.nn.Linear(H, 1)})
    with pytest.raises(TypeError, match=r"got ModuleDict\. Pass prefix='rnn\.'"):
        interop.from_torch(whole)
    with pytest.raises(TypeError, match="got Linear, which contains neither"):
        interop.from_torch(whole, prefix="head.")
    with pytest.raises(ValueError, match="no submodule 'tail'"):
        interop.from_torch(whole, prefix="tail.")
    with pytest.raises(
        ValueError, match=r"expected weights with the names .*found none. Pass prefix='rnn\.'"
    ):
        interop.from_torch(whole.state_dict())
    with pytest.raises(TypeError, match="got LSTM"):
        interop.from_torch(torch.nn.LSTM(I, H))
    with pytest.raises(ValueError, match="expected weight_hh_l0 of shape \\(3H, H\\)"):
        interop.from_torch(torch.nn.LSTM(I, H).state_dict())
    projected = torch.nn.GRU(I, H).state_dict() | {"weight_hr_l0": torch.ones(2, H)}
    with pytest.raises(ValueError, match=r"weight_hr_l0 is of shape .* should be absent"):
        interop.from_torch(projected)
    with pytest.raises(TypeError, match=r"got OrderedDict for the name 'model'. Pass that"):
        interop.from_torch({"model": whole.state_dict(), "epoch": 3})
    with pytest.raises(TypeError, match=r"got NoneType for the name '_extra_state'$"):
        interop.from_torch({**torch.nn.GRU(I, H).state_dict(), "_extra_state": None})
    with pytest.raises(TypeError, match="got list"):
        interop.from_torch([])
    with pytest.raises(TypeError, match=r"got GRU$"):
        interop.to_torch(whole["rnn"])
    with pytest.raises(ValueError, match="reset_after=False"):
        interop.to_torch(gru_xp.GRU(I, H, reset_after=False))
    with pytest.raises(
        ValueError, match=r"reverse=True cannot be converted.* reverse the steps of each row"
    ):
        interop.to_torch(gru_xp.GRU(I, H, reverse=True))
    with pytest.raises(gru_xp.BackendError, match="bfloat16"):
        interop.from_torch(torch.nn.GRU(I, H, dtype=torch.bfloat16))
