"""The door: what is asked of arrays where they enter, once a public call.

Only libraries, devices and dtypes are looked at, never values, so that ``jax.jit`` and
``torch.compile`` can trace through. What a call makes of the shapes is the caller's to check.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gru_xp.arrays import devices, dtypes, transfer
from gru_xp.arrays.libraries import NAMESPACES, library_of
from gru_xp.arrays.place import Place
from gru_xp.arrays.typing import Array

Arrays = Mapping[str, Any]

NONE: Arrays = {}


def place_of(owner: str, /, **weights: Array | None) -> Place:
    """Return the place of arrays that belong together, in their promoted dtype; None is skipped.

    Parameters
    ----------
    owner : str
        Whom errors name.
    **weights : array or None
        By their names in errors; not all are None.

    Raises
    ------
    TypeError
        If one is no array, of another library than the first, or of no floating dtype.
    ValueError
        If one is on another device than the first.
    """
    arrays = {name: array for name, array in weights.items() if array is not None}
    for name, array in arrays.items():
        if library_of(array) is None:
            raise TypeError(f"{owner}: {name} must be an array, got {type(array).__name__}")
        _refuse_masked(owner, name, array)
        if "float" not in dtypes.dtype_name(array.dtype):
            raise TypeError(f"{owner}: {name} must be of a floating dtype, got {array.dtype}")
    first = next(iter(arrays))
    place = Place.of(arrays[first])
    for name, array in arrays.items():
        if library_of(array) != place.library:
            raise TypeError(
                f"{owner}: {name} is an array of {library_of(array)}, {first} one of "
                f"{place.library}: convert one"
            )
        if not _is_on_device(array, place):
            raise ValueError(
                f"{owner}: {name} is on device {devices.device(array)}, {first} on "
                f"{place.device}: move one"
            )
        if array.dtype != place.dtype:
            place = place._replace(dtype=place.xp.result_type(place.dtype, array.dtype))
    return place


def admit(
    owner: str, place: Place, required: Arrays, optional: Arrays = NONE, /
) -> tuple[Place, list[Any]]:
    """Check that arrays fit the weights' place; return the place of the call, and the arrays.

    Its dtype is the one to compute in: the floating dtypes promoted. Integers and booleans take
    on that of the others. Its device is not known where that of an array is not. Of NumPy's
    subclasses, whose operations may mean something else, the arrays are the plain ones of the
    same memory.

    Parameters
    ----------
    owner : str
        Whom errors name.
    place : Place
        Of the weights.
    required, optional : dict of arrays
        By their names in errors; the optional ones may be None.

    Raises
    ------
    TypeError
        If one is no array, of another library, masked, or of no real dtype.
    ValueError
        If one is on another device.
    """
    dtype, device = place.dtype, place.device
    plain: list[Any] = []
    for name, value in (*required.items(), *optional.items()):
        if place.library == "numpy" and type(value) is np.ndarray and value.dtype == dtype:
            plain.append(value)  # at once: what follows takes longer than a small step's arithmetic
            continue
        if value is None and name in optional:
            plain.append(None)
            continue
        if library_of(value) != place.library:
            raise _of_another_library(owner, place, name, value)
        if place.library == "numpy":
            _refuse_masked(owner, name, value)
            value = np.asarray(value)
        plain.append(value)
        there = devices.device(value)
        if there is None:
            device = None
        elif place.device is not None and there != place.device:
            raise ValueError(
                f"{owner}: {name} is on device {there}, the weights are on "
                f"{place.device}: move {name}, or the weights with .to(device=...)"
            )
        if value.dtype != dtype:
            dtype = _promoted(owner, name, dtype, value.dtype, place)
    if dtype != place.dtype or device is not place.device:
        place = place._replace(dtype=dtype, device=device)
    return place, plain


def _refuse_masked(owner: str, name: str, value: Any) -> None:
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            f"{owner}: {name} is a numpy.ma.MaskedArray, whose mask would be lost: pass "
            ".filled(0), and lengths= where the mask is padding"
        )


def _is_on_device(array: Array, place: Place) -> bool:
    """Whether an array is where the place is; unknown devices, as under jit, pass."""
    there = devices.device(array)
    return place.device is None or there is None or bool(place.device == there)


def _of_another_library(owner: str, place: Place, name: str, value: Any) -> TypeError:
    ours, theirs = place.library, library_of(value)
    if type(value).__name__ == "PackedSequence":  # torch's
        return TypeError(
            f"{owner}: {name} is a PackedSequence: unpack it with torch.nn.utils.rnn."
            "pad_packed_sequence, and pass the padded tensor and lengths="
        )
    if type(value).__name__ == "OneHot":
        return TypeError(f"{owner}: a OneHot is taken by gru_xp.functional.gru alone")
    if theirs is None:
        return TypeError(
            f"{owner}: expected {name} to be an array of {ours}, as the weights are, got "
            f"{type(value).__name__}: pass {_example(ours)}"
        )
    other_way = (
        f"move the weights with .to(backend={theirs!r})"
        if theirs in NAMESPACES
        else f"pass {theirs}'s arrays to gru_xp.functional, weights too"
    )
    return TypeError(
        f"{owner}: {name} is an array of {theirs}, the weights are of {ours}: convert {name} "
        f"({_example(ours)}) or {other_way}"
    )


def _example(library: str) -> str:
    calls = {
        "torch": "torch.as_tensor(...)",
        "jax": "jax.numpy.asarray(...)",
        "numpy": "numpy.asarray(...), from another library gru_xp.to_numpy(...)",
    }
    return calls.get(library, f"{library}.asarray(...)")


def _promoted(owner: str, name: str, dtype: Any, other: Any, place: Place) -> Any:
    xp = place.xp
    if dtypes.is_real_floating(other):
        return xp.result_type(dtype, other)
    if not dtypes.is_real(other):
        raise TypeError(
            f"{owner}: expected {name} of a real floating or integer dtype, got {other}: "
            "cast it first"
        )
    return dtype


def taken_over(
    name: str, value: Any, place: Place, /, *, shape: tuple[int, ...], foreign: bool = False
) -> Array:
    """Copy an array, of NumPy or of the place's own library, to the place, cast to its dtype.

    A plain number fills an array of the shape.

    Parameters
    ----------
    name : str
        What errors call it.
    value : array
    place : Place
    shape : tuple of int
        What its shape must be.
    foreign : bool
        Whether an array of any library that gru_xp knows will do, on any device.

    Raises
    ------
    TypeError
        If it is no array, one of a third library, masked, or of no real dtype.
    ValueError
        If its shape is another, or it is on another device.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = np.full(shape, value)
    library = library_of(value)
    if library is None:
        raise TypeError(
            f"{name}: expected an array of {place.library} or NumPy, or a number, got "
            f"{type(value).__name__}: wrap it in numpy.asarray(...)"
        )
    if tuple(value.shape) != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {tuple(value.shape)}")
    if not dtypes.is_real(value.dtype):
        raise TypeError(f"{name}: expected real numbers, got dtype {value.dtype}")
    if library == "numpy":
        _refuse_masked(name, "it", value)
        return transfer.from_numpy(value, place)
    is_elsewhere = library != place.library or not _is_on_device(value, place)
    if foreign and is_elsewhere and library in NAMESPACES:
        return transfer.from_numpy(transfer.to_numpy(value), place)
    if library != place.library:
        raise TypeError(
            f"{name}: expected an array of {place.library} or NumPy, got one of {library}: "
            "convert it with gru_xp.to_numpy(...)"
        )
    if not _is_on_device(value, place):
        raise ValueError(
            f"{name}: expected an array on device {place.device}, got one on "
            f"{devices.device(value)}: move it first"
        )
    return place.xp.astype(transfer.detached(value), place.dtype, copy=True)
