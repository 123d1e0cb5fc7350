"""The weights of a GRU: packed storage, views of single gates, initial values.

The weights are packed as in torch, with the gates in the order r, z, n: ``weight_ih`` (3H, I),
``weight_hh`` (3H, H), ``bias_ih`` (3H,) and ``bias_hh`` (3H,). The array of a single gate, such as
``Wzh``, is a view of its rows; no number is stored twice.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from gru_xp.arrays import door, dtypes, transfer
from gru_xp.arrays.libraries import is_writeable, resolve
from gru_xp.arrays.place import Place
from gru_xp.arrays.typing import Array, Device, DType, Namespace


class GRUParams(NamedTuple):
    """Packed weights of one direction of one layer, or the gradients with respect to them.

    Both biases are None in a GRU without biases.
    """

    weight_ih: Array
    """(3H, I)"""
    weight_hh: Array
    """(3H, H)"""
    bias_ih: Array | None = None
    """(3H,)"""
    bias_hh: Array | None = None
    """(3H,)"""

    def named(self) -> dict[str, Array]:
        """Return the arrays by torch's names, without absent biases."""
        return {
            name: array for name, array in zip(self._fields, self, strict=True) if array is not None
        }


class Form(NamedTuple):
    """Arrangement of axes and directions, common to the forward and the backward pass."""

    batch_first: bool = False
    bidirectional: bool = False

    @property
    def directions(self) -> int:
        """Number of directions: 2 if bidirectional, else 1."""
        return 1 + self.bidirectional


class IncompatibleKeys(NamedTuple):
    """Missing and unexpected names, which `load_state_dict` ignored because of ``strict=False``."""

    missing_keys: list[str]
    unexpected_keys: list[str]


def positive_size(name: str, value: Any) -> int:
    """Return a size as an int; raise an error that names it if it is not a positive integer."""
    try:
        size = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None
    if isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if size <= 0:
        raise ValueError(f"{name} must be greater than zero, got {size}")
    return size


def flag(name: str, value: Any) -> bool:
    """Return a flag as a bool; raise an error for any other type, such as the string "False"."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def probability(name: str, value: Any) -> float:
    """Return a probability as a float; raise an error if it is not a number in [0, 1)."""
    try:
        number = math.nan if isinstance(value, str) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not 0 <= number < 1:
        raise ValueError(f"{name} must be at least 0 and less than 1, got {value!r}")
    return number


def generator_of(rng: np.random.Generator | int | None) -> np.random.Generator:
    """Return the generator for the argument `rng`; raise an error that names it if invalid."""
    try:
        return np.random.default_rng(rng)
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"rng must be a non-negative integer or a numpy.random.Generator, got {rng!r}"
        ) from None


def reverse_alone(value: Any, *, bidirectional: bool) -> bool:
    """Return the flag `reverse` as a bool; raise an error if `bidirectional` is set as well."""
    reverse = flag("reverse", value)
    if reverse and bidirectional:
        raise ValueError(
            "bidirectional=True and reverse=True cannot be combined. Use bidirectional=True for "
            "both directions, or reverse=True for the reverse direction alone"
        )
    return reverse


def shapes(input_size: int, hidden_size: int, *, bias: bool = True) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the packed arrays by torch's names, in torch's order."""
    rows = 3 * hidden_size
    weights: dict[str, tuple[int, ...]] = {
        "weight_ih": (rows, input_size),
        "weight_hh": (rows, hidden_size),
    }
    return weights | {"bias_ih": (rows,), "bias_hh": (rows,)} if bias else weights


def initial(
    wanted: Mapping[str, tuple[int, ...]],
    hidden_size: int,
    place: Place,
    /,
    *,
    rng: np.random.Generator | int | None,
) -> dict[str, Array]:
    """Draw weights of the wanted shapes from U(-1/sqrt(H), 1/sqrt(H)), as torch.nn.GRUCell does.

    They are drawn on the host in float64 and rounded to the dtype, so that a seed gives the same
    numbers on every backend.
    """
    generator = generator_of(rng)
    bound = 1 / math.sqrt(hidden_size)
    return {
        name: transfer.from_numpy(generator.uniform(-bound, bound, shape), place)
        for name, shape in wanted.items()
    }


def gate(packed: Array | None, index: int, /) -> Array | None:
    """Return the rows of gate `index` (0 for r, 1 for z, 2 for n), as a view if possible."""
    if packed is None:
        return None
    size = packed.shape[0] // 3
    return packed[index * size : (index + 1) * size, ...]


def with_gate(packed: Array, index: int, rows: Array, /, *, xp: Namespace) -> Array:
    """Return `packed` with a gate's rows replaced; in place unless the array is immutable."""
    size = rows.shape[0]
    before, after = index * size, (index + 1) * size
    if is_writeable(packed):
        packed[before:after, ...] = rows
        return packed
    return xp.concat([packed[:before, ...], rows, packed[after:, ...]], axis=0)


def written(
    weights: Mapping[str, Array],
    values: Mapping[str, Any],
    place: Place,
    /,
    *,
    foreign: bool = False,
) -> dict[str, Array]:
    """Copy values into the weights of the same names; in place unless an array is immutable.

    All values are checked before the first is written. With `foreign` they may belong to any
    library.
    """
    fresh = {
        name: door.taken_over(name, value, place, shape=tuple(weights[name].shape), foreign=foreign)
        for name, value in values.items()
    }
    result = dict(weights)
    for name, value in fresh.items():
        if is_writeable(weights[name]):
            weights[name][...] = value
        else:
            result[name] = value
    return result


def packed(
    given: Mapping[str, Mapping[str, Any]], like: Mapping[str, Array], place: Place, /
) -> dict[str, Array]:
    """Pack the arrays of single gates into new weights with the shapes of `like`.

    The weights have the promoted dtype of the arrays, or that of the place if all are integers.
    """
    for name, gates in given.items():
        if name not in like and any(value is not None for value in gates.values()):
            raise ValueError(
                f"init_weights: expected no {', '.join(gates)}, as this GRUCell was created with "
                "bias=False. Leave them out"
            )
    values = [value for name in like for value in given[name].values()]
    dtype = _promoted([value.dtype for value in values if hasattr(value, "dtype")], place)
    if dtype is not None:
        place = place._replace(dtype=dtype)
    result = {}
    for name, target in like.items():
        shape = (target.shape[0] // 3, *target.shape[1:])
        rows = [
            door.taken_over(gate_name, value, place, shape=shape)
            for gate_name, value in given[name].items()
        ]
        result[name] = place.xp.concat(rows, axis=0)
    return result


def _promoted(given: list[DType], place: Place, /) -> DType | None:
    """Promote the floating dtypes among `given`, which may be NumPy's or the library's own."""
    floating = {
        dtypes.as_dtype(place.library, name, device=place.device)
        for name in {dtypes.dtype_name(dtype) for dtype in given}
        if "float" in name
    }
    return place.xp.result_type(*floating) if floating else None


def moved(weights: Mapping[str, Array], old: Place, new: Place, /) -> dict[str, Array]:
    """Copy weights from one place to another."""

    def move(array: Array) -> Array:
        if (new.library, new.device) == (old.library, old.device):
            return new.xp.astype(array, new.dtype, copy=True)
        # Copy through the host, because one device may not support the dtype of the other.
        return transfer.from_numpy(transfer.to_numpy(array), new)

    with old.current():
        return {name: move(array) for name, array in weights.items()}


def destination(
    place: Place,
    /,
    *,
    backend: str | None,
    device: Device | str | int | None,
    dtype: DType | str | None,
) -> Place:
    """Return the place to which a user moves weights; None keeps the current value.

    If the library changes, a device of None is the default device of the new library.
    """
    library = place.library if backend is None else resolve(backend)[0]
    if device is None and library == place.library:
        device = place.device
    return Place.named(library, device, place.dtype if dtype is None else dtype)


def cast_params(params: GRUParams, dtype: DType, /, *, xp: Namespace) -> GRUParams:
    """`cast` for each of the packed arrays."""
    for array in params:
        if array is not None and array.dtype != dtype:
            break
    else:
        return params  # the usual case
    return GRUParams(
        *(None if array is None else dtypes.cast(array, dtype, xp=xp) for array in params)
    )


def like_params(gradients: GRUParams, params: GRUParams, /, *, xp: Namespace) -> GRUParams:
    """Cast gradients to the dtypes of the weights that they belong to."""
    for gradient, array in zip(gradients, params, strict=True):
        if array is not None and array.dtype != gradient.dtype:
            break
    else:
        return gradients
    return GRUParams(
        *(dtypes.like(one, array, xp=xp) for one, array in zip(gradients, params, strict=True))
    )


def compare_keys(
    owner: str,
    given: Mapping[str, Any],
    expected: Iterable[str],
    *,
    strict: bool,
    prefix: str = "",
) -> IncompatibleKeys:
    """Compare the names of a state dict with the expected ones; if strict, they must be equal."""
    names = list(expected)
    missing = [name for name in names if name not in given]
    unexpected = [name for name in given if name not in names]
    if strict and (missing or unexpected):
        ends = [each.removesuffix(names[0]) for each in given if each.endswith(names[0])]
        found = next(filter(None, ends), "")
        remedy = "Rename the keys, or pass strict=False to load only the matching ones"
        if found and not prefix:
            remedy = f"Pass prefix={found!r}"
        raise ValueError(
            f"{owner}.load_state_dict: expected the names {names}"
            + (f", each with the prefix {prefix!r}" if prefix else "")
            + f", got {list(given)}"
            + (f"; missing {missing}" if missing else "")
            + (f"; unexpected {unexpected}" if unexpected else "")
            + f". {remedy}"
        )
    return IncompatibleKeys(missing, unexpected)
