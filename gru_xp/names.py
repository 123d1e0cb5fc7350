"""Attributes of GRUCell that refer to a part of its storage: rows of a weight, a stored gate.

Each attribute is a descriptor that reads the storage at every access, so it is never out of date.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from gru_xp.arrays.typing import Array
from gru_xp.core.equations import GateGradients
from gru_xp.core.parameters import gate
from gru_xp.core.step import CellTape


class Cell(Protocol):
    """The part of a cell that the descriptors use."""

    training: bool
    _weights: dict[str, Array]
    _gradients: dict[str, Array] | None
    _tape: CellTape | None

    def _write(self, values: Mapping[str, Any], *, foreign: bool = False) -> None: ...

    def _hold(self, weights: dict[str, Array]) -> None: ...

    def _with_gate(
        self, packed: dict[str, Array], name: GateWeight | GateWeightGradient, value: Any
    ) -> dict[str, Array]: ...

    def _gate_gradients(self) -> GateGradients | None: ...


class _Named:
    """A descriptor that stores the name it has in its class."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, cell: Cell | None, owner: type) -> Any:
        return self if cell is None else self._read(cell)

    def _read(self, cell: Cell) -> Array | None:
        raise NotImplementedError


class Packed(_Named):
    """A packed weight by torch's name, or None for an absent bias; assignment checks and copies."""

    def _read(self, cell: Cell) -> Array | None:
        return cell._weights.get(self.name)

    def __set__(self, cell: Cell, value: Array) -> None:
        if self.name not in cell._weights:
            raise AttributeError(
                f"{self.name} cannot be assigned, as this GRUCell was created with bias=False"
            )
        cell._write({self.name: value})


class _GateRows(_Named):
    def __init__(self, packed: str, index: int) -> None:
        self.packed = packed
        self.index = index


class GateWeight(_GateRows):
    """The rows of one gate in a packed weight, by the teaching interface's name."""

    def _read(self, cell: Cell) -> Array | None:
        return gate(cell._weights.get(self.packed), self.index)

    def __set__(self, cell: Cell, value: Array) -> None:
        cell._hold(cell._with_gate(cell._weights, self, value))


class GateWeightGradient(_GateRows):
    """The rows of one gate in a packed gradient; available after the first `backward`."""

    def _read(self, cell: Cell) -> Array | None:
        if cell._gradients is None:
            raise AttributeError(f"{self.name} is not available before the first backward(delta)")
        return gate(cell._gradients.get(self.packed), self.index)

    def __set__(self, cell: Cell, value: Array) -> None:
        if cell._gradients is None:
            raise AttributeError(f"{self.name} is not available before the first backward(delta)")
        cell._gradients = cell._with_gate(cell._gradients, self, value)


class _ReadOnly(_Named):
    def __set__(self, cell: Cell, value: Array) -> None:
        raise AttributeError(
            f"{self.name} cannot be assigned: it is the stored result of forward or backward"
        )


class GateGradient(_ReadOnly):
    """The gradient of the last `backward` with respect to one gate."""

    def _read(self, cell: Cell) -> Array:
        gradients = cell._gate_gradients()
        if gradients is None:
            raise AttributeError(
                f"{self.name} is not available before the first backward(delta) in training mode"
            )
        return getattr(gradients, self.name.removeprefix("d"))


class Stored(_ReadOnly):
    """A value that the tape of the last `forward` holds."""

    def __init__(self, field: str) -> None:
        self.field = field

    def _read(self, cell: Cell) -> Array:
        if cell._tape is None:
            raise AttributeError(
                f"{self.name} is not available before the first forward in training mode"
                if cell.training
                else f"{self.name} is not stored in evaluation mode. Call train(), then forward"
            )
        value = getattr(cell._tape, self.field)
        if self.field in ("x", "h"):
            return value
        return value if cell._tape.x.ndim == 2 else value[0, ...]
