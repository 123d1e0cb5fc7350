"""Checks of arrays at the entry of each public call.

They check libraries, devices and dtypes but never values, so that ``jax.jit`` and ``torch.compile``
can trace them. The caller checks the shapes.
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
    """Return the common place of weights, with their promoted dtype. None is skipped.

    Parameters
    ----------
    owner : str
        Name of the function or class, with which error messages begin.
    **weights : array or None
        Arrays by their names in error messages; at least one is not None.

    Raises
    ------
    TypeError
        If a value is not an array, belongs to another library than the first one, or does not have
        a floating dtype.
    ValueError
        If an array is on another device than the first one.
    """
    arrays = {name: array for name, array in weights.items() if array is not None}
    for name, array in arrays.items():
        if library_of(array) is None:
            raise TypeError(f"{owner}: {name} must be an array, got {type(array).__name__}")
        refuse_masked(f"{owner}: {name}", array)
        if "float" not in dtypes.dtype_name(array.dtype):
            raise TypeError(f"{owner}: {name} must have a floating dtype, got {array.dtype}")
    first = next(iter(arrays))
    place = Place.of(arrays[first])
    for name, array in arrays.items():
        if library_of(array) != place.library:
            raise TypeError(
                f"{owner}: expected all weights to be arrays of one library, got {first} of "
                f"{place.library} and {name} of {library_of(array)}"
            )
        if not _is_on_device(array, place):
            raise ValueError(
                f"{owner}: expected all weights on one device, got {first} on {place.device} and "
                f"{name} on {devices.device(array)}"
            )
        if array.dtype != place.dtype:
            place = place._replace(dtype=place.xp.result_type(place.dtype, array.dtype))
    return place


def admit(
    owner: str, place: Place, required: Arrays, optional: Arrays = NONE, /
) -> tuple[Place, list[Any]]:
    """Check that arrays match the place of the weights; return the call's place and the arrays.

    The dtype of the returned place is the one to compute in: the promoted floating dtypes of the
    weights and the arrays, without integers and booleans. Its device is None if the device of any
    array is unknown. Instances of NumPy subclasses, whose operations may differ from those of
    ndarray, are returned as plain ndarrays that share their memory.

    Parameters
    ----------
    owner : str
        Name of the function or class, with which error messages begin.
    place : Place
        Place of the weights.
    required, optional : dict of arrays
        Arrays by their names in error messages. The optional ones may be None.

    Raises
    ------
    TypeError
        If a value is not an array, belongs to another library, is masked, or does not have a real
        dtype.
    ValueError
        If an array is on another device.
    """
    dtype, device = place.dtype, place.device
    plain: list[Any] = []
    for name, value in (*required.items(), *optional.items()):
        if place.library == "numpy" and type(value) is np.ndarray and value.dtype == dtype:
            # Skip the checks below, which take longer than the arithmetic of a small step.
            plain.append(value)
            continue
        if value is None and name in optional:
            plain.append(None)
            continue
        if library_of(value) != place.library:
            raise _of_another_library(owner, place, name, value)
        if place.library == "numpy":
            remedy = "Use filled(0), and pass lengths= if the mask marks padding"
            refuse_masked(f"{owner}: {name}", value, remedy=remedy)
            value = np.asarray(value)
        plain.append(value)
        there = devices.device(value)
        if there is None:
            device = None
        elif place.device is not None and there != place.device:
            raise ValueError(
                f"{owner}: expected {name} on device {place.device}, like the weights, got "
                f"{there}. Move {name}, or move the weights with .to(device=...)"
            )
        if value.dtype != dtype:
            dtype = _promoted(owner, name, dtype, value.dtype, place)
    if dtype != place.dtype or device is not place.device:
        place = place._replace(dtype=dtype, device=device)
    return place, plain


def refuse_masked(name: str, value: Any, /, *, remedy: str = "Use filled(0)") -> None:
    """Raise an error that begins with `name` if the value is a masked array.

    Raises
    ------
    TypeError
        If it is one.
    """
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} is a numpy.ma.MaskedArray, whose mask would be lost. {remedy}")


def _is_on_device(array: Array, place: Place) -> bool:
    """Whether an array is on the device of the place; True if either device is unknown."""
    there = devices.device(array)
    return place.device is None or there is None or bool(place.device == there)


def _of_another_library(owner: str, place: Place, name: str, value: Any) -> TypeError:
    ours, theirs = place.library, library_of(value)
    if type(value).__name__ == "PackedSequence":  # torch's
        return TypeError(
            f"{owner}: expected {name} to be a tensor, got a PackedSequence. Unpack it with "
            "torch.nn.utils.rnn.pad_packed_sequence, and pass the padded tensor and lengths="
        )
    if type(value).__name__ == "OneHot":
        return TypeError(
            f"{owner}: expected {name} to be an array of {ours}, got a OneHot, which only "
            "gru_xp.functional.gru accepts"
        )
    if theirs is None:
        return TypeError(
            f"{owner}: expected {name} to be an array of {ours}, like the weights, got "
            f"{type(value).__name__}. Convert it with {_example(ours)}"
        )
    other_way = (
        f"move the weights with .to(backend={theirs!r})"
        if theirs in NAMESPACES
        else f"pass arrays of {theirs} to gru_xp.functional, including the weights"
    )
    return TypeError(
        f"{owner}: expected {name} to be an array of {ours}, like the weights, got an array of "
        f"{theirs}. Convert {name} with {_example(ours)}, or {other_way}"
    )


def _example(library: str) -> str:
    calls = {
        "torch": "torch.as_tensor(...)",
        "jax": "jax.numpy.asarray(...)",
        "numpy": "numpy.asarray(...) or, from another library, gru_xp.to_numpy(...)",
    }
    return calls.get(library, f"{library}.asarray(...)")


def _promoted(owner: str, name: str, dtype: Any, other: Any, place: Place) -> Any:
    xp = place.xp
    if dtypes.is_real_floating(other):
        return xp.result_type(dtype, other)
    if not dtypes.is_real(other):
        raise TypeError(
            f"{owner}: expected {name} to have a real floating or integer dtype, got {other}. "
            "Cast it first"
        )
    return dtype


def taken_over(
    name: str, value: Any, place: Place, /, *, shape: tuple[int, ...], foreign: bool = False
) -> Array:
    """Copy an array of NumPy or of the place's library to the place, cast to its dtype.

    Parameters
    ----------
    name : str
        Name of the value in error messages.
    value : array or float
        A number fills an array of the given shape.
    place : Place
        Destination.
    shape : tuple of int
        Required shape.
    foreign : bool
        If True, accept arrays of every library that gru_xp supports, on any device.

    Raises
    ------
    TypeError
        If the value is not an array, belongs to a third library, is masked, or does not have a
        real dtype.
    ValueError
        If the shape or the device differs.
    """
    if isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool):
        value = np.full(shape, value)
    library = library_of(value)
    if library is None:
        kinds = "NumPy" if place.library == "numpy" else f"{place.library} or NumPy"
        raise TypeError(
            f"{name}: expected an array of {kinds}, or a number, got {type(value).__name__}"
            + ("" if value is None else ". Convert it with numpy.asarray(...)")
        )
    if tuple(value.shape) != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {tuple(value.shape)}")
    if not dtypes.is_real(value.dtype):
        raise TypeError(f"{name}: expected a real dtype, got {value.dtype}")
    if library == "numpy":
        refuse_masked(name, value)
        return transfer.from_numpy(value, place)
    is_elsewhere = library != place.library or not _is_on_device(value, place)
    if foreign and is_elsewhere and library in NAMESPACES:
        return transfer.from_numpy(transfer.to_numpy(value), place)
    if library != place.library:
        raise TypeError(
            f"{name}: expected an array of {place.library} or NumPy, got one of {library}. "
            "Convert it with gru_xp.to_numpy(...)"
        )
    if not _is_on_device(value, place):
        raise ValueError(
            f"{name}: expected an array on device {place.device}, got one on "
            f"{devices.device(value)}. Move it first"
        )
    return place.xp.astype(transfer.detached(value), place.dtype, copy=True)
