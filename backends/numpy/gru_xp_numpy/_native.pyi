from typing import Any

from gru_xp.accelerator_api import Array, GRUParams

def forward(
    gx: Array,
    h0: Array,
    weight_hh: Array,
    b_hn: Array | None,
    lengths: Array | None,
    reverse: bool,
    reset_after: bool,
    keep_tape: bool,
    threads: int = 0,
) -> Any: ...
def backward(
    dh: Array,
    dh_last: Array | None,
    h_prev: Array,
    r: Array,
    z: Array,
    n: Array,
    gh_n: Array | None,
    weight_hh: Array,
    lengths: Array | None,
    reverse: bool,
    reset_after: bool,
    threads: int = 0,
) -> Any: ...
def matmul(a: Array, b: Array, bias: Array | None, threads: int = 0) -> Any: ...
def step(
    x: Array,
    h: Array | None,
    weight_ih: Array,
    weight_hh: Array,
    bias_ih: Array | None = None,
    bias_hh: Array | None = None,
    reset_after: bool = True,
    threads: int = 0,
) -> Any: ...
def sequence(
    x: Array,
    h0: Array | None,
    params: tuple[GRUParams, ...],
    reset_after: bool,
    batch_first: bool,
    bidirectional: bool,
    threads: int = 0,
) -> Any: ...

class Stream:
    state: Array | None
    def step(self, x: Array, out: Array | None = None) -> Any: ...
    def chunk(self, x: Array) -> Any: ...

def stream(params: tuple[GRUParams, ...], reset_after: bool, batch_first: bool) -> Any: ...
def tanh(x: Array) -> Any: ...
def sigmoid(x: Array) -> Any: ...
def measure_fma_peak(dtype: str, seconds: float) -> float: ...
def num_threads() -> int: ...
def set_num_threads(count: int) -> None: ...
def set_lender(address: int) -> None: ...
def isa() -> str: ...
def set_isa(name: str) -> bool: ...
