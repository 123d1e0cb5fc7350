"""Place: library, device and dtype of arrays, determined once and passed down."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any, NamedTuple, ParamSpec, Self, TypeVar

from gru_xp.arrays import devices, dtypes, libraries
from gru_xp.arrays.typing import Array, Device, DType, Namespace

P = ParamSpec("P")
R = TypeVar("R")


class Place(NamedTuple):
    """Library, device and dtype of arrays.

    A module determines the place of its weights once, and the functional form once per call. The
    code below them does not inspect arrays again. The library is stored as a name, because
    namespaces are Python modules, which cannot be pickled.
    """

    library: str
    """Name of the array library, such as "numpy"."""
    device: Device | None
    """None if the device is unknown, as under ``jax.jit``, or if there are several."""
    dtype: DType

    @classmethod
    def named(
        cls,
        backend: str,
        device: Device | str | int | None = None,
        dtype: DType | str | None = None,
    ) -> Self:
        """Return the place for names given by the user.

        Parameters
        ----------
        backend : str
            Name of an array library, or "auto".
        device : optional
            A name, an index or the library's own device object. None selects the library's default.
        dtype : optional
            A name or a dtype object of any library. None means float32.

        Raises
        ------
        BackendError
            If the library, device or dtype is not available.
        TypeError
            If `dtype` is not a floating dtype.
        """
        library, _ = libraries.resolve(backend)
        found = devices.as_device(library, device)
        return cls(library, found, dtypes.as_dtype(library, dtype, device=found))

    @classmethod
    def of(cls, array: Array, /) -> Self:
        """Return the place of an array.

        Raises
        ------
        TypeError
            If the argument is not an array.
        """
        library = libraries.library_of(array)
        if library is None:
            raise TypeError(f"expected an array, got {type(array).__name__}")
        return cls(library, devices.device(array), array.dtype)

    @property
    def xp(self) -> Namespace:
        """Array API namespace of the library."""
        return libraries.namespace(self.library)

    def current(self) -> AbstractContextManager[Any]:
        """Return a context manager that makes the device current, if the library has that concept.

        CuPy allocates new arrays, including results of operations, on the current device.
        """
        if self.library == "cupy" and self.device is not None:
            return self.device  # type: ignore[no-any-return]
        return nullcontext()


def runs_there(function: Callable[P, R], /) -> Callable[P, R]:
    """Decorate a function with a keyword `place` to run with that place's device as current.

    The function raises RuntimeError if CuPy refuses a product because the stream is being captured.
    """

    @wraps(function)
    def run(*arguments: P.args, **options: P.kwargs) -> R:
        place: Any = options["place"]
        if place.library != "cupy":
            return function(*arguments, **options)
        try:
            with place.current():
                return function(*arguments, **options)
        except NotImplementedError as error:
            if "captur" not in str(error):
                raise
            raise RuntimeError(
                "gru_xp: CuPy cannot capture a matrix product into a CUDA graph. Run the GRU "
                "outside of the stream capture"
            ) from error

    return run
