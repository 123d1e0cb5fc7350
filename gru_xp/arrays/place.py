"""Place: where arrays are, and of what kind; made once and handed down."""

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

    A module makes the place of its weights once, the functional form once a call; below them no
    array is asked where it comes from. It names the library instead of holding its namespace, as
    modules cannot be pickled.
    """

    library: str
    """Name of the array library, such as "numpy"."""
    device: Device | None
    """None where it is not known, as under ``jax.jit``, or there are several."""
    dtype: DType

    @classmethod
    def named(
        cls,
        backend: str,
        device: Device | str | int | None = None,
        dtype: DType | str | None = None,
    ) -> Self:
        """Find the place that a user names.

        Parameters
        ----------
        backend : str
            Name of an array library, or "auto".
        device : optional
            A name, an index or the library's own object; None leaves the choice to the library.
        dtype : optional
            A name or any library's own; None is float32.

        Raises
        ------
        BackendError
            If the library, device or dtype cannot be had here.
        TypeError
            If `dtype` is no floating dtype.
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
            If it is no array.
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
        """Make the device the current one, where the library has such a thing.

        CuPy puts new arrays, the results of operations too, on the current device.
        """
        if self.library == "cupy" and self.device is not None:
            return self.device  # type: ignore[no-any-return]
        return nullcontext()


def runs_there(function: Callable[P, R], /) -> Callable[P, R]:
    """Run a function that takes a `place` by name with that place's device as the current one.

    The function raises RuntimeError where CuPy refuses a product as the stream is being captured.
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
                "gru_xp: CuPy cannot capture a matrix product into a CUDA graph: run the GRU "
                "outside the capture of the stream"
            ) from error

    return run
