"""GRU: whole sequences through layers and directions, with memory for the backward."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

import numpy as np

from gru_xp.arrays import transfer
from gru_xp.arrays.libraries import library_of
from gru_xp.arrays.typing import A, Array, Backend, Device, DType, NumPyArray, Where
from gru_xp.core import parameters, stack
from gru_xp.core.accelerators import accelerated
from gru_xp.core.loop import Loop
from gru_xp.core.parameters import Form, GRUParams
from gru_xp.core.stack import GateValues, GRUTape
from gru_xp.module import Module, explains_leaked_tracers
from gru_xp.stream import Stream

if TYPE_CHECKING:
    from gru_xp.arrays.typing import JaxArray, TorchArray


class GRU(Module[A]):
    """A gated recurrent unit over whole sequences, in layers and directions.

    The interface of ``torch.nn.GRU``. For the equations see `gru_xp.core.equations`.

    Parameters
    ----------
    input_size : int
        Number of input features, I.
    hidden_size : int
        Number of hidden units of each layer and direction, H.
    num_layers : int
        Layers after the first take the states of the one before as input.
    bias : bool
        Without it there are no biases.
    batch_first : bool
        Whether `x` and `y` are (N, T, ...) instead of (T, N, ...); states never are.
    dropout : float
        Probability with which a value between two layers is set to zero in training, in [0, 1).
        The others are scaled by 1 / (1 - dropout).
    bidirectional : bool
        Whether a second set of weights runs from each row's last step to its first.
    reverse : bool
        Whether the one direction runs from each row's last step to its first, ONNX's direction
        "reverse". The weights' names have no suffix. Not together with `bidirectional`.
    reset_after : bool
        Whether the reset gate acts after the recurrent product, as in torch and cuDNN, or, if
        False, before it, as in Cho et al. (2014).
    backend, device, dtype
        As in `GRUCell`.
    rng : int or numpy.random.Generator, optional
        Seed of the initial weights and of the dropout masks; one seed gives the same numbers on
        every backend.

    Attributes
    ----------
    weight_ih_l{k}, weight_hh_l{k} : array, (3H, K) and (3H, H)
        Weights of layer k, gates in the order r, z, n. K is I in the first layer, H in others, or
        2H with `bidirectional`. The reverse direction's names end in ``_reverse``.
    bias_ih_l{k}, bias_hh_l{k} : array, (3H,), or None
    training : bool
        Set by `train` and `eval`.

    Raises
    ------
    TypeError, ValueError
        If a size is no positive integer, `dropout` no number in [0, 1), or `dtype` no floating
        dtype, or if both of `bidirectional` and `reverse` are True.
    BackendError
        If the library, device or dtype cannot be had here.

    Examples
    --------
    >>> import numpy as np
    >>> import gru_xp
    >>> gru = gru_xp.GRU(3, 4, num_layers=2, bidirectional=True, rng=0)
    >>> x = np.ones((7, 2, 3), dtype=np.float32)
    >>> y, h_n = gru(x, lengths=[7, 5])
    >>> dx, dh0 = gru.backward(np.ones_like(y))
    >>> y.shape, h_n.shape, dx.shape, dh0.shape
    ((7, 2, 8), (4, 2, 4), (7, 2, 3), (4, 2, 4))
    """

    num_layers: int
    batch_first: bool
    dropout: float
    bidirectional: bool
    reverse: bool
    reset_after: bool
    _params: tuple[GRUParams, ...]
    _tape: GRUTape | None
    _rng: np.random.Generator
    _suffixes: list[str]
    """How the names of each layer's and direction's weights end, in the order of `params`."""

    @overload
    def __init__(
        self: GRU[NumPyArray],
        input_size: int,
        hidden_size: int,
        num_layers: int = ...,
        bias: bool = ...,
        batch_first: bool = ...,
        dropout: float = ...,
        bidirectional: bool = ...,
        *,
        reverse: bool = ...,
        reset_after: bool = ...,
        backend: Literal["numpy"] = "numpy",
        **where: Unpack[Where],
    ) -> None: ...

    @overload
    def __init__(
        self: GRU[TorchArray],
        input_size: int,
        hidden_size: int,
        num_layers: int = ...,
        bias: bool = ...,
        batch_first: bool = ...,
        dropout: float = ...,
        bidirectional: bool = ...,
        *,
        reverse: bool = ...,
        reset_after: bool = ...,
        backend: Literal["torch"],
        **where: Unpack[Where],
    ) -> None: ...

    @overload
    def __init__(
        self: GRU[JaxArray],
        input_size: int,
        hidden_size: int,
        num_layers: int = ...,
        bias: bool = ...,
        batch_first: bool = ...,
        dropout: float = ...,
        bidirectional: bool = ...,
        *,
        reverse: bool = ...,
        reset_after: bool = ...,
        backend: Literal["jax"],
        **where: Unpack[Where],
    ) -> None: ...

    @overload
    def __init__(
        self: GRU[Any],
        input_size: int,
        hidden_size: int,
        num_layers: int = ...,
        bias: bool = ...,
        batch_first: bool = ...,
        dropout: float = ...,
        bidirectional: bool = ...,
        *,
        reverse: bool = ...,
        reset_after: bool = ...,
        backend: Backend,
        **where: Unpack[Where],
    ) -> None: ...

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        reverse: bool = False,
        reset_after: bool = True,
        backend: str = "numpy",
        device: Device | str | int | None = None,
        dtype: DType | str | None = None,
        rng: np.random.Generator | int | None = None,
    ) -> None:
        self.num_layers = parameters.positive_size("num_layers", num_layers)
        self.batch_first = parameters.flag("batch_first", batch_first)
        self.dropout = _probability(dropout)
        self.bidirectional = parameters.flag("bidirectional", bidirectional)
        self.reverse = parameters.reverse_alone(reverse, bidirectional=self.bidirectional)
        self.reset_after = parameters.flag("reset_after", reset_after)
        ends = ("", "_reverse") if self.bidirectional else ("",)
        self._suffixes = [f"_l{layer}{end}" for layer in range(self.num_layers) for end in ends]
        self._rng = np.random.default_rng(rng)
        super().__init__(
            input_size,
            hidden_size,
            bias,
            backend=backend,
            device=device,
            dtype=dtype,
            rng=self._rng,
        )

    @overload
    def forward(
        self,
        x: A,
        h0: A | None = None,
        *,
        lengths: Array | Sequence[int] | None = None,
        return_gates: Literal[False] = False,
    ) -> tuple[A, A]: ...

    @overload
    def forward(
        self,
        x: A,
        h0: A | None = None,
        *,
        lengths: Array | Sequence[int] | None = None,
        return_gates: Literal[True],
    ) -> tuple[A, A, GateValues]: ...

    def forward(
        self,
        x: A,
        h0: A | None = None,
        *,
        lengths: Array | Sequence[int] | None = None,
        return_gates: bool = False,
    ) -> tuple[A, A] | tuple[A, A, GateValues]:
        """Run over whole sequences; in training, keep what `backward` needs.

        Parameters
        ----------
        x : array, (T, N, I), (N, T, I) with `batch_first`, or (T, I)
            Input, of the weights' library and device; dtypes as in `GRUCell.forward`.
        h0 : array, (num_layers * directions, N, H), or without N as `x`, optional
            Initial states; None means zeros. Layer by layer, in each the forward direction, then
            the reverse: index ``layer * directions + direction``.
        lengths : sequence of int or integer array, (N,), optional
            Steps of each row, from 0 to T; what lies beyond is padding, and what it holds never
            matters. Integers on the host (NumPy's too) are checked. Arrays of other libraries are
            not read: there a length beyond T means T.
        return_gates : bool
            Also return r, z and n of every step, layer and direction.

        Returns
        -------
        y : array, (T, N, H), (N, T, H) with `batch_first`, or (T, H)
            The last layer's state after each step, zero in padding; 2H wide with `bidirectional`,
            the forward direction's first. In every direction index t means time t.
        h_n : array, in the shape and order of `h0`
            Each row's state after its last step; for a reverse direction, whose last step is the
            row's first, the state after that. For a row of length 0, its initial state.
        gates : GateValues
            With `return_gates`: arrays (num_layers * directions, T, N, H), zero in padding.

        Raises
        ------
        ValueError
            If a shape or device does not fit, or a length is negative or larger than T.
        TypeError
            If an argument is no array, or one of another library or of a complex dtype.
        """
        place, training, form = self._place, self.training, self._form
        loop = self._loop(lengths)
        parameters.flag("return_gates", return_gates)
        if not training and not return_gates:
            quick = accelerated("sequence", place, loop)
            if quick is not None:
                result: Any = quick(x, h0, self._params, loop, form)
                if result is not NotImplemented:
                    return result  # type: ignore[no-any-return]
        drawing = training and self.dropout > 0
        before = self._rng.bit_generator.state if drawing else None
        try:
            y, h_n, tape = stack.forward(
                self._params,
                x,
                h0,
                loop,
                form,
                masks=self._dropout_masks(x) if drawing else (),
                keep_tape=training or return_gates,
                copies=training,
                owner="GRU",
                place=place,
            )
        except Exception:
            if before is not None:
                self._rng.bit_generator.state = before  # a call that failed has drawn no mask
            raise
        if training:
            self._tape = transfer.detached(tape) if place.library == "torch" else tape
            y = transfer.private(y, place)  # the tape may share its memory
        else:
            self._tape = None
        if return_gates and tape is not None:
            return y, h_n, stack.gates(tape, form, place=place)
        return y, h_n

    __call__ = forward

    @explains_leaked_tracers
    def backward(self, dy: A, dh_n: A | None = None) -> tuple[A, A]:
        """Gradients of the last call; may be called more than once after it.

        Stores the gradients with respect to the weights, see `gradients`; they are of this call
        alone.

        Parameters
        ----------
        dy : array, in the shape of ``y``
            Gradient with respect to ``y``; what it holds in padding never matters.
        dh_n : array, in the shape of ``h_n``, optional
            Gradient with respect to ``h_n``; None means zeros.

        Returns
        -------
        dx : array, in the shape of `x`
            Gradient with respect to the input, zero in padding.
        dh0 : array, in the shape of ``h_n``
            Gradient with respect to the initial states.

        Raises
        ------
        RuntimeError
            If no call has run in training before.
        ValueError, TypeError
            If a gradient has another shape, library or device than its output.
        """
        tape = self._tape_for_backward(self._tape)
        dparams, dx, dh0 = stack.backward(
            self._params,
            tape,
            dy,
            dh_n,
            self._loop(tape.lengths),
            self._form,
            owner="GRU",
            place=self._place,
        )
        self._gradients = {
            f"{name}{suffix}": array
            for suffix, each in zip(self._suffixes, dparams, strict=True)
            for name, array in zip(GRUParams._fields, each, strict=True)
            if array is not None
        }
        return dx, dh0

    def stream(self, h0: A | None = None) -> Stream[A]:
        """Start a stream: steps and chunks one after another, the state carried between them.

        It copies the weights as they are now; later changes here do not reach it.

        Parameters
        ----------
        h0 : array, (num_layers, N, H) or (num_layers, H), optional
            Initial states; None means zeros.

        Raises
        ------
        ValueError
            With `bidirectional` or `reverse`: the reverse direction starts at the last step, which
            a stream does not know before it ends. Or if the shape or device of `h0` does not fit.
        TypeError
            If `h0` is no array of the weights' library.
        """
        return Stream(self._params, self._loop(), self._form, h0)

    @property
    def params(self) -> list[GRUParams]:
        """The packed weights themselves, as the functional form takes them."""
        return list(self._params)

    def __getattr__(self, name: str) -> Any:
        weights = self.__dict__.get("_weights", {})
        if name in weights:
            return weights[name]
        if name.startswith("bias_") and name.replace("bias_", "weight_", 1) in weights:
            return None
        raise AttributeError(f"GRU has no attribute {name!r}")

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self.__dict__.get("_weights", ())]

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.__dict__.get("_weights", {}):
            self._write({name: value})
        elif name.startswith(("weight_ih_l", "weight_hh_l", "bias_ih_l", "bias_hh_l")):
            raise AttributeError(f"this GRU has no {name}: its weights are {list(self._weights)}")
        else:
            super().__setattr__(name, value)

    def __repr__(self) -> str:
        options = "".join(
            f", {name}={value}"
            for name, value, default in (
                ("num_layers", self.num_layers, 1),
                ("bias", self.bias, True),
                ("batch_first", self.batch_first, False),
                ("dropout", self.dropout, 0.0),
                ("bidirectional", self.bidirectional, False),
                ("reverse", self.reverse, False),
                ("reset_after", self.reset_after, True),
            )
            if value != default
        )
        return f"GRU({self.input_size}, {self.hidden_size}{options}, {self._where()})"

    @property
    def _form(self) -> Form:
        return Form(self.batch_first, self.bidirectional)

    def _loop(self, lengths: Any = None) -> Loop:
        """What the first direction of each layer runs."""
        return Loop(lengths=lengths, reverse=self.reverse, reset_after=self.reset_after)

    def _as_params(self) -> tuple[GRUParams, ...]:
        return tuple(
            GRUParams(*(self._weights.get(f"{name}{suffix}") for name in GRUParams._fields))
            for suffix in self._suffixes
        )

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        directions = self._form.directions
        result: dict[str, tuple[int, ...]] = {}
        for place, suffix in enumerate(self._suffixes):
            width = self.input_size if place < directions else directions * self.hidden_size
            wanted = parameters.shapes(width, self.hidden_size, bias=self.bias)
            result |= {f"{name}{suffix}": shape for name, shape in wanted.items()}
        return result

    def _forget_forward(self) -> None:
        self._tape = None

    def _dropout_masks(self, x: Any) -> tuple[Array, ...]:
        """Draw masks on the host, so that one seed gives the same on every backend."""
        if self.num_layers == 1 or library_of(x) is None or x.ndim not in (2, 3):
            return ()  # there is nothing to drop, or an error follows
        steps, rows = (*x.shape[:-1], 1)[:2]
        if self.batch_first and x.ndim == 3:
            steps, rows = rows, steps
        shape = (steps, rows, self._form.directions * self.hidden_size)
        keep = 1 - self.dropout
        return tuple(
            transfer.from_numpy((self._rng.random(shape) < keep) / keep, self._place)
            for _ in range(self.num_layers - 1)
        )


def _probability(value: Any) -> float:
    try:
        number = math.nan if isinstance(value, str) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not 0 <= number < 1 or math.isnan(number):
        raise ValueError(f"dropout must be at least 0 and less than 1, got {value!r}")
    return number
