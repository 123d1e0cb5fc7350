"""Conversion of the weights of one direction of one layer from and to another framework.

A `Layout` describes how a framework stores these weights; `gru_xp.interop.layouts` contains the
supported ones. The conventions differ in the order of the gates, the orientation of the matrices,
the biases, whether the update gate weighs the old state or the candidate, and whether the reset
gate is applied before or after the recurrent product. The gates are always named r, z and n here,
as in `gru_xp.core.equations`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from gru_xp.core.parameters import GRUParams, flag

Host: TypeAlias = np.ndarray[Any, np.dtype[Any]]
Source: TypeAlias = Literal["weight_ih", "weight_hh", "bias_ih", "bias_hh", "bias"]

GATES = "rzn"
"""The order of the gates in `GRUParams`."""


class Block(NamedTuple):
    """Some gates of one array of `GRUParams`, stored one after another."""

    source: Source
    """Field of `GRUParams`; "bias" is ``bias_ih + bias_hh``."""
    gates: str
    """The gates in the order in which they are stored, such as "zrn"."""


class Stored(NamedTuple):
    """One array of a framework: a sequence of blocks in memory (C order)."""

    name: str
    shape: str
    """A shape such as "(1, 3H, I)", where I is the input size and H the hidden size."""
    blocks: tuple[Block, ...]

    @property
    def is_bias(self) -> bool:
        """Whether the array holds biases."""
        return self.blocks[0].source.startswith("bias")

    @property
    def dimensions(self) -> tuple[tuple[int, str], ...]:
        """The shape as a factor and a letter per axis; the letter is empty for a plain number."""
        axes = (axis.strip() for axis in self.shape.strip("()").split(",") if axis)
        return tuple((int(axis.rstrip("HI") or 1), axis.lstrip("0123456789")) for axis in axes)


@dataclass(frozen=True)
class Layout:
    """How a framework stores the weights of one direction of one layer.

    Parameters
    ----------
    name : str
        Name of the framework, for error messages.
    arrays : tuple of Stored
        The framework's arrays.
    transposed : bool
        Whether the matrices multiply from the right, with shapes (I, 3H) and (H, 3H).
    z_weighs_candidate : bool
        Whether ``h_t = z_t * n_t + (1 - z_t) * h_{t-1}``. The conversion then negates the weights
        and biases of z, because ``1 - sigmoid(a) = sigmoid(-a)``.
    reset_after : bool or None
        Whether the reset gate is applied after the recurrent product. None if the framework
        supports both through an option.
    bias_optional : bool
        Whether the framework supports layers without biases, which lack all bias arrays.
    """

    name: str
    arrays: tuple[Stored, ...]
    transposed: bool = False
    z_weighs_candidate: bool = False
    reset_after: bool | None = True
    bias_optional: bool = False


PACKED = Layout(
    "GRUParams",
    (
        Stored("weight_ih", "(3H, I)", (Block("weight_ih", GATES),)),
        Stored("weight_hh", "(3H, H)", (Block("weight_hh", GATES),)),
        Stored("bias_ih", "(3H,)", (Block("bias_ih", GATES),)),
        Stored("bias_hh", "(3H,)", (Block("bias_hh", GATES),)),
    ),
    bias_optional=True,
)
"""The layout of `GRUParams` itself."""


def to_params(layout: Layout, arrays: Mapping[str, Any], /) -> GRUParams:
    """Convert the weights of one direction of one layer from a framework's arrays.

    Parameters
    ----------
    layout : Layout
        Convention by which `arrays` are stored. If its `reset_after` is False, the result gives the
        same outputs only with ``reset_after=False``.
    arrays : mapping of str to array
        The framework's arrays by their names in `layout`: anything that `numpy.asarray` accepts. An
        array that is None is treated as absent.

    Returns
    -------
    params : GRUParams
        New NumPy arrays with the dtypes of the input. If the framework stores only the sum of the
        two biases, the sum is in ``bias_ih``, and ``bias_hh`` is zero. Both are None if the
        bias arrays are absent.

    Raises
    ------
    ValueError
        If a name is missing or unknown, or a shape does not match the convention.
    TypeError
        If an array does not have a real floating dtype.

    Examples
    --------
    >>> import numpy as np
    >>> from gru_xp.interop.layouts import KERAS, to_params
    >>> kernel, recurrent = np.ones((5, 12)), np.ones((4, 12))
    >>> params = to_params(KERAS, {"kernel": kernel, "recurrent_kernel": recurrent})
    >>> params.weight_ih.shape
    (12, 5)
    """
    given, sizes = _checked(layout, arrays)
    rows: dict[tuple[Source, str], Host] = {}
    for stored in layout.arrays:
        if stored.name in given:
            rows.update(_taken_apart(layout, stored, given[stored.name], sizes))

    def packed(source: Source) -> Host:
        return np.ascontiguousarray(np.concatenate([rows[source, gate] for gate in GATES]))

    biases = [key for key in rows if key[0].startswith("bias")]
    if biases:
        zeros = np.zeros_like(rows[biases[0]])
        for gate in GATES:
            rows.setdefault(("bias_ih", gate), rows.get(("bias", gate), zeros))
            rows.setdefault(("bias_hh", gate), zeros)
    return GRUParams(
        packed("weight_ih"),
        packed("weight_hh"),
        packed("bias_ih") if biases else None,
        packed("bias_hh") if biases else None,
    )


def from_params(
    layout: Layout, params: GRUParams, /, *, reset_after: bool = True
) -> dict[str, Host]:
    """Convert the weights of one direction of one layer to a framework's arrays.

    Parameters
    ----------
    layout : Layout
        Convention by which the arrays are to be stored.
    params : GRUParams
        Arrays that `numpy.asarray` accepts.
    reset_after : bool
        The value of the `gru_xp.GRU` or `gru_xp.GRUCell` to which `params` belong.

    Returns
    -------
    arrays : dict of str to ndarray
        New arrays by the framework's names, with the dtypes of the input. Without biases, the bias
        arrays are absent, or zero if the framework always has biases.

    Raises
    ------
    ValueError
        If the convention cannot represent `params`, because it applies the reset gate at the other
        position or has no array for a non-zero bias; or if the shapes of `params` do not match each
        other.
    TypeError
        If `params` is not a GRUParams, or an array does not have a real floating dtype.
    """
    if not isinstance(params, GRUParams):
        raise TypeError(f"from_params: expected a GRUParams, got {type(params).__name__}")
    given, sizes = _checked(PACKED, params.named())
    _check_form(layout, reset_after=flag("reset_after", reset_after))
    has_bias = "bias_ih" in given
    if has_bias:
        _check_biases(layout, given, reset_after=reset_after)
    else:
        zeros = np.zeros(3 * sizes["H"], dtype=given["weight_ih"].dtype)
        given |= {"bias_ih": zeros, "bias_hh": zeros}
    given["bias"] = _bias_sum(given["bias_ih"], given["bias_hh"])
    return {
        stored.name: _put_together(layout, stored, given, sizes)
        for stored in layout.arrays
        if has_bias or not (stored.is_bias and layout.bias_optional)
    }


def _taken_apart(
    layout: Layout, stored: Stored, array: Host, sizes: Mapping[str, int]
) -> Iterator[tuple[tuple[Source, str], Host]]:
    """Yield the rows of each gate, (H, I), (H, H) or (H,), in a framework's array."""
    flat = array.reshape(-1)
    for block in stored.blocks:
        shape = _block_shape(layout, block, sizes)
        part, flat = flat[: math.prod(shape)].reshape(shape), flat[math.prod(shape) :]
        gates = np.split(part.T if layout.transposed else part, len(block.gates))
        for gate, rows in zip(block.gates, gates, strict=True):
            yield (block.source, gate), _with_sign(layout, gate, rows)


def _put_together(
    layout: Layout, stored: Stored, packed: Mapping[str, Host], sizes: Mapping[str, int]
) -> Host:
    """Build a framework's array from packed arrays; the inverse of `_taken_apart`."""
    parts = []
    for block in stored.blocks:
        gates = dict(zip(GATES, np.split(packed[block.source], 3), strict=True))
        part = np.concatenate([_with_sign(layout, gate, gates[gate]) for gate in block.gates])
        parts.append((part.T if layout.transposed else part).reshape(-1))
    return np.concatenate(parts).reshape(_shape(stored, sizes))


def _block_shape(layout: Layout, block: Block, sizes: Mapping[str, int]) -> tuple[int, ...]:
    columns = {"weight_ih": (sizes.get("I", 0),), "weight_hh": (sizes["H"],)}
    shape = (len(block.gates) * sizes["H"], *columns.get(block.source, ()))
    return shape[::-1] if layout.transposed else shape


def _with_sign(layout: Layout, gate: str, rows: Host) -> Host:
    return -rows if gate == "z" and layout.z_weighs_candidate else rows


def _bias_sum(bias_ih: Host, bias_hh: Host) -> Host:
    # -0.0 + 0.0 is 0.0. Without the addition, a sum that was read is written back bit by bit.
    return np.where(bias_hh == 0, bias_ih, bias_ih + bias_hh)


def _check_form(layout: Layout, *, reset_after: bool) -> None:
    """Check that the framework applies the reset gate at the same position."""
    if layout.reset_after not in (None, reset_after):
        where = "after" if layout.reset_after else "before"
        raise ValueError(
            f"{layout.name}: expected reset_after={layout.reset_after}, because it applies the "
            f"reset gate {where} the recurrent product, got {reset_after}. No conversion between "
            f"the two forms exists. Train a model with reset_after={layout.reset_after}, or choose "
            "another layout"
        )


def _check_biases(layout: Layout, packed: Mapping[str, Host], *, reset_after: bool) -> None:
    """Check that the framework has an array for each bias that is not zero."""
    blocks = [block for stored in layout.arrays for block in stored.blocks]
    held = {(block.source, gate) for block in blocks for gate in block.gates}
    for source in ("bias_ih", "bias_hh"):
        for gate, rows in zip(GATES, np.split(packed[source], 3), strict=True):
            # With reset_after=True, r scales b_hn, so b_hn cannot be merged into a sum.
            apart = reset_after and (source, gate) == ("bias_hh", "n")
            has_place = (source, gate) in held or (("bias", gate) in held and not apart)
            if not has_place and np.any(rows != 0):
                raise ValueError(
                    f"{layout.name}: expected zeros for gate {gate} of {source}, which it does not "
                    f"have, got absolute values up to {np.max(np.abs(rows))}. Choose another "
                    "layout, or train with this bias fixed at zero"
                )


def _checked(layout: Layout, arrays: Mapping[str, Any]) -> tuple[dict[str, Host], dict[str, int]]:
    """Check names, dtypes and shapes; return the arrays as NumPy arrays, and the sizes I and H."""
    given = {name: np.asarray(value) for name, value in arrays.items() if value is not None}
    has_bias = any(stored.is_bias and stored.name in given for stored in layout.arrays)
    wanted = {
        stored.name: stored
        for stored in layout.arrays
        if has_bias or not (stored.is_bias and layout.bias_optional)
    }
    missing = [name for name in wanted if name not in given]
    unexpected = [name for name in given if name not in wanted]
    if missing or unexpected:
        optional = [stored.name for stored in layout.arrays if stored.is_bias]
        raise ValueError(
            f"{layout.name}: expected the arrays {[stored.name for stored in layout.arrays]}"
            + (f", of which {optional} may be absent" if layout.bias_optional else "")
            + f", got {list(given)}"
            + (f"; missing {missing}" if missing else "")
            + (f"; unexpected {unexpected}" if unexpected else "")
            + ". Rename the arrays, or choose another layout"
        )
    for name, array in given.items():
        if "float" not in array.dtype.name:  # also "bfloat16"
            raise TypeError(
                f"{layout.name}: expected {name} to have a real floating dtype, got {array.dtype}. "
                "Cast it first"
            )
    sizes: dict[str, int] = {}
    wrong = [name for name in wanted if not _fits(wanted[name], given[name].shape, sizes)]
    if wrong:
        expected = ", ".join(f"{name} {stored.shape}" for name, stored in wanted.items())
        got = ", ".join(f"{name} {given[name].shape}" for name in wanted)
        raise ValueError(
            f"{layout.name}: expected arrays of the shapes {expected}, got {got}, in which "
            f"{', '.join(wrong)} does not match. Pass the arrays of one direction of one layer, or "
            "choose another layout"
        )
    return given, sizes


def _fits(stored: Stored, shape: tuple[int, ...], sizes: dict[str, int]) -> bool:
    """Whether a shape matches the description; also stores the sizes that it determines."""
    if len(shape) != len(stored.dimensions):
        return False
    for (factor, letter), length in zip(stored.dimensions, shape, strict=True):
        size, rest = divmod(length, factor)
        if rest or size == 0 or size != (sizes.setdefault(letter, size) if letter else 1):
            return False
    return True


def _shape(stored: Stored, sizes: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(factor * sizes.get(letter, 1) for factor, letter in stored.dimensions)
