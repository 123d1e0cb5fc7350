"""GRUCell: one step of a gated recurrent unit, with memory for its backward."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from gru_xp import backend as array_libraries
from gru_xp import functional, parameters, validation
from gru_xp.equations import GateSlopes
from gru_xp.functional import CellTape
from gru_xp.parameters import GRUParams, IncompatibleKeys, gate
from gru_xp.typing import Array, Device, DType, Namespace


class _Packed:
    """A packed weight by torch's name; assignment checks the shape and copies."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, cell: GRUCell | None, owner: type) -> Any:
        return self if cell is None else getattr(cell._params, self.name)

    def __set__(self, cell: GRUCell, value: Array) -> None:
        cell._write({self.name: value})


class _GateWeight:
    """The rows of one gate in a packed weight, by the teaching interface's name."""

    def __init__(self, packed: str, index: int) -> None:
        self.packed = packed
        self.index = index

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, cell: GRUCell | None, owner: type) -> Any:
        return self if cell is None else gate(getattr(cell._params, self.packed), self.index)

    def __set__(self, cell: GRUCell, value: Array) -> None:
        cell._write_gate(self, value)


class _GateGradient:
    """The rows of one gate in a packed gradient; there from the first `backward` on."""

    def __init__(self, packed: str, index: int) -> None:
        self.packed = packed
        self.index = index

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, cell: GRUCell | None, owner: type) -> Any:
        if cell is None:
            return self
        if cell._gradients is None:
            raise AttributeError(f"{self.name} is there after backward(delta), which has not run")
        return gate(getattr(cell._gradients, self.packed), self.index)


class _Stored:
    """Something of the last `forward` that its tape holds."""

    def __init__(self, field: str) -> None:
        self.field = field

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, cell: GRUCell | None, owner: type) -> Any:
        if cell is None:
            return self
        if cell._tape is None:
            raise AttributeError(
                f"{self.name} is there after a forward in train(); none has run"
                if cell.training
                else f"{self.name} is not kept in eval(): call train(), then forward"
            )
        value = getattr(cell._tape, self.field)
        if self.field in ("x", "h"):
            return value
        return value if cell._tape.x.ndim == 2 else value[0, ...]


class _GateValueGradient:
    """The gradient with respect to one gate, of the last `backward`."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, cell: GRUCell | None, owner: type) -> Any:
        if cell is None:
            return self
        if cell._gate_gradients is None:
            raise AttributeError(f"{self.name} is there after backward(delta), which has not run")
        return getattr(cell._gate_gradients, self.name.removeprefix("d"))


class GRUCell:
    """A gated recurrent unit, one step a call.

    For the equations see `gru_xp.equations`. Two vocabularies name one storage: that of
    ``torch.nn.GRUCell`` (``cell(x, h)``, ``weight_ih``, ``state_dict()``) and that of a
    well-known teaching exercise (``forward(x, h_prev_t)``, ``backward(delta)``, ``Wrx``,
    ``dWrx``). The packed weights hold the numbers, gates in the order r, z, n; the twelve names
    ``Wrx Wzx Wnx Wrh Wzh Wnh brx bzx bnx brh bzh bnh`` are views of them.

    Parameters
    ----------
    input_size : int
        Number of input features, I.
    hidden_size : int
        Number of hidden units, H.
    bias : bool
        Without it both biases, and their names, are None.
    backend : str
        Array library: "numpy", "cupy", "torch", "jax", "array_api_strict", or "auto": CuPy where a
        CUDA device is usable, NumPy otherwise. `gru_xp.backends` tells why.
    device : optional
        Device of the weights: a name, an index or the library's own object; None for its default.
    dtype : optional
        A name ("float32", the default, "float64", "float16", "bfloat16") or the library's own.
    rng : int or numpy.random.Generator, optional
        Seed of the initial weights; one seed gives the same numbers on every backend.

    Attributes
    ----------
    weight_ih, weight_hh : array, (3H, I) and (3H, H)
    bias_ih, bias_hh : array, (3H,), or None
    Wrx, Wzx, Wnx : array, (H, I)
        Input weights of the reset gate, the update gate and the candidate.
    Wrh, Wzh, Wnh : array, (H, H)
        Recurrent weights.
    brx, bzx, bnx, brh, bzh, bnh : array, (H,), or None
        Biases.
    x, hidden : array
        Input of the last `forward` in training, and the state that it started from (copies).
    r, z, n : array, (H,) or (N, H)
        Its reset gate, update gate and candidate.
    dWrx, dWzx, dWnx, dWrh, dWzh, dWnh, dbrx, dbzx, dbnx, dbrh, dbzh, dbnh : array
        Gradients of the last `backward`: of that call alone, not accumulated.
    dr, dz, dn : array
        Its gradients with respect to the gates.
    training : bool
        Set by `train` and `eval`.

    Raises
    ------
    TypeError, ValueError
        If a size is no positive integer, or `dtype` no floating dtype.
    BackendError
        If the library, device or dtype cannot be had here.

    Notes
    -----
    The initial weights are drawn from U(-1/sqrt(H), 1/sqrt(H)), as torch draws them.

    Where arrays are mutable, a change in place, ``cell.Wrx[0, 0] = 1``, shows in the packed weights
    and in the next call. JAX arrays are not: there write
    ``cell.Wrx = cell.Wrx.at[0, 0].set(1)``. `to` and `init_weights` make new storage: views taken
    before belong to the old.

    Examples
    --------
    >>> import numpy as np
    >>> import gru_xp
    >>> cell = gru_xp.GRUCell(3, 4, rng=0)
    >>> x = np.ones((2, 3), dtype=np.float32)
    >>> h = cell(x)
    >>> dx, dh = cell.backward(np.ones_like(h))
    >>> h.shape, dx.shape, dh.shape, cell.dWrx.shape
    ((2, 4), (2, 3), (2, 4), (4, 3))
    """

    weight_ih = _Packed()
    weight_hh = _Packed()
    bias_ih = _Packed()
    bias_hh = _Packed()

    Wrx = _GateWeight("weight_ih", 0)
    Wzx = _GateWeight("weight_ih", 1)
    Wnx = _GateWeight("weight_ih", 2)
    Wrh = _GateWeight("weight_hh", 0)
    Wzh = _GateWeight("weight_hh", 1)
    Wnh = _GateWeight("weight_hh", 2)
    brx = _GateWeight("bias_ih", 0)
    bzx = _GateWeight("bias_ih", 1)
    bnx = _GateWeight("bias_ih", 2)
    brh = _GateWeight("bias_hh", 0)
    bzh = _GateWeight("bias_hh", 1)
    bnh = _GateWeight("bias_hh", 2)

    dWrx = _GateGradient("weight_ih", 0)
    dWzx = _GateGradient("weight_ih", 1)
    dWnx = _GateGradient("weight_ih", 2)
    dWrh = _GateGradient("weight_hh", 0)
    dWzh = _GateGradient("weight_hh", 1)
    dWnh = _GateGradient("weight_hh", 2)
    dbrx = _GateGradient("bias_ih", 0)
    dbzx = _GateGradient("bias_ih", 1)
    dbnx = _GateGradient("bias_ih", 2)
    dbrh = _GateGradient("bias_hh", 0)
    dbzh = _GateGradient("bias_hh", 1)
    dbnh = _GateGradient("bias_hh", 2)

    x = _Stored("x")
    hidden = _Stored("h")
    r = _Stored("r")
    z = _Stored("z")
    n = _Stored("n")

    dr = _GateValueGradient()
    dz = _GateValueGradient()
    dn = _GateValueGradient()

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        backend: str = "numpy",
        device: Device | str | int | None = None,
        dtype: DType | str | None = None,
        rng: np.random.Generator | int | None = None,
    ) -> None:
        self.input_size = parameters.positive_size("input_size", input_size)
        self.hidden_size = parameters.positive_size("hidden_size", hidden_size)
        self.bias = bool(bias)
        self.training = True
        self._forget()
        xp = array_libraries.namespace(array_libraries.resolve(backend)[0])
        place = array_libraries.as_device(xp, device)
        self._params = parameters.initial(
            self.input_size,
            self.hidden_size,
            bias=self.bias,
            rng=rng,
            xp=xp,
            dtype=array_libraries.as_dtype(xp, dtype, device=place),
            device=place,
        )

    # ---- one step -----------------------------------------------------------------------------

    def __call__(self, x: Array, h: Array | None = None) -> Array:
        """Return the next state; see `forward`."""
        return self.forward(x, h)

    def forward(self, x: Array, h_prev_t: Array | None = None) -> Array:
        """One step; in training, store `x`, `hidden`, `r`, `z` and `n` for `backward`.

        Parameters
        ----------
        x : array, (I,) or (N, I)
            Input, of the weights' library and device. A wider or narrower float computes in the
            promoted dtype; integers and booleans are cast to the weights' dtype.
        h_prev_t : array, (H,) or (N, H), optional
            State before the step; None means zeros.

        Returns
        -------
        h_t : array, (H,) or (N, H)
            State after the step.

        Raises
        ------
        ValueError
            If a shape or device does not fit.
        TypeError
            If an argument is no array, or one of another library or of a complex dtype.
        """
        xp = self._xp
        if self.training:
            x = _private(x, xp=xp)
            h_prev_t = _private(h_prev_t, xp=xp)
        h_t, tape = functional.step(
            self._params, x, h_prev_t, keep_tape=self.training, owner="GRUCell", xp=xp
        )
        self._tape = tape
        return h_t

    def backward(self, delta: Array) -> tuple[Array, Array]:
        """Gradients of the last `forward`; may be called more than once after it.

        Stores the gradients with respect to the weights (``dWrx`` ... ``dbnh``, and packed in
        `gradients`) and to the gates (``dr``, ``dz``, ``dn``). They are of this call alone.

        Parameters
        ----------
        delta : array, (H,) or (N, H)
            Gradient with respect to ``h_t``. Its rank decides that of the results: (1, H) is
            allowed after a forward of (I,).

        Returns
        -------
        dx : array, (I,) or (N, I)
            Gradient with respect to `x`.
        dh_prev_t : array, (H,) or (N, H)
            Gradient with respect to the state before the step.

        Raises
        ------
        RuntimeError
            If no `forward` has run in training before.
        ValueError, TypeError
            If `delta` has another shape, library or device than ``h_t``.
        """
        if not self.training:
            raise RuntimeError(
                "GRUCell.backward: the cell is in eval(), where no tape is kept: call train(), "
                "then forward, then backward"
            )
        if self._tape is None:
            raise RuntimeError(
                "GRUCell.backward: there is nothing to go back through: call forward first"
            )
        gradients, dx, dh = functional.step_backward(
            self._params, self._tape, delta, owner="GRUCell", xp=self._xp
        )
        self._gradients = gradients
        self._gate_gradients = functional.gate_gradients(self._tape, delta, xp=self._xp)
        return dx, dh

    def train(self, mode: bool = True) -> Self:
        """Keep a tape in `forward`, so that `backward` can follow; returns self."""
        self.training = bool(mode)
        if not self.training:
            self._tape = None
        return self

    def eval(self) -> Self:
        """Keep no tape in `forward`; returns self."""
        return self.train(False)

    # ---- weights ------------------------------------------------------------------------------

    @property
    def backend(self) -> str:
        """Name of the array library that holds the weights."""
        return array_libraries.name_of(self._xp)

    @property
    def device(self) -> Device:
        """Device of the weights, in their library's terms."""
        return array_libraries.device(self._params.weight_ih)

    @property
    def dtype(self) -> DType:
        """dtype of the weights, in their library's terms."""
        return self._params.weight_ih.dtype

    @property
    def params(self) -> GRUParams:
        """The packed weights themselves, as the functional form takes them."""
        return self._params

    def parameters(self) -> dict[str, Array]:
        """Return the packed weights themselves by torch's names, the absent biases left out."""
        return self._params.named()

    def gradients(self) -> dict[str, Array]:
        """Return the packed gradients of the last `backward` by the names of `parameters`."""
        if self._gradients is None:
            raise RuntimeError(
                "GRUCell.gradients: there are none yet: call forward, then backward"
            )
        return self._gradients.named()

    def state_dict(self) -> dict[str, Array]:
        """Return copies of the packed weights by torch's names."""
        return {name: self._xp.asarray(a, copy=True) for name, a in self.parameters().items()}

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> IncompatibleKeys:
        """Copy weights in, cast to the cell's dtype; arrays of NumPy or of the cell's library.

        Parameters
        ----------
        state : mapping
            Packed weights by torch's names, such as `state_dict` returns.
        strict : bool
            Whether missing and unexpected names are an error; else they are returned.

        Raises
        ------
        ValueError, TypeError
            If a name, shape, library or device does not fit. Then no weight has changed.
        """
        keys = parameters.compare_keys("GRUCell", state, self.parameters(), strict=strict)
        self._write({name: state[name] for name in self.parameters() if name in state})
        return keys

    def init_weights(
        self,
        Wrx: Array,
        Wzx: Array,
        Wnx: Array,
        Wrh: Array,
        Wzh: Array,
        Wnh: Array,
        brx: Array | None = None,
        bzx: Array | None = None,
        bnx: Array | None = None,
        brh: Array | None = None,
        bzh: Array | None = None,
        bnh: Array | None = None,
    ) -> None:
        """Replace all twelve weights by copies, and take on their (promoted) dtype.

        Parameters
        ----------
        Wrx, Wzx, Wnx : array, (H, I)
        Wrh, Wzh, Wnh : array, (H, H)
        brx, bzx, bnx, brh, bzh, bnh : array, (H,)
            To be left out, all six, in a cell without biases.

        Raises
        ------
        ValueError, TypeError
            If one has another shape than its name asks for, or no floating dtype. Then no weight
            has changed.
        """
        given = {
            "weight_ih": {"Wrx": Wrx, "Wzx": Wzx, "Wnx": Wnx},
            "weight_hh": {"Wrh": Wrh, "Wzh": Wzh, "Wnh": Wnh},
            "bias_ih": {"brx": brx, "bzx": bzx, "bnx": bnx},
            "bias_hh": {"brh": brh, "bzh": bzh, "bnh": bnh},
        }
        self._params = parameters.packed(given, like=self._params, xp=self._xp)
        self._forget()

    def reset_parameters(self, rng: np.random.Generator | int | None = None) -> None:
        """Draw new initial weights, in place; see the class for `rng`."""
        fresh = parameters.initial(
            self.input_size,
            self.hidden_size,
            bias=self.bias,
            rng=rng,
            xp=self._xp,
            dtype=self.dtype,
            device=self.device,
        )
        self._write(fresh.named())

    def to(
        self,
        *,
        backend: str | None = None,
        device: Device | str | int | None = None,
        dtype: DType | str | None = None,
    ) -> Self:
        """Move the weights to another array library, device or dtype, in place; returns self.

        What is None stays as it is, but for the device, which is the library's default where the
        library changes. Gradients, and what the last `forward` stored, are dropped.

        Raises
        ------
        BackendError
            If the library, device or dtype cannot be had here. Then the cell has not changed.
        """
        self._params = parameters.moved(
            self._params, backend_name=backend, device=device, dtype=dtype, xp=self._xp
        )
        self._forget()
        return self

    def __repr__(self) -> str:
        bias = "" if self.bias else ", bias=False"
        dtype = array_libraries.dtype_name(self.dtype)
        return (
            f"GRUCell({self.input_size}, {self.hidden_size}{bias}, backend={self.backend!r}, "
            f"device={str(self.device)!r}, dtype={dtype!r})"
        )

    # ---- inside -------------------------------------------------------------------------------

    @property
    def _xp(self) -> Namespace:
        return array_libraries.array_namespace(self._params.weight_ih)

    def _forget(self) -> None:
        self._tape: CellTape | None = None
        self._gradients: GRUParams | None = None
        self._gate_gradients: GateSlopes | None = None

    def _write(self, values: Mapping[str, Any]) -> None:
        """Copy values into the packed weights; all are checked before the first is written."""
        self._params = parameters.written(self._params, values, xp=self._xp)

    def _write_gate(self, name: _GateWeight, value: Any) -> None:
        packed = getattr(self._params, name.packed)
        if packed is None:
            raise AttributeError(f"{name.name}: this cell was made with bias=False")
        rows = gate(packed, name.index)
        value = parameters.converted(value, rows, name=name.name, xp=self._xp)
        replaced = parameters.with_gate(packed, name.index, value, xp=self._xp)
        self._params = self._params._replace(**{name.packed: replaced})


def _private(array: Any, /, *, xp: Namespace) -> Any:
    """Copy an array, so that a later change by the caller cannot reach the tape.

    What is no array of ours, or cannot change, is passed on.
    """
    if array_libraries.name_of(xp) == "jax" or not array_libraries.is_array(array):
        return array
    if array_libraries.array_namespace(array) is not xp:
        return array
    return xp.asarray(array, copy=True)
