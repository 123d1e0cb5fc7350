"""What the recurrence is to run: one value, handed from the public call down to the loop."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from gru_xp.arrays.typing import Array

_ARRAY = {"array": True}


@dataclass(frozen=True, eq=False)
class Loop:
    """The options of a loop over time, of one direction of one layer.

    Each option has a default that leaves it out; that of an array is None. An accelerator names the
    options that it takes; a loop that uses another one does not reach it. So a new option is a
    field here, and what it does in `gru_xp.core.equations` and `gru_xp.core.portable`.

    What has a gradient is no option but an operand. Options that are arrays say so in their
    field's metadata, as ``jax.jit`` traces arrays, and takes all else as constants.
    """

    lengths: Array | None = field(default=None, metadata=_ARRAY)
    """Steps of each row that are no padding, integers (N,); None means T for all.

    Step t of row i is *padding* where ``t >= lengths[i]``: there the state passes through
    unchanged, in both directions, so that after the loop every row holds its own last state. What
    gx holds in padding is never used, be it NaN.
    """
    reverse: bool = False
    """Run from the last step to the first; index t of every array still means time t."""
    reset_after: bool = True
    """Whether the reset gate scales the recurrent product, as in torch and cuDNN, or, if False,
    the state before the product, as in Cho et al. (2014)."""

    def options(self) -> list[str]:
        """Names of the options in use: those with another value than their default."""
        defaults = type(self)  # which holds them as attributes, as classes of dataclasses do
        return [
            name for name, value in vars(self).items() if _differ(value, getattr(defaults, name))
        ]


def _differ(value: Any, default: Any) -> bool:
    """Whether an option is in use; an array, whose default is None, is not compared."""
    return value is not default and (default is None or bool(value != default))


PLAIN = Loop()
"""No option in use."""

RESET_BEFORE = Loop(reset_after=False)
"""The reset gate before the product, and no other option."""

ARRAYS = tuple(each.name for each in fields(Loop) if each.metadata)
"""Names of the options that are arrays."""

CONSTANTS = tuple(each.name for each in fields(Loop) if not each.metadata)
"""Names of the others, whose values are hashable."""
