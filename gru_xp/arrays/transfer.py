"""Arrays from one place to another: from and to the host, copies, off an autograd graph."""

from __future__ import annotations

from typing import Any

import numpy as np

from gru_xp.arrays.libraries import library_of, namespace
from gru_xp.arrays.place import Place
from gru_xp.arrays.typing import Array


def from_numpy(array: np.ndarray[Any, Any], place: Place, /) -> Array:
    """Copy a NumPy array to a place, cast to its dtype."""
    # Other libraries take neither a foreign byte order nor negative strides.
    host = np.array(array, dtype=array.dtype.newbyteorder("="), order="C", copy=True)
    return place.xp.asarray(host, dtype=place.dtype, device=place.device, copy=True)


def to_numpy(array: Array, /) -> np.ndarray[Any, Any]:
    """Copy an array of any known library and device into a new NumPy array.

    torch's bfloat16, which NumPy has not, becomes float32.

    Raises
    ------
    TypeError
        If it is no array, or of a library whose arrays NumPy does not read.
    """
    import array_api_compat

    library = library_of(array)
    if library is None and not isinstance(array, np.generic):  # which NumPy's 0-d results are
        raise TypeError(f"to_numpy: expected an array, got {type(array).__name__}")
    if library == "cupy":
        return np.asarray(array.get())
    if library == "torch":
        array = array.detach().cpu()
        if str(array.dtype) == "torch.bfloat16":  # which NumPy has not
            array = array.float()
        array = array.numpy()
    if library == "array_api_strict":
        host = namespace(library).Device("CPU_DEVICE")
        array = array_api_compat.to_device(array, host)
    copy = np.array(array)
    if copy.dtype == object:  # NumPy wraps what it cannot read
        raise TypeError(
            f"to_numpy: NumPy cannot read an array of {library}: convert it with {library}'s own "
            "function"
        )
    return copy


def private(array: Array, place: Place, /) -> Array:
    """Copy an array of the place, so that a later change by the caller cannot reach the copy.

    An array that cannot change is returned itself.
    """
    if place.library == "jax":
        return array
    if place.library == "numpy":
        return np.array(array)  # quickest, and of no subclass
    with place.current():
        return place.xp.astype(array, array.dtype, copy=True)


def detached(value: Any, /) -> Any:
    """Cut torch tensors, alone or in tuples, off their autograd graph; all else is passed on."""
    if isinstance(value, tuple):
        parts = [detached(each) for each in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value.detach() if hasattr(value, "detach") else value
