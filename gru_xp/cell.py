"""GRUCell: one step of a gated recurrent unit, with stored state for its backward pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

import numpy as np

from gru_xp.arrays import door, transfer
from gru_xp.arrays.typing import A, Array, Backend, Device, DType, NumPyArray, Where
from gru_xp.core import parameters, step
from gru_xp.core.accelerators import accelerated
from gru_xp.core.equations import GateGradients
from gru_xp.core.parameters import GRUParams
from gru_xp.core.step import CellTape
from gru_xp.module import Module, explains_leaked_tracers
from gru_xp.names import GateGradient, GateWeight, GateWeightGradient, Packed, Stored

if TYPE_CHECKING:
    from gru_xp.arrays.typing import JaxArray, TorchArray


class GRUCell(Module[A]):
    """A gated recurrent unit cell that computes one time step per call.

    The equations are given in `gru_xp.core.equations`. The weights can be accessed by two sets of
    names: those of ``torch.nn.GRUCell`` (``cell(x, h)``, ``weight_ih``, ``state_dict()``) and
    those of a well-known teaching exercise (``forward(x, h_prev_t)``, ``backward(delta)``,
    ``Wrx``, ``dWrx``). The packed weights are the storage, with the gates in the order r, z, n.
    The twelve names ``Wrx Wzx Wnx Wrh Wzh Wnh brx bzx bnx brh bzh bnh`` are views of it.

    Parameters
    ----------
    input_size : int
        Number of input features, I.
    hidden_size : int
        Number of hidden units, H.
    bias : bool
        If False, the cell has no biases, and all bias attributes are None.
    reset_after : bool
        If True, the reset gate is applied after the recurrent matrix product, as in torch and
        cuDNN. If False, it is applied before the product, as in Cho et al. (2014).
    backend : str
        Array library: "numpy", "cupy", "torch", "jax", "array_api_strict" or "auto". "auto"
        selects CuPy if a CUDA device is usable, and NumPy otherwise; `gru_xp.backends` reports
        the reason.
    device : optional
        Device of the weights: a name, an index or the library's own device object. None selects
        the library's default.
    dtype : optional
        Dtype of the weights: "float32" (the default), "float64", "float16", "bfloat16" or the
        library's own dtype object.
    rng : int or numpy.random.Generator, optional
        Seed or generator for the initial weights. The same seed gives the same weights on every
        backend.

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
        Copies of the input and of the initial state of the last `forward` in training mode.
    r, z, n : array, (H,) or (N, H)
        Reset gate, update gate and candidate of that call.
    dWrx, dWzx, dWnx, dWrh, dWzh, dWnh, dbrx, dbzx, dbnx, dbrh, dbzh, dbnh : array
        Gradients computed by the last `backward`. They are not accumulated over calls.
    dr, dz, dn : array
        Gradients with respect to the gates, of the last `backward`.
    training : bool
        Whether the cell is in training mode; set by `train` and `eval`.

    Raises
    ------
    TypeError, ValueError
        If a size is not a positive integer, or `dtype` is not a floating dtype.
    BackendError
        If the library, device or dtype is not available.

    Notes
    -----
    The initial weights are drawn from U(-1/sqrt(H), 1/sqrt(H)), as in torch.

    In libraries with mutable arrays, an in-place change such as ``cell.Wrx[0, 0] = 1`` also changes
    the packed weights and takes effect in the next call. JAX arrays are immutable; there, write
    ``cell.Wrx = cell.Wrx.at[0, 0].set(1)`` instead. `to` and `init_weights` allocate new storage;
    views taken before the call keep referring to the old storage.

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

    weight_ih = Packed()
    weight_hh = Packed()
    bias_ih = Packed()
    bias_hh = Packed()

    Wrx = GateWeight("weight_ih", 0)
    Wzx = GateWeight("weight_ih", 1)
    Wnx = GateWeight("weight_ih", 2)
    Wrh = GateWeight("weight_hh", 0)
    Wzh = GateWeight("weight_hh", 1)
    Wnh = GateWeight("weight_hh", 2)
    brx = GateWeight("bias_ih", 0)
    bzx = GateWeight("bias_ih", 1)
    bnx = GateWeight("bias_ih", 2)
    brh = GateWeight("bias_hh", 0)
    bzh = GateWeight("bias_hh", 1)
    bnh = GateWeight("bias_hh", 2)

    dWrx = GateWeightGradient("weight_ih", 0)
    dWzx = GateWeightGradient("weight_ih", 1)
    dWnx = GateWeightGradient("weight_ih", 2)
    dWrh = GateWeightGradient("weight_hh", 0)
    dWzh = GateWeightGradient("weight_hh", 1)
    dWnh = GateWeightGradient("weight_hh", 2)
    dbrx = GateWeightGradient("bias_ih", 0)
    dbzx = GateWeightGradient("bias_ih", 1)
    dbnx = GateWeightGradient("bias_ih", 2)
    dbrh = GateWeightGradient("bias_hh", 0)
    dbzh = GateWeightGradient("bias_hh", 1)
    dbnh = GateWeightGradient("bias_hh", 2)

    x = Stored("x")
    hidden = Stored("h")
    r = Stored("r")
    z = Stored("z")
    n = Stored("n")

    dr = GateGradient()
    dz = GateGradient()
    dn = GateGradient()

    reset_after: bool
    _checked_options = Module._checked_options | {"reset_after": parameters.flag}
    _params: GRUParams
    _tape: CellTape | None
    _delta: tuple[CellTape, Array, Array | None] | None
    """Tape and `delta` of the last backward, from which the gradients of the gates are computed on
    request. With reset_after=False also a copy of ``W_nh``, which may change before the request."""
    _of_gates: GateGradients | None
    """Gradients with respect to the gates, cached after the first request."""

    @overload
    def __init__(
        self: GRUCell[NumPyArray],
        input_size: int,
        hidden_size: int,
        bias: bool = ...,
        *,
        reset_after: bool = ...,
        backend: Literal["numpy"] = "numpy",
        **where: Unpack[Where],
    ) -> None: ...

    @overload
    def __init__(
        self: GRUCell[TorchArray],
        input_size: int,
        hidden_size: int,
        bias: bool = ...,
        *,
        reset_after: bool = ...,
        backend: Literal["torch"],
        **where: Unpack[Where],
    ) -> None: ...

    @overload
    def __init__(
        self: GRUCell[JaxArray],
        input_size: int,
        hidden_size: int,
        bias: bool = ...,
        *,
        reset_after: bool = ...,
        backend: Literal["jax"],
        **where: Unpack[Where],
    ) -> None: ...

    @overload
    def __init__(
        self: GRUCell[Any],
        input_size: int,
        hidden_size: int,
        bias: bool = ...,
        *,
        reset_after: bool = ...,
        backend: Backend,
        **where: Unpack[Where],
    ) -> None: ...

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        reset_after: bool = True,
        backend: str = "numpy",
        device: Device | str | int | None = None,
        dtype: DType | str | None = None,
        rng: np.random.Generator | int | None = None,
    ) -> None:
        self.reset_after = reset_after
        super().__init__(
            input_size, hidden_size, bias, backend=backend, device=device, dtype=dtype, rng=rng
        )

    @property
    def params(self) -> GRUParams:
        """The packed weights (not copies), in the form that `gru_xp.functional` takes."""
        return self._params

    def __call__(self, x: A, h: A | None = None) -> A:
        """Return the next state; see `forward`."""
        return self.forward(x, h)

    def forward(self, x: A, h_prev_t: A | None = None) -> A:
        """Compute one step. In training mode, store `x`, `hidden`, `r`, `z` and `n`.

        Parameters
        ----------
        x : array, (I,) or (N, I)
            Input, of the same library and on the same device as the weights. If its floating dtype
            differs from that of the weights, the step is computed in the promoted dtype. Integers
            and booleans are cast to the dtype of the weights.
        h_prev_t : array, (H,) or (N, H), optional
            State before the step. None means zeros.

        Returns
        -------
        h_t : array, (H,) or (N, H)
            State after the step.

        Raises
        ------
        ValueError
            If a shape or device does not match the weights.
        TypeError
            If an argument is not an array, belongs to another library or has a complex dtype.
        """
        h_t: A
        place, training = self._place, self.training
        if not training:
            quick = accelerated("step", place)
            if quick is not None:
                h_t = quick(x, h_prev_t, *self._params, self.reset_after)
                if h_t is not NotImplemented:
                    return h_t
        h_t, tape = step.forward(
            self._params,
            x,
            h_prev_t,
            reset_after=self.reset_after,
            keep_tape=training,
            copies=training,
            owner="GRUCell",
            place=place,
        )
        self._tape = transfer.detached(tape) if place.library == "torch" else tape
        return h_t

    @explains_leaked_tracers
    def backward(self, delta: A) -> tuple[A, A]:
        """Compute the gradients of the last `forward`.

        Stores the gradients with respect to the weights (``dWrx`` ... ``dbnh``, and packed in
        `gradients`) and with respect to the gates (``dr``, ``dz``, ``dn``). They replace those of
        the previous call. `backward` may be called several times after one `forward`.

        Parameters
        ----------
        delta : array, (H,) or (N, H)
            Gradient with respect to ``h_t``. The results have the same number of dimensions as
            `delta`; (1, H) is allowed after a `forward` with input (I,).

        Returns
        -------
        dx : array, (I,) or (N, I)
            Gradient with respect to `x`.
        dh_prev_t : array, (H,) or (N, H)
            Gradient with respect to the state before the step.

        Raises
        ------
        RuntimeError
            If `forward` has not been called in training mode.
        ValueError, TypeError
            If the shape, library or device of `delta` differs from that of ``h_t``, or if
            `reset_after` has changed since the forward.
        """
        tape = self._tape_for_backward(self._tape)
        place = self._place
        gradients, dx, dh = step.backward(
            self._params,
            tape,
            delta,
            reset_after=self.reset_after,
            owner="GRUCell",
            place=place,
        )
        weight_hn = None if self.reset_after else transfer.private(self.Wnh, place)
        self._delta, self._of_gates = (tape, transfer.private(delta, place), weight_hn), None
        self._gradients = gradients.named()
        return dx, dh

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
        """Replace all twelve weights by copies of the arguments.

        The cell takes on the dtype of the arguments, promoted if they differ.

        Parameters
        ----------
        Wrx, Wzx, Wnx : array, (H, I)
        Wrh, Wzh, Wnh : array, (H, H)
        brx, bzx, bnx, brh, bzh, bnh : array, (H,)
            Omit all six for a cell without biases.

        Raises
        ------
        ValueError, TypeError
            If an argument has the wrong shape or is not an array of real numbers. In that case
            no weight is changed.
        """
        given = {
            "weight_ih": {"Wrx": Wrx, "Wzx": Wzx, "Wnx": Wnx},
            "weight_hh": {"Wrh": Wrh, "Wzh": Wzh, "Wnh": Wnh},
            "bias_ih": {"brx": brx, "bzx": bzx, "bnx": bnx},
            "bias_hh": {"brh": brh, "bzh": bzh, "bnh": bnh},
        }
        with self._place.current():
            self._hold(parameters.packed(given, self._weights, self._place))
        self._forget()

    def __repr__(self) -> str:
        options = "".join(
            f", {name}=False"
            for name, value in (("bias", self.bias), ("reset_after", self.reset_after))
            if not value
        )
        return f"GRUCell({self.input_size}, {self.hidden_size}{options}, {self._where()})"

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return parameters.shapes(self.input_size, self.hidden_size, bias=self.bias)

    def _as_params(self) -> GRUParams:
        return GRUParams(**self._weights)

    def _forget_forward(self) -> None:
        self._tape = None
        self._delta = None
        self._of_gates = None

    def _gate_gradients(self) -> GateGradients | None:
        """Gradients with respect to the gates of the last `backward`; None before the first."""
        if self._of_gates is None and self._delta is not None:
            self._of_gates = step.gate_gradients(*self._delta, place=self._place)
        return self._of_gates

    def _with_gate(
        self, packed: dict[str, Array], name: GateWeight | GateWeightGradient, value: Any
    ) -> dict[str, Array]:
        """Return weights or gradients with a gate's rows replaced, in place where possible."""
        if name.packed not in packed:
            raise AttributeError(
                f"{name.name} cannot be assigned, as this GRUCell was created with bias=False"
            )
        array, place = packed[name.packed], self._place
        with place.current():
            shape = tuple(parameters.gate(array, name.index).shape)  # type: ignore[union-attr]
            value = door.taken_over(name.name, value, place, shape=shape)
            written = parameters.with_gate(array, name.index, value, xp=place.xp)
        return {**packed, name.packed: written}
