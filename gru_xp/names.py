"""Attributes of GRUCell that name a part of something it holds: a weight's rows, a stored gate.

Each is a descriptor, so that reading always looks at the one storage, and no name can go stale.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from gru_xp.arrays.typing import Array
from gru_xp.core.equations import GateGradients
from gru_xp.core.parameters import gate
from gru_xp.core.step import CellTape


class Cell(Protocol):
    """What the names need of a cell."""

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
    """A descriptor that knows the name it was given in its class."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, cell: Cell | None, owner: type) -> Any:
        return self if cell is None else self._read(cell)

    def _read(self, cell: Cell) -> Array | None:
        raise NotImplementedError


class Packed(_Named):
    """A packed weight by torch's name, None without biases; assignment checks and copies."""

    def _read(self, cell: Cell) -> Array | None:
        return cell._weights.get(self.name)

    def __set__(self, cell: Cell, value: Array) -> None:
        if self.name not in cell._weights:
            raise AttributeError(f"{self.name}: this cell was made with bias=False")
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
    """The rows of one gate in a packed gradient; there from the first `backward` on."""

    def _read(self, cell: Cell) -> Array | None:
        if cell._gradients is None:
            raise AttributeError(f"{self.name} is there after backward(delta), which has not run")
        return gate(cell._gradients.get(self.packed), self.index)

    def __set__(self, cell: Cell, value: Array) -> None:
        if cell._gradients is None:
            raise AttributeError(f"{self.name} is there after backward(delta), which has not run")
        cell._gradients = cell._with_gate(cell._gradients, self, value)


class _ReadOnly(_Named):
    def __set__(self, cell: Cell, value: Array) -> None:
        raise AttributeError(f"{self.name} is what a call has stored, and cannot be assigned")


class GateGradient(_ReadOnly):
    """The gradient with respect to one gate, of the last `backward`."""

    def _read(self, cell: Cell) -> Array:
        gradients = cell._gate_gradients()
        if gradients is None:
            raise AttributeError(f"{self.name} is there after a backward in train(); none has run")
        return getattr(gradients, self.name.removeprefix("d"))


class Stored(_ReadOnly):
    """Something of the last `forward` that its tape holds."""

    def __init__(self, field: str) -> None:
        self.field = field

    def _read(self, cell: Cell) -> Array:
        if cell._tape is None:
            raise AttributeError(
                f"{self.name} is there after a forward in train(); none has run"
                if cell.training
                else f"{self.name} is not kept in eval(): call train(), then forward"
            )
        value = getattr(cell._tape, self.field)
        if self.field in ("x", "h"):
            return value
        return value if cell._tape.x.ndim == 2 else value[0, ...]
