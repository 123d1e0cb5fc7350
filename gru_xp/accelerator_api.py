"""The stable interface for authors of accelerators.

`Accelerator` and `OptionalFunctions` define the functions of an accelerator. A `Loop` holds the
options of the loop over time, and a `Tape` the values that its forward stores for its backward.
`portable` is the loop in standard array operations; its parts can be used in other loops. See
``backends/README.md``.
"""

from gru_xp.arrays.place import Place
from gru_xp.arrays.typing import Array
from gru_xp.core import portable
from gru_xp.core.contract import Accelerator, NativeStream, OptionalFunctions
from gru_xp.core.loop import ARRAYS, CONSTANTS, Loop
from gru_xp.core.parameters import Form, GRUParams
from gru_xp.core.tape import Tape, valid_steps, zero_in_padding

__all__ = [
    "ARRAYS",
    "CONSTANTS",
    "Accelerator",
    "Array",
    "Form",
    "GRUParams",
    "Loop",
    "NativeStream",
    "OptionalFunctions",
    "Place",
    "Tape",
    "portable",
    "valid_steps",
    "zero_in_padding",
]
