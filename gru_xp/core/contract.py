"""The interface of an accelerator: a module whose functions run a library's GRU faster.

These protocols define which functions `gru_xp` calls, with which arguments, and what they return.
An accelerator is a module that has functions of these names. It need not import this module.

The following rules hold for every function:

- The results equal those without the accelerator up to rounding. They have the same dtypes, are on
  the same device, and are bitwise reproducible from run to run.
- Arguments are not modified and no reference to them is kept, unless the description of the
  function says otherwise.
- A function declines a call that it does not support (a dtype, a size, a device) by returning
  NotImplemented, before it has changed anything. The portable code then runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from gru_xp.arrays.typing import Array
from gru_xp.core.loop import Loop
from gru_xp.core.parameters import Form, GRUParams
from gru_xp.core.tape import Tape


class Accelerator(Protocol):
    """The functions that every accelerator must have."""

    OPTIONS: frozenset[str]
    """Names of the options of a `Loop` that it supports. A loop that uses any other option is not
    passed to it."""

    @staticmethod
    def forward(
        gx: Array,
        h0: Array,
        weight_hh: Array,
        b_hn: Array | None,
        loop: Loop,
        /,
        *,
        keep_tape: bool,
    ) -> Any:
        """Run the loop over time; see `gru_xp.core.recurrence.forward`.

        Returns
        -------
        h, tape
            The tape may be that of the portable loop or one of the accelerator's own. The
            backward of each must accept the tape of the other.
        """

    @staticmethod
    def backward(
        dh: Array, dh_last: Array | None, tape: Tape, weight_hh: Array, loop: Loop, /
    ) -> Any:
        """Run the loop over time backward; see `gru_xp.core.recurrence.backward`.

        Returns
        -------
        dgx, dgh_n, dh0
            New arrays, which the caller may overwrite. With reset_after=False, dgh_n may be a view
            of a part of dgx.
        """


class NativeStream(Protocol):
    """The object that `OptionalFunctions.stream` returns: a GRU that keeps its state between calls.

    It declines a call by returning NotImplemented and leaves its state unchanged. It does so for
    any argument that it cannot use directly: a wrong type, shape or dtype, memory that is not
    contiguous, an array of another library. `gru_xp.Stream` then reads the state, runs the portable
    code with the same weights, and assigns the new state. It does the same while accelerators are
    switched off.
    """

    state: Array | None
    """States of all layers, (num_layers, N, H) or (num_layers, H), in the dtype of the weights.
    None means zeros, for as many rows as the next call has.

    Reading returns a new array, or None before the first call of a stream that starts from zeros.
    An assigned value has been checked; it has the dtype of the weights, or is None. It is copied.
    """

    def step(self, x: Array, out: Array | None = None, /) -> Any:
        """Process one step.

        Parameters
        ----------
        x : array, (I,) or (N, I)
            Input, unchecked, as the user passed it.
        out : array, (H,) or (N, H), or None
            Array into which the result is written, unchecked, as the user passed it. It may be `x`.
            If None, a new array is allocated.

        Returns
        -------
        h : array, (H,) or (N, H)
            State of the last layer. This is `out` unless that is None.
        """

    def chunk(self, x: Array, /) -> Any:
        """Process a chunk x, as in `OptionalFunctions.sequence`, and return its y."""


class OptionalFunctions(Protocol):
    """Functions that an accelerator may have in addition, if measurements justify them.

    `step`, `sequence` and `stream` are for small calls, in which the checks and calls around the
    arithmetic take longer than the arithmetic. They are called before any check and get the arrays
    as the user passed them: of any library, shape or dtype. They must quickly decline every call
    that they do not support, including one with wrong arguments; the portable code then raises
    the proper error.
    """

    @staticmethod
    def takes(first: Array, /, *others: Array | None) -> bool:
        """Whether the accelerator can compute with these arrays now.

        Code that has an alternative to the accelerator calls it in order to choose.
        """

    @staticmethod
    def matmul(a: Array, b: Array, /, bias: Array | None = None) -> Any:
        """Return the product of matrices (M, K) and (K, N), with `bias` (N,) added to every row.

        It computes the large products before and after the loop. The arrays have been checked.
        """

    @staticmethod
    def step(
        x: Array,
        h: Array | None,
        weight_ih: Array,
        weight_hh: Array,
        bias_ih: Array | None = None,
        bias_hh: Array | None = None,
        reset_after: bool = True,
        /,
    ) -> Any:
        """Compute one step of a cell in evaluation mode.

        Parameters
        ----------
        x : array, (I,) or (N, I)
        h : array, (H,) or (N, H), or None
            None means zeros.
        weight_ih, weight_hh, bias_ih, bias_hh : array
            As in `GRUParams`. These have been checked.
        reset_after : bool
            As in `Loop`. The function gets both values, regardless of `OPTIONS`.

        Returns
        -------
        h_t : array, (H,) or (N, H)
        """

    @staticmethod
    def sequence(
        x: Array, h0: Array | None, params: Sequence[GRUParams], loop: Loop, form: Form, /
    ) -> Any:
        """Run a whole GRU in evaluation mode, without a tape.

        Parameters
        ----------
        x, h0 : array
            As in `gru_xp.functional.gru`. h0 may be None, which means zeros.
        params : sequence of GRUParams
            Weights of all layers and directions. These have been checked.
        loop : Loop
            Loop of the first direction of each layer. It may be a reverse loop if there is only
            one direction. Its lengths are unchecked and may be any value that a user can pass.
        form : Form

        Returns
        -------
        y, h_n
            As `gru_xp.functional.gru` returns them.
        """

    @staticmethod
    def stream(params: Sequence[GRUParams], loop: Loop, form: Form, /) -> Any:
        """Create a stream: a GRU that is called step by step and starts from a state of zeros.

        Called once, when a `gru_xp.Stream` is created.

        Parameters
        ----------
        params : sequence of GRUParams
            Weights of all layers. These have been checked. The stream may keep references to them,
            as they are not changed during its lifetime.
        loop : Loop
            A forward loop without lengths.
        form : Form
            A form with one direction.

        Returns
        -------
        NativeStream
        """

    @staticmethod
    def describe() -> str:
        """Describe the accelerator in a few words, for the list of backends."""

    @staticmethod
    def explain() -> str:
        """Explain which code runs a call on this machine and why, in lines for ``gru-xp info``."""

    @staticmethod
    def set_num_threads(count: int, /) -> None:
        """Set the maximum number of threads of a call; see `gru_xp.set_num_threads`."""

    @staticmethod
    def get_num_threads() -> int:
        """Return the maximum number of threads of a call."""

    @staticmethod
    def measure_fma_peak(dtype: str, seconds: float = 0.2) -> float:
        """Measure the FLOP/s of multiply-adds on one thread, the peak of ``gru-xp bench``."""
