"""GRU: whole sequences through layers and directions, with stored state for the backward pass."""

from __future__ import annotations

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
    """A gated recurrent unit over whole sequences, with any number of layers, in both directions.

    The interface follows ``torch.nn.GRU``. The equations are given in `gru_xp.core.equations`.

    Parameters
    ----------
    input_size : int
        Number of input features, I.
    hidden_size : int
        Number of hidden units of each layer and direction, H.
    num_layers : int
        Number of layers. Each layer after the first takes the states of the previous layer as
        input.
    bias : bool
        If False, the layers have no biases.
    batch_first : bool
        If True, `x` and `y` have shape (N, T, ...) instead of (T, N, ...). The shape of the states
        does not change.
    dropout : float
        Probability, in [0, 1), of setting a value between two layers to zero in training mode.
        The other values are scaled by 1 / (1 - dropout).
    bidirectional : bool
        If True, each layer has a second set of weights that runs from the last step of each row
        to its first.
    reverse : bool
        If True, the single direction runs from the last step of each row to its first; this is
        ONNX's direction "reverse". The weight names have no suffix. Cannot be combined with
        `bidirectional`.
    reset_after : bool
        If True, the reset gate is applied after the recurrent matrix product, as in torch and
        cuDNN. If False, it is applied before the product, as in Cho et al. (2014).
    backend, device, dtype
        As in `GRUCell`.
    rng : int or numpy.random.Generator, optional
        Seed or generator for the initial weights and the dropout masks. The same seed gives the
        same numbers on every backend.

    Attributes
    ----------
    weight_ih_l{k}, weight_hh_l{k} : array, (3H, K) and (3H, H)
        Weights of layer k, with the gates in the order r, z, n. K is I in the first layer, and H
        (2H with `bidirectional`) in the others. With `bidirectional`, the names of the reverse
        direction's weights end in ``_reverse``.
    bias_ih_l{k}, bias_hh_l{k} : array, (3H,), or None
        Biases of layer k.
    training : bool
        Whether the GRU is in training mode; set by `train` and `eval`.

    Raises
    ------
    TypeError, ValueError
        If a size is not a positive integer, `dropout` is not a number in [0, 1), `dtype` is not a
        floating dtype, or `bidirectional` and `reverse` are both True.
    BackendError
        If the library, device or dtype is not available.

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
    _checked_options = Module._checked_options | {
        "num_layers": parameters.positive_size,
        "batch_first": parameters.flag,
        "dropout": parameters.probability,
        "bidirectional": parameters.flag,
        "reverse": parameters.flag,
        "reset_after": parameters.flag,
    }
    _params: tuple[GRUParams, ...]
    _tape: GRUTape | None
    _rng: np.random.Generator
    _suffixes: list[str]
    """Suffixes of the weight names, one per layer and direction, in the order of `params`."""

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
        self.num_layers = num_layers
        self.batch_first = batch_first
        self.dropout = dropout
        self.bidirectional = bidirectional
        self.reverse = reverse
        self.reset_after = reset_after
        ends = ("", "_reverse") if self.bidirectional else ("",)
        self._suffixes = [f"_l{layer}{end}" for layer in range(self.num_layers) for end in ends]
        self._rng = parameters.generator_of(rng)
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
        """Run the GRU over whole sequences. In training mode, store what `backward` needs.

        Parameters
        ----------
        x : array, (T, N, I), (N, T, I) with `batch_first`, or (T, I)
            Input, of the same library and on the same device as the weights. Dtypes are handled as
            in `GRUCell.forward`.
        h0 : array, (num_layers * directions, N, H) or (num_layers * directions, H), optional
            Initial states, with a batch axis if `x` has one. None means zeros. The state of a layer
            and direction has index ``layer * directions + direction``, where direction 0 is forward
            and 1 is reverse.
        lengths : sequence of int or integer array, (N,), optional
            Number of steps of each row, from 0 to T. The steps beyond it are padding, whose values
            are ignored. Python integers and NumPy arrays are checked. The values of other
            libraries' arrays are not read; in them a length greater than T means T.
        return_gates : bool
            If True, also return r, z and n of every step, layer and direction.

        Returns
        -------
        y : array, (T, N, H), (N, T, H) with `batch_first`, or (T, H)
            State of the last layer after each step, and zero in padding. With `bidirectional` the
            last axis has length 2H, the forward direction first. Index t is time t in both
            directions.
        h_n : array, same shape and order as `h0`
            State of each row after its last step. A reverse direction ends at the first step of the
            row, so its entry is the state after that step. For a row of length 0 it is the initial
            state.
        gates : GateValues
            Arrays (num_layers * directions, T, N, H), zero in padding. Only with `return_gates`.

        Raises
        ------
        ValueError
            If a shape or device does not match the weights, or a length is negative or greater
            than T.
        TypeError
            If an argument is not an array, belongs to another library or has a complex dtype.
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
                self._rng.bit_generator.state = before  # a failed call must not consume numbers
            raise
        if training:
            self._tape = transfer.detached(tape) if place.library == "torch" else tape
            y = transfer.private(y, place)  # y may share memory with the tape
        else:
            self._tape = None
        if return_gates and tape is not None:
            return y, h_n, stack.gates(tape, form, place=place)
        return y, h_n

    __call__ = forward

    @explains_leaked_tracers
    def backward(self, dy: A | None = None, dh_n: A | None = None) -> tuple[A, A]:
        """Compute the gradients of the last `forward`.

        Stores the gradients with respect to the weights, which `gradients` returns. They replace
        those of the previous call. `backward` may be called several times after one `forward`.

        Parameters
        ----------
        dy : array, same shape as ``y``, optional
            Gradient with respect to ``y``. Its values in padding are ignored. None means zeros, as
            for a loss that uses only the last states.
        dh_n : array, same shape as ``h_n``, optional
            Gradient with respect to ``h_n``. None means zeros.

        Returns
        -------
        dx : array, same shape as `x`
            Gradient with respect to the input, zero in padding.
        dh0 : array, same shape as ``h_n``
            Gradient with respect to the initial states.

        Raises
        ------
        RuntimeError
            If `forward` has not been called in training mode.
        ValueError, TypeError
            If the shape, library or device of a gradient differs from that of its output, both are
            None, or `batch_first`, `reverse` or `reset_after` has changed since the forward.
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
        """Create a stream, which processes steps and chunks and keeps the state between calls.

        The stream copies the current weights. Later changes to this GRU do not affect it.

        Parameters
        ----------
        h0 : array, (num_layers, N, H) or (num_layers, H), optional
            Initial states. None means zeros.

        Returns
        -------
        Stream

        Raises
        ------
        ValueError
            If the GRU is `bidirectional` or `reverse`, because a reverse direction starts at the
            last step, which is unknown until the stream ends; or if the shape or device of `h0`
            does not match the weights.
        TypeError
            If `h0` is not an array of the weights' library.
        """
        return Stream(self._params, self._loop(), self._form, h0)

    @property
    def params(self) -> list[GRUParams]:
        """The packed weights (not copies), in the form that `gru_xp.functional` takes."""
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

    def _assign(self, name: str, value: Any) -> None:
        if name in self.__dict__.get("_weights", {}):
            self._write({name: value})
        elif name.startswith(("weight_ih_l", "weight_hh_l", "bias_ih_l", "bias_hh_l")):
            raise AttributeError(
                f"this GRU has no weight {name!r}. Its weights are {', '.join(self._weights)}"
            )
        else:
            if name == "reverse":
                both = self.__dict__.get("bidirectional", False)
                value = parameters.reverse_alone(value, bidirectional=both)
            super()._assign(name, value)

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
        """Return the loop that the first direction of each layer runs."""
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
        """Draw masks on the host, so that a seed gives the same masks on every backend."""
        if self.num_layers == 1 or library_of(x) is None or x.ndim not in (2, 3):
            return ()  # no output to mask, or stack.forward raises an error for x
        steps, rows = (*x.shape[:-1], 1)[:2]
        if self.batch_first and x.ndim == 3:
            steps, rows = rows, steps
        shape = (steps, rows, self._form.directions * self.hidden_size)
        keep = 1 - self.dropout
        return tuple(
            transfer.from_numpy((self._rng.random(shape) < keep) / keep, self._place)
            for _ in range(self.num_layers - 1)
        )
