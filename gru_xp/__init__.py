"""GRUs on any array library: one code for NumPy, CuPy, PyTorch and JAX arrays.

`GRUCell` is one step of a gated recurrent unit, `GRU` whole sequences through layers and
directions, forward and backward, written once against the Array API; `functional` has the same as
pure functions. `backends` lists the array libraries of this machine.
"""

from gru_xp import functional
from gru_xp.accelerators import use_accelerators
from gru_xp.backend import BackendError, BackendInfo, backends, to_numpy
from gru_xp.cell import GRUCell
from gru_xp.layer import GRU
from gru_xp.parameters import GRUParams
from gru_xp.stack import GateValues
from gru_xp.stream import Stream
from gru_xp.threads import get_num_threads, set_num_threads

__all__ = [
    "GRU",
    "BackendError",
    "BackendInfo",
    "GRUCell",
    "GRUParams",
    "GateValues",
    "Stream",
    "backends",
    "functional",
    "get_num_threads",
    "set_num_threads",
    "to_numpy",
    "use_accelerators",
]

__version__ = "0.1.0"
