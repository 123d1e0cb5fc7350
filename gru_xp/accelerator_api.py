"""What writers of accelerators import; it stays where it is.

`Accelerator` and `OptionalFunctions` say which functions an accelerator has. A `Loop` is what it is
to run, a `Tape` what its forward leaves for its backward. `portable` is the loop in standard array
operations, and its parts for those who run them in a loop of their own. See ``backends/README.md``.
"""

from gru_xp.arrays.place import Place
from gru_xp.arrays.typing import Array
from gru_xp.core import portable
from gru_xp.core.contract import Accelerator, NativeStream, OptionalFunctions
from gru_xp.core.loop import ARRAYS, CONSTANTS, Loop
from gru_xp.core.parameters import Form, GRUParams
from gru_xp.core.tape import Tape, valid_steps

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
]
