"""What GRUCell and its like share: weights by torch's names, where they are, training or not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self, TypeVar

import numpy as np

from gru_xp import backend as array_libraries
from gru_xp import dtypes, parameters
from gru_xp.parameters import IncompatibleKeys
from gru_xp.typing import Array, Device, DType, Namespace

Tape = TypeVar("Tape")


class Module:
    """Owner of packed weights, their gradients, and a memory of the last forward.

    A subclass names its weights' shapes and says what to forget when they are replaced.
    """

    training: bool
    _weights: dict[str, Array]
    _gradients: dict[str, Array] | None

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool,
        *,
        backend: str,
        device: Device | str | int | None,
        dtype: DType | str | None,
        rng: np.random.Generator | int | None,
    ) -> None:
        self.input_size = parameters.positive_size("input_size", input_size)
        self.hidden_size = parameters.positive_size("hidden_size", hidden_size)
        self.bias = bool(bias)
        self.training = True
        self._forget()
        xp = array_libraries.namespace(array_libraries.resolve(backend)[0])
        place = array_libraries.as_device(xp, device)
        self._weights = parameters.initial(
            self._shapes(),
            self.hidden_size,
            rng=rng,
            xp=xp,
            dtype=dtypes.as_dtype(xp, dtype, device=place),
            device=place,
        )

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        raise NotImplementedError

    def _forget(self) -> None:
        """Drop the gradients and what the last forward stored."""
        self._gradients = None
        self._forget_forward()

    def _forget_forward(self) -> None:
        raise NotImplementedError

    @property
    def backend(self) -> str:
        """Name of the array library that holds the weights."""
        return array_libraries.name_of(self._xp)

    @property
    def device(self) -> Device:
        """Device of the weights, in their library's terms."""
        return array_libraries.device(self._first)

    @property
    def dtype(self) -> DType:
        """Dtype of the weights, in their library's terms."""
        return self._first.dtype

    @property
    def _first(self) -> Array:
        return next(iter(self._weights.values()))

    @property
    def _xp(self) -> Namespace:
        return array_libraries.array_namespace(self._first)

    @property
    def _name(self) -> str:
        return type(self).__name__

    def train(self, mode: bool = True) -> Self:
        """Keep a tape in `forward`, so that `backward` can follow; returns self."""
        self.training = bool(mode)
        if not self.training:
            self._forget_forward()
        return self

    def eval(self) -> Self:
        """Keep no tape in `forward`; returns self."""
        return self.train(False)

    def parameters(self) -> dict[str, Array]:
        """Return the packed weights themselves by torch's names, absent biases left out."""
        return dict(self._weights)

    def gradients(self) -> dict[str, Array]:
        """Return the packed gradients of the last `backward` by the names of `parameters`.

        Raises
        ------
        RuntimeError
            If no `backward` has run.
        """
        if self._gradients is None:
            raise RuntimeError(
                f"{self._name}.gradients: there are none yet: call forward, then backward"
            )
        return dict(self._gradients)

    def state_dict(self) -> dict[str, Array]:
        """Return copies of the packed weights by torch's names."""
        with array_libraries.on_device_of(self._first):
            return {name: private(array, xp=self._xp) for name, array in self._weights.items()}

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> IncompatibleKeys:
        """Copy weights in, cast to the present dtype.

        Parameters
        ----------
        state : mapping
            Packed weights by torch's names, such as `state_dict` returns: arrays of NumPy or of
            the weights' library.
        strict : bool
            Whether missing and unexpected names are an error; else they are returned.

        Raises
        ------
        ValueError, TypeError
            If a name, shape, library or device does not fit. Then no weight has changed.
        """
        if not isinstance(state, Mapping):
            raise TypeError(
                f"{self._name}.load_state_dict: expected a mapping of names to arrays, as "
                f"state_dict() returns, got {type(state).__name__}"
            )
        keys = parameters.compare_keys(self._name, state, self._weights, strict=strict)
        self._write({name: state[name] for name in self._weights if name in state})
        return keys

    def reset_parameters(self, rng: np.random.Generator | int | None = None) -> None:
        """Draw new initial weights, in place; see the class for `rng`."""
        fresh = parameters.initial(
            self._shapes(),
            self.hidden_size,
            rng=rng,
            xp=self._xp,
            dtype=self.dtype,
            device=self.device,
        )
        self._write(fresh)

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
            If the library, device or dtype cannot be had here. Then nothing has changed.
        TypeError
            If `dtype` is no floating dtype. Nor then.
        """
        self._weights = parameters.moved(
            self._weights, backend_name=backend, device=device, dtype=dtype, xp=self._xp
        )
        self._forget()
        return self

    def _tape_for_backward(self, tape: Tape | None) -> Tape:
        """Return the tape of the last forward; RuntimeError, with the remedy, if there is none."""
        if not self.training:
            raise RuntimeError(
                f"{self._name}.backward: in eval() no tape is kept: call train(), then forward, "
                "then backward"
            )
        if tape is None:
            raise RuntimeError(
                f"{self._name}.backward: there is nothing to go back through: call forward first"
            )
        return tape

    def _write(self, values: Mapping[str, Any]) -> None:
        """Copy values into the packed weights; all are checked before the first is written."""
        with array_libraries.on_device_of(self._first):
            self._weights = parameters.written(self._weights, values, xp=self._xp)

    def _place(self) -> str:
        """How a repr ends."""
        device = array_libraries.device_name(self.device)
        dtype = dtypes.dtype_name(self.dtype)
        return f"backend={self.backend!r}, device={device!r}, dtype={dtype!r}"


def private(array: Any, /, *, xp: Namespace) -> Any:
    """Copy an array, so that a later change by the caller cannot reach the tape.

    What is no array of ours, or cannot change, is passed on.
    """
    if array_libraries.name_of(xp) == "jax" or not array_libraries.is_array(array):
        return array
    if array_libraries.array_namespace(array) is not xp:
        return array
    with array_libraries.on_device_of(array):
        return xp.astype(array, array.dtype, copy=True)
