"""GRUs for any array library: one implementation for NumPy, CuPy, PyTorch and JAX arrays.

`GRUCell` computes one step of a gated recurrent unit. `GRU` runs whole sequences through several
layers and directions. Both have a forward and a backward pass, written once against the Array API
standard. `functional` provides the same computations as pure functions, `save` and `load` store
models in files, and `backends` lists the array libraries on this machine.
"""

from gru_xp import functional
from gru_xp.arrays.libraries import BackendError
from gru_xp.arrays.transfer import to_numpy
from gru_xp.backend_info import BackendInfo, backends
from gru_xp.cell import GRUCell
from gru_xp.core.accelerators import use_accelerators
from gru_xp.core.parameters import GRUParams
from gru_xp.core.stack import GateValues
from gru_xp.core.threads import get_num_threads, set_num_threads
from gru_xp.layer import GRU
from gru_xp.persistence import load, save
from gru_xp.stream import Stream

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
    "load",
    "save",
    "set_num_threads",
    "to_numpy",
    "use_accelerators",
]

__version__ = "0.1.0"
