"""Transfers of arrays: from and to NumPy, private copies, detaching from an autograd graph."""

from __future__ import annotations

from typing import Any

import numpy as np

from gru_xp.arrays.libraries import library_of, namespace
from gru_xp.arrays.place import Place
from gru_xp.arrays.typing import Array


def from_numpy(array: np.ndarray[Any, Any], place: Place, /) -> Array:
    """Copy a NumPy array to a place, cast to its dtype."""
    # Other libraries accept neither a foreign byte order nor negative strides.
    host = np.array(array, dtype=array.dtype.newbyteorder("="), order="C", copy=True)
    return place.xp.asarray(host, dtype=place.dtype, device=place.device, copy=True)


def to_numpy(array: Array, /) -> np.ndarray[Any, Any]:
    """Copy an array of any supported library and device into a new NumPy array.

    torch's bfloat16 is converted to float32, since NumPy does not have it.

    Parameters
    ----------
    array : array
        Array of any supported library. A torch tensor may require gradients.

    Returns
    -------
    numpy.ndarray

    Raises
    ------
    TypeError
        If the argument is not an array, or NumPy cannot read arrays of its library.
    """
    import array_api_compat

    library = library_of(array)
    if library is None and not isinstance(array, np.generic):  # NumPy's 0-d results are np.generic
        raise TypeError(f"to_numpy: expected an array, got {type(array).__name__}")
    if library == "cupy":
        return np.asarray(array.get())
    if library == "torch":
        array = array.detach().cpu().resolve_conj().resolve_neg()
        if str(array.dtype) == "torch.bfloat16":
            array = array.float()
        array = array.numpy()
    if library == "array_api_strict":
        host = namespace(library).Device("CPU_DEVICE")
        array = array_api_compat.to_device(array, host)
    copy = np.array(array)
    if copy.dtype == object:  # NumPy wraps an object that it cannot read
        raise TypeError(
            f"to_numpy: expected an array that NumPy can read, got one of {library}. Convert it "
            f"with a function of {library}"
        )
    return copy


def private(array: Array, place: Place, /) -> Array:
    """Copy an array of the place, so that later changes by the caller do not affect the copy.

    Immutable arrays are returned without a copy.
    """
    if place.library == "jax":
        return array
    if place.library == "numpy":
        return np.array(array)  # the fastest way, and never returns a subclass
    with place.current():
        return place.xp.astype(array, array.dtype, copy=True)


def detached(value: Any, /) -> Any:
    """Detach torch tensors, alone or in tuples, from their autograd graph; return others as is."""
    if isinstance(value, tuple):
        parts = [detached(each) for each in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value.detach() if hasattr(value, "detach") else value
