"""Options of the recurrence, passed as one value from the public call down to the loop."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from gru_xp.arrays.typing import Array

_ARRAY = {"array": True}


@dataclass(frozen=True, eq=False)
class Loop:
    """The options of the loop over time for one direction of one layer.

    The default of each option turns it off; for an array it is None. An accelerator lists the
    options that it supports, and a loop that uses any other option is not passed to it. A new
    option therefore needs only a field here and code in `gru_xp.core.equations` and
    `gru_xp.core.portable`.

    A value that has a gradient is an operand, not an option. Array options are marked in the
    metadata of their field, because ``jax.jit`` traces arrays and treats all other values as
    constants.
    """

    lengths: Array | None = field(default=None, metadata=_ARRAY)
    """Number of steps of each row without padding, integers (N,); None means T for all rows.

    Step t of row i is *padding* if ``t >= lengths[i]``. In padding the state passes through
    unchanged, in both directions, so that after the loop every row holds its own last state. The
    values of gx in padding are never used, even if they are NaN.
    """
    reverse: bool = False
    """Run from the last step to the first; index t of every array still means time t."""
    reset_after: bool = True
    """If True, the reset gate scales the recurrent product, as in torch and cuDNN. If False, it
    scales the state before the product, as in Cho et al. (2014)."""

    def options(self) -> list[str]:
        """Return the names of the options whose value differs from the default."""
        defaults = type(self)  # a dataclass keeps the defaults as class attributes
        return [
            name for name, value in vars(self).items() if _differ(value, getattr(defaults, name))
        ]


def _differ(value: Any, default: Any) -> bool:
    """Whether an option is in use. Arrays, whose default is None, are not compared by value."""
    return value is not default and (default is None or bool(value != default))


PLAIN = Loop()
"""No option in use."""

RESET_BEFORE = Loop(reset_after=False)
"""Only reset_after=False is in use."""

ARRAYS = tuple(each.name for each in fields(Loop) if each.metadata)
"""Names of the options that are arrays."""

CONSTANTS = tuple(each.name for each in fields(Loop) if not each.metadata)
"""Names of the other options, whose values are hashable."""
