"""What GRUCell and its like share: weights by torch's names, where they are, training or not."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, Generic, ParamSpec, Self, TypeVar, overload

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


class Module(Generic[A]):
    """Owner of packed weights, their gradients, and a memory of the last forward.

    A subclass names its weights' shapes, says how calls take them, and what to forget when they
    are replaced.
    """

    input_size: int
    hidden_size: int
    bias: bool
    training: bool
    _weights: dict[str, Array]
    _place: Place
    """Of the weights; renewed wherever these move."""
    _params: Any
    """The weights as the functions of `gru_xp.core` take them."""
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
        self.bias = parameters.flag("bias", bias)
        self.training = True
        self._forget()
        place = Place.named(backend, device, dtype)
        self._hold(parameters.initial(self._shapes(), self.hidden_size, place, rng=rng))

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute that the class knows; a misspelt one would pass in silence.

        Subclasses of other packages may set whatever they like.
        """
        cls = type(self)
        if name in self.__dict__:
            self.__dict__[name] = value
        elif not cls.__module__.startswith("gru_xp.") or _knows(cls, name):
            super().__setattr__(name, value)
        else:
            close = difflib.get_close_matches(name, [each for each in dir(self) if each[0] != "_"])
            raise AttributeError(
                f"{self._name} has no attribute {name!r} that could be assigned"
                + (f": did you mean {' or '.join(close)}?" if close else "")
            )

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        raise NotImplementedError

    def _as_params(self) -> Any:
        raise NotImplementedError

    def _hold(self, weights: dict[str, Array]) -> None:
        """Take weights as the module's own, with all that is known of where they are."""
        self._weights = weights
        self._place = Place.of(next(iter(weights.values())))
        self._params = self._as_params()

    def __getstate__(self) -> Any:
        """What is pickled and copied: not what `_hold` makes of it, as devices may not pickle."""
        state = object.__getstate__(self)
        slots = state[1] if isinstance(state, tuple) else None  # a subclass's
        kept = {name: value for name, value in vars(self).items() if name not in _DERIVED}
        return kept if slots is None else (kept, slots)

    def __setstate__(self, state: Any) -> None:
        attributes, slots = state if isinstance(state, tuple) else (state, None)
        vars(self).update(attributes)
        for name, value in (slots or {}).items():
            object.__setattr__(self, name, value)
        self._hold(self._weights)

    def _forget(self) -> None:
        """Drop the gradients and what the last forward stored."""
        self._gradients = None
        self._forget_forward()

    def _forget_forward(self) -> None:
        raise NotImplementedError

    @property
    def backend(self) -> str:
        """Name of the array library that holds the weights."""
        return self._place.library

    @property
    def device(self) -> Device:
        """Device of the weights, in their library's terms."""
        return self._place.device

    @property
    def dtype(self) -> DType:
        """Dtype of the weights, in their library's terms."""
        return self._place.dtype

    @property
    def _name(self) -> str:
        return type(self).__name__

    def train(self, mode: bool = True) -> Self:
        """Keep a tape in `forward`, so that `backward` can follow; returns self."""
        self.training = parameters.flag("mode", mode)
        if not self.training:
            self._forget_forward()
        return self

    def eval(self) -> Self:
        """Keep no tape in `forward`; returns self."""
        return self.train(False)

    def parameters(self) -> dict[str, A]:
        """Return the packed weights themselves by torch's names, absent biases left out.

        Notes
        -----
        Torch's tensors among them do not require gradients: the module's own `backward` fills
        `gradients`, and autograd leaves ``grad`` at None. So an optimizer of torch that is given
        them changes nothing, and says nothing. To train with one, use `gru_xp.interop.torch.GRU`,
        which is a torch module.
        """
        return dict(self._weights)

    def gradients(self) -> dict[str, A]:
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

    def state_dict(self) -> dict[str, A]:
        """Return copies of the packed weights by torch's names."""
        return {name: transfer.private(array, self._place) for name, array in self._weights.items()}

    def load_state_dict(
        self, state: Mapping[str, Any], strict: bool = True, *, prefix: str = ""
    ) -> IncompatibleKeys:
        """Copy weights in, cast to the present dtype.

        Parameters
        ----------
        state : mapping
            Packed weights by torch's names, such as `state_dict` returns, a torch module's too:
            arrays of any library that gru_xp knows.
        strict : bool
            Whether missing and unexpected names are an error; else they are returned.
        prefix : str
            What the names begin with, such as "rnn." in the state of a torch module whose
            attribute ``rnn`` the GRU is. Names without it are others' weights.

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
        """Draw new initial weights, in place; see the class for `rng`."""
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
        there = parameters.destination(self._place, backend=backend, device=device, dtype=dtype)
        self._hold(parameters.moved(self._weights, self._place, there))
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

    def _write(self, values: Mapping[str, Any], *, foreign: bool = False) -> None:
        """Copy values into the packed weights; all are checked before the first is written."""
        with self._place.current():
            self._hold(parameters.written(self._weights, values, self._place, foreign=foreign))

    def _where(self) -> str:
        """How a repr ends."""
        device = devices.device_name(self.device)
        dtype = dtypes.dtype_name(self.dtype)
        return f"backend={self.backend!r}, device={device!r}, dtype={dtype!r}"


def _knows(cls: type, name: str) -> bool:
    """Whether a class or one of its bases has, or announces, an attribute."""
    return any(name in vars(each) or name in inspect.get_annotations(each) for each in cls.__mro__)


def explains_leaked_tracers(backward: Callable[P, R], /) -> Callable[P, R]:
    """Say what to use in place of a module's backward whose forward has run under ``jax.jit``."""

    @wraps(backward)
    def run(*arguments: P.args, **options: P.kwargs) -> R:
        try:
            return backward(*arguments, **options)
        except Exception as error:
            if type(error).__name__ != "UnexpectedTracerError":
                raise
            owner = type(arguments[0]).__name__
            raise RuntimeError(
                f"{owner}.backward: its forward ran within a function that JAX transforms (jit, "
                "grad, vmap), and what it has stored is lost with it: use gru_xp.functional, whose "
                "forward returns the tape, or jax.grad of that"
            ) from error

    return run
