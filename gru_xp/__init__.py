"""GRUs on any array library: one code for NumPy, CuPy, PyTorch and JAX arrays.

`GRUCell` is a gated recurrent unit with forward and backward written once against the Array API;
`functional` has the same as pure functions. `backends` lists the array libraries of this machine.
"""

from gru_xp import functional
from gru_xp.accelerators import use_accelerators
from gru_xp.backend import BackendError, BackendInfo, backends, to_numpy
from gru_xp.cell import GRUCell
from gru_xp.functional import GRUParams

__all__ = [
    "BackendError",
    "BackendInfo",
    "GRUCell",
    "GRUParams",
    "backends",
    "functional",
    "to_numpy",
    "use_accelerators",
]

__version__ = "0.1.0"
