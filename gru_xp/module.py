"""Module: the common base of GRUCell and GRU (named weights, their place, training mode)."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, ClassVar, Generic, ParamSpec, Self, TypeVar, overload

import numpy as np

from gru_xp.arrays import devices, dtypes, transfer
from gru_xp.arrays.place import Place
from gru_xp.arrays.typing import A, Array, Device, DType
from gru_xp.core import parameters
from gru_xp.core.parameters import IncompatibleKeys

P = ParamSpec("P")
R = TypeVar("R")
Tape = TypeVar("Tape")

_DERIVED = ("_place", "_params")
_SIZES = ("input_size", "hidden_size", "num_layers", "bias", "bidirectional")
"""Options on which the shapes of the weights depend."""
_OPTIONS = frozenset({*_SIZES, "batch_first", "dropout", "reverse", "reset_after", "training"})
"""All options."""


class Module(Generic[A]):
    """Base class that holds packed weights, their gradients and the tape of the last forward.

    A subclass defines the shapes of its weights (`_shapes`), the form in which calls take them
    (`_as_params`) and what is dropped with the last forward (`_forget_forward`).
    """

    input_size: int
    hidden_size: int
    bias: bool
    training: bool
    _checked_options: ClassVar[dict[str, Callable[[str, Any], Any]]] = {
        "input_size": parameters.positive_size,
        "hidden_size": parameters.positive_size,
        "bias": parameters.flag,
        "training": parameters.flag,
    }
    """Functions that check and convert the value of an option, given its name and value."""
    _weights: dict[str, Array]
    _place: Place
    """Place of the weights, updated whenever they move."""
    _params: Any
    """The weights in the form that the functions of `gru_xp.core` take."""
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
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.bias = bias
        self.training = True
        self._forget()
        place = Place.named(backend, device, dtype)
        self._hold(parameters.initial(self._shapes(), self.hidden_size, place, rng=rng))

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; see `_assign`."""
        if name in self.__dict__ and name not in _OPTIONS:  # as every call does
            self.__dict__[name] = value
        else:
            self._assign(name, value)

    def _assign(self, name: str, value: Any) -> None:
        """Set an attribute that the class declares, so that a misspelt name raises an error.

        Options are checked as in the constructor. In evaluation mode there is no tape. Subclasses
        defined in other packages may set any attribute.
        """
        cls = type(self)
        if name in cls._checked_options:
            value = self._checked(name, value)
        if name in self.__dict__:
            self.__dict__[name] = value
        elif not cls.__module__.startswith("gru_xp.") or _knows(cls, name):
            super().__setattr__(name, value)
        else:
            close = difflib.get_close_matches(name, [each for each in dir(self) if each[0] != "_"])
            raise AttributeError(
                f"{self._name} has no attribute {name!r} that can be assigned"
                + (f". Did you mean {' or '.join(close)}?" if close else "")
            )

    def _checked(self, name: str, value: Any) -> Any:
        """Check and convert a new value of an option."""
        value = self._checked_options[name](name, value)
        if name in _SIZES and "_weights" in self.__dict__ and value != self.__dict__[name]:
            raise AttributeError(
                f"{self._name}.{name} cannot be changed, because the shapes of the weights depend "
                f"on it. Create a new {self._name}"
            )
        if name == "training" and not value:
            self._forget_forward()
        return value

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        raise NotImplementedError

    def _as_params(self) -> Any:
        raise NotImplementedError

    def _hold(self, weights: dict[str, Array]) -> None:
        """Store weights without a copy, and update the place and the params."""
        self._weights = weights
        self._place = Place.of(next(iter(weights.values())))
        self._params = self._as_params()

    def __getstate__(self) -> Any:
        """Return the state without what `_hold` derives: devices may not be picklable."""
        state = object.__getstate__(self)
        slots = state[1] if isinstance(state, tuple) else None  # from a subclass with __slots__
        kept = {name: value for name, value in vars(self).items() if name not in _DERIVED}
        return kept if slots is None else (kept, slots)

    def __setstate__(self, state: Any) -> None:
        attributes, slots = state if isinstance(state, tuple) else (state, None)
        vars(self).update(attributes)
        for name, value in (slots or {}).items():
            object.__setattr__(self, name, value)
        self._hold(self._weights)

    def _forget(self) -> None:
        """Drop the gradients and the values stored by the last forward."""
        self._gradients = None
        self._forget_forward()

    def _forget_forward(self) -> None:
        raise NotImplementedError

    @property
    def backend(self) -> str:
        """Name of the array library of the weights."""
        return self._place.library

    @property
    def device(self) -> Device:
        """Device of the weights, as an object of their library."""
        return self._place.device

    @property
    def dtype(self) -> DType:
        """Dtype of the weights, as an object of their library."""
        return self._place.dtype

    @property
    def _name(self) -> str:
        return type(self).__name__

    def train(self, mode: bool = True) -> Self:
        """Set training mode, in which `forward` keeps a tape for `backward`.

        Parameters
        ----------
        mode : bool
            True for training mode, False for evaluation mode.

        Returns
        -------
        Self
            The module itself.
        """
        self.training = parameters.flag("mode", mode)
        return self

    def eval(self) -> Self:
        """Set evaluation mode, in which `forward` keeps no tape. Returns the module itself."""
        return self.train(False)

    def parameters(self) -> dict[str, A]:
        """Return the packed weights (not copies) by torch's names, without absent biases.

        Notes
        -----
        On the torch backend, the tensors do not require gradients: `backward` fills `gradients`,
        and autograd leaves ``grad`` at None. A torch optimizer that is given these tensors
        therefore changes nothing and raises no error. To train with a torch optimizer, use
        `gru_xp.interop.torch.GRU`, which is a torch module.
        """
        return dict(self._weights)

    def gradients(self) -> dict[str, A]:
        """Return the packed gradients of the last `backward` under the names of `parameters`.

        Raises
        ------
        RuntimeError
            If `backward` has not been called.
        """
        if self._gradients is None:
            raise RuntimeError(
                f"{self._name}.gradients: no gradients are available. Call forward, then backward"
            )
        return dict(self._gradients)

    def state_dict(self) -> dict[str, A]:
        """Return copies of the packed weights by torch's names."""
        return {name: transfer.private(array, self._place) for name, array in self._weights.items()}

    def load_state_dict(
        self, state: Mapping[str, Any], strict: bool = True, *, prefix: str = ""
    ) -> IncompatibleKeys:
        """Copy weights into the module, cast to its current dtype.

        Parameters
        ----------
        state : mapping
            Packed weights by torch's names, such as the ``state_dict()`` of this class or of a
            torch module. The values are arrays of any library that gru_xp supports.
        strict : bool
            If True, missing or unexpected names raise an error. If False, they are returned.
        prefix : str
            Prefix of the names, such as "rnn." if the GRU is the attribute ``rnn`` of a torch
            module. Names without the prefix are ignored.

        Returns
        -------
        IncompatibleKeys
            The missing and the unexpected names.

        Raises
        ------
        ValueError, TypeError
            If a name or shape does not match, or a value is not an array of real numbers from a
            supported library. In that case no weight is changed.
        """
        if not isinstance(state, Mapping):
            raise TypeError(
                f"{self._name}.load_state_dict: expected a mapping of names to arrays, as "
                f"state_dict() returns, got {type(state).__name__}"
            )
        own = {
            name.removeprefix(prefix): value
            for name, value in state.items()
            if isinstance(name, str) and name.startswith(prefix)
        }
        strict = parameters.flag("strict", strict)
        keys = parameters.compare_keys(self._name, own, self._weights, strict=strict, prefix=prefix)
        self._write({name: own[name] for name in self._weights if name in own}, foreign=True)
        return keys

    def reset_parameters(self, rng: np.random.Generator | int | None = None) -> None:
        """Draw new initial weights in place; `rng` is as in the constructor."""
        self._write(parameters.initial(self._shapes(), self.hidden_size, self._place, rng=rng))

    @overload
    def to(
        self, *, device: Device | str | int | None = None, dtype: DType | str | None = None
    ) -> Self: ...

    @overload
    def to(
        self,
        *,
        backend: str | None,
        device: Device | str | int | None = None,
        dtype: DType | str | None = None,
    ) -> Any: ...

    def to(
        self,
        *,
        backend: str | None = None,
        device: Device | str | int | None = None,
        dtype: DType | str | None = None,
    ) -> Any:
        """Move the weights of this module to another array library, device or dtype.

        Gradients and the values stored by the last `forward` are dropped.

        Parameters
        ----------
        backend : str, optional
            As in the constructor. None keeps the current library.
        device : optional
            As in the constructor. None keeps the current device, or selects the default device of
            the new library if `backend` changes it.
        dtype : optional
            As in the constructor. None keeps the current dtype.

        Returns
        -------
        Self
            The module itself.

        Raises
        ------
        BackendError
            If the library, device or dtype is not available. The module is then unchanged.
        TypeError
            If `dtype` is not a floating dtype. The module is then unchanged.
        """
        there = parameters.destination(self._place, backend=backend, device=device, dtype=dtype)
        self._hold(parameters.moved(self._weights, self._place, there))
        self._forget()
        return self

    def _tape_for_backward(self, tape: Tape | None) -> Tape:
        """Return the tape of the last forward; raise RuntimeError if there is none."""
        if not self.training:
            raise RuntimeError(
                f"{self._name}.backward: no tape is kept in evaluation mode. Call train(), then "
                "forward, then backward"
            )
        if tape is None:
            raise RuntimeError(
                f"{self._name}.backward: forward has not been called. Call forward first"
            )
        return tape

    def _write(self, values: Mapping[str, Any], *, foreign: bool = False) -> None:
        """Copy values into the packed weights; all are checked before the first is written."""
        with self._place.current():
            self._hold(parameters.written(self._weights, values, self._place, foreign=foreign))

    def _where(self) -> str:
        """Return the last part of the repr."""
        device = devices.device_name(self.device)
        dtype = dtypes.dtype_name(self.dtype)
        return f"backend={self.backend!r}, device={device!r}, dtype={dtype!r}"


def _knows(cls: type, name: str) -> bool:
    """Whether a class or one of its bases defines or annotates an attribute."""
    return any(name in vars(each) or name in inspect.get_annotations(each) for each in cls.__mro__)


def explains_leaked_tracers(backward: Callable[P, R], /) -> Callable[P, R]:
    """Explain the error of a backward whose forward ran under a JAX transformation."""

    @wraps(backward)
    def run(*arguments: P.args, **options: P.kwargs) -> R:
        try:
            return backward(*arguments, **options)
        except Exception as error:
            if type(error).__name__ != "UnexpectedTracerError":
                raise
            owner = type(arguments[0]).__name__
            raise RuntimeError(
                f"{owner}.backward: the forward ran inside a JAX transformation (jit, grad, vmap), "
                "so its stored values cannot be used outside. Use gru_xp.functional, which returns "
                "the tape, or jax.grad of it"
            ) from error

    return run
