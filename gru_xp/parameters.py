"""The weights of a GRU: packed storage, the gates' names as views of it, initial values.

Packed as torch packs them, gates in the order r, z, n: ``weight_ih`` (3H, I), ``weight_hh``
(3H, H), ``bias_ih`` (3H,) and ``bias_hh`` (3H,). A gate's name, such as ``Wzh``, is a view of
its rows; no number is stored twice.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from gru_xp import backend, dtypes
from gru_xp.typing import Array, Device, DType, Namespace


class GRUParams(NamedTuple):
    """Packed weights of one direction of one layer, or the gradients with respect to them.

    Both biases are None in a GRU without them.
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
        """Arrays by torch's names, the absent biases left out."""
        return {name: array for name, array in self._asdict().items() if array is not None}


class IncompatibleKeys(NamedTuple):
    """What `load_state_dict` found amiss and, with ``strict=False``, passed over."""

    missing_keys: list[str]
    unexpected_keys: list[str]


def positive_size(name: str, value: Any) -> int:
    """Return a size as an int; an error names it where it is no positive integer."""
    try:
        size = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None
    if isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if size <= 0:
        raise ValueError(f"{name} must be greater than zero, got {size}")
    return size


def shapes(input_size: int, hidden_size: int, *, bias: bool = True) -> dict[str, tuple[int, ...]]:
    """Shapes of the packed arrays by torch's names, in torch's order."""
    rows = 3 * hidden_size
    weights: dict[str, tuple[int, ...]] = {
        "weight_ih": (rows, input_size),
        "weight_hh": (rows, hidden_size),
    }
    return weights | {"bias_ih": (rows,), "bias_hh": (rows,)} if bias else weights


def initial(
    wanted: Mapping[str, tuple[int, ...]],
    hidden_size: int,
    /,
    *,
    rng: np.random.Generator | int | None,
    xp: Namespace,
    dtype: DType,
    device: Device,
) -> dict[str, Array]:
    """Draw weights of the wanted shapes from U(-1/sqrt(H), 1/sqrt(H)), as torch.nn.GRUCell does.

    They are drawn on the host in float64, so that one seed gives the same numbers, rounded to the
    dtype, on every backend.
    """
    generator = np.random.default_rng(rng)
    bound = 1 / math.sqrt(hidden_size)
    return {
        name: backend.from_numpy(
            generator.uniform(-bound, bound, shape), xp=xp, dtype=dtype, device=device
        )
        for name, shape in wanted.items()
    }


def gate(packed: Array | None, index: int, /) -> Array | None:
    """Return the rows of gate `index` (0 for r, 1 for z, 2 for n), a view where views exist."""
    if packed is None:
        return None
    size = packed.shape[0] // 3
    return packed[index * size : (index + 1) * size, ...]


def with_gate(packed: Array, index: int, rows: Array, /, *, xp: Namespace) -> Array:
    """Return `packed` with a gate's rows replaced: in place, but for arrays that do not change."""
    size = rows.shape[0]
    before, after = index * size, (index + 1) * size
    if backend.is_writeable(packed):
        packed[before:after, ...] = rows
        return packed
    return xp.concat([packed[:before, ...], rows, packed[after:, ...]], axis=0)


def converted(
    value: Any, like: Array, /, *, name: str, shape: tuple[int, ...] | None = None, xp: Namespace
) -> Array:
    """Copy an array, of NumPy or of `like`'s own library, to `like`'s dtype and device.

    Raises
    ------
    TypeError
        If it is no array, or one of a third library.
    ValueError
        If its shape is another, or it is on another device.
    """
    expected = like.shape if shape is None else shape
    if not backend.is_array(value):
        raise TypeError(
            f"{name}: expected an array of {backend.name_of(xp)} or NumPy, got "
            f"{type(value).__name__}: wrap it in numpy.asarray(...)"
        )
    if tuple(value.shape) != tuple(expected):
        raise ValueError(f"{name}: expected shape {tuple(expected)}, got {tuple(value.shape)}")
    if not dtypes.dtype_name(value.dtype).startswith(("float", "bfloat", "int", "uint", "bool")):
        raise TypeError(f"{name}: expected real numbers, got dtype {value.dtype}")
    if isinstance(value, np.ndarray):
        return backend.from_numpy(value, xp=xp, dtype=like.dtype, device=backend.device(like))
    theirs = backend.name_of(backend.array_namespace(value))
    if theirs != backend.name_of(xp):
        raise TypeError(
            f"{name}: expected an array of {backend.name_of(xp)} or NumPy, got one of {theirs}: "
            "convert it with gru_xp.to_numpy(...)"
        )
    if not backend.same_device(like, value):
        raise ValueError(
            f"{name}: expected an array on device {backend.device(like)}, got one on "
            f"{backend.device(value)}: move it first"
        )
    return xp.astype(backend.detached(value), like.dtype, copy=True)


def written(
    weights: Mapping[str, Array], values: Mapping[str, Any], /, *, xp: Namespace
) -> dict[str, Array]:
    """Copy values into weights of the same names: in place, but for arrays that do not change.

    All values are checked before the first is written.
    """
    fresh = {name: converted(values[name], weights[name], name=name, xp=xp) for name in values}
    result = dict(weights)
    for name, value in fresh.items():
        if backend.is_writeable(weights[name]):
            weights[name][...] = value
        else:
            result[name] = value
    return result


def packed(
    given: Mapping[str, Mapping[str, Any]], /, *, like: Mapping[str, Array], xp: Namespace
) -> dict[str, Array]:
    """Pack gates' arrays by name into new weights of the shapes, library and device of `like`.

    The dtype is theirs, promoted; that of `like` where they are all integers.
    """
    for name, gates in given.items():
        if name not in like and any(value is not None for value in gates.values()):
            raise ValueError(f"{', '.join(gates)}: made with bias=False, leave them out")
    values = [value for name in like for value in given[name].values()]
    first = next(iter(like.values()))
    dtype = _promoted([value.dtype for value in values if hasattr(value, "dtype")], xp=xp)
    place = backend.device(first)
    native = dtypes.as_dtype(xp, first.dtype if dtype is None else dtype, device=place)
    model = xp.zeros((), dtype=native, device=place)
    result = {}
    for name, target in like.items():
        shape = (target.shape[0] // 3, *target.shape[1:])
        rows = [
            converted(value, model, name=gate_name, shape=shape, xp=xp)
            for gate_name, value in given[name].items()
        ]
        result[name] = xp.concat(rows, axis=0)
    return result


def _promoted(given: list[DType], /, *, xp: Namespace) -> DType | None:
    """Promote the floating ones of dtypes that may be NumPy's or the library's own."""
    floating = {
        dtypes.as_dtype(xp, name)
        for name in {dtypes.dtype_name(dtype) for dtype in given}
        if "float" in name
    }
    return xp.result_type(*floating) if floating else None


def moved(
    weights: Mapping[str, Array],
    /,
    *,
    backend_name: str | None,
    device: Device | str | int | None,
    dtype: DType | str | None,
    xp: Namespace,
) -> dict[str, Array]:
    """Copy weights to another library, device or dtype; None keeps what is there."""
    first = next(iter(weights.values()))
    there = xp if backend_name is None else backend.namespace(backend.resolve(backend_name)[0])
    stays = backend.name_of(there) == backend.name_of(xp)
    place = backend.as_device(there, device)
    if place is None and stays:
        place = backend.device(first)
    native = dtypes.as_dtype(there, first.dtype if dtype is None else dtype, device=place)

    def move(array: Array) -> Array:
        if stays and place == backend.device(array):
            with backend.on_device_of(array):
                return xp.astype(array, native, copy=True)
        # Through the host: one device may lack the dtype that the other has.
        return backend.from_numpy(backend.to_numpy(array), xp=there, dtype=native, device=place)

    return {name: move(array) for name, array in weights.items()}


def cast_params(params: GRUParams, dtype: DType, /, *, xp: Namespace) -> GRUParams:
    """`cast` for each of the packed arrays."""
    return GRUParams(
        *(None if array is None else dtypes.cast(array, dtype, xp=xp) for array in params)
    )


def compare_keys(
    owner: str,
    given: Mapping[str, Any],
    expected: Iterable[str],
    *,
    strict: bool,
) -> IncompatibleKeys:
    """Compare a state dict's names with the expected ones; a difference is an error if strict."""
    names = list(expected)
    missing = [name for name in names if name not in given]
    unexpected = [name for name in given if name not in names]
    if strict and (missing or unexpected):
        raise ValueError(
            f"{owner}.load_state_dict: expected the names {names}, got {list(given)}"
            + (f"; missing {missing}" if missing else "")
            + (f"; unexpected {unexpected}" if unexpected else "")
            + ": rename them, or pass strict=False to load what matches"
        )
    return IncompatibleKeys(missing, unexpected)
