"""What an accelerator is: the functions that a module may have to run a library's GRU faster.

These protocols say what `gru_xp` calls, with which arguments, and what must come back. An
accelerator is a module with functions of these names; none of it is imported from here.

For all of them holds: the same numbers as without the accelerator within rounding, the same dtypes,
the arrays' own device; no argument is modified, none is kept, but where its description says so;
the same bits on every run. A call that a function does not take (a dtype, a size, a device) it
declines by returning NotImplemented, before it has changed anything; the portable path then runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from gru_xp.arrays.typing import Array
from gru_xp.core.loop import Loop
from gru_xp.core.parameters import Form, GRUParams
from gru_xp.core.tape import Tape


class Accelerator(Protocol):
    """What every accelerator has."""

    OPTIONS: frozenset[str]
    """Names of the options of a `Loop` that it takes. A loop that uses any other one does not
    reach it."""

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
            The tape may be the portable loop's or one's own: either backward takes either's.
        """

    @staticmethod
    def backward(
        dh: Array, dh_last: Array | None, tape: Tape, weight_hh: Array, loop: Loop, /
    ) -> Any:
        """Run the loop over time back; see `gru_xp.core.recurrence.backward`.

        Returns
        -------
        dgx, dgh_n, dh0
            New arrays, which the caller may write over; dgh_n may be a part of dgx where the reset
            gate acts before the product.
        """


class NativeStream(Protocol):
    """What `OptionalFunctions.stream` returns: a GRU with a state, fed by calls.

    It declines a call by returning NotImplemented, with its state as it was: whatever it does not
    take as it is, be it a wrong type, shape or dtype, memory that is not contiguous, an array of
    another library. `gru_xp.Stream` then reads the state, runs the portable path on the same
    weights, and assigns the state after it. It does the same while accelerators are switched off.
    """

    state: Array | None
    """States of all layers, (num_layers, N, H) or (num_layers, H), of the weights' dtype; None
    means zeros, for as many rows as the next call has.

    What is read is a new array, or None before the first call of a stream that starts from zeros.
    What is assigned is sound, of the weights' dtype or None, and is copied."""

    def step(self, x: Array, out: Array | None = None, /) -> Any:
        """Take one step.

        Parameters
        ----------
        x : array, (I,) or (N, I)
            As the user gave it, as all arrays that the functions below get.
        out : array, (H,) or (N, H), or None
            What the result is written into, also as the user gave it, which may be `x`; None asks
            for a new array.

        Returns
        -------
        h : array, (H,) or (N, H)
            The last layer's state; `out` itself, where it is not None.
        """

    def chunk(self, x: Array, /) -> Any:
        """Take a chunk, as `OptionalFunctions.sequence` takes x, and return its y."""


class OptionalFunctions(Protocol):
    """What an accelerator may have besides, where a measurement asks for it.

    `step`, `sequence` and `stream` are for calls whose arithmetic is shorter than the way to it.
    They are asked first, and get arrays as the user gave them: unchecked, of any library, shape or
    dtype. They decline whatever they do not know at once, a wrong argument too: what runs then has
    the right words for it.
    """

    @staticmethod
    def takes(first: Array, /, *others: Array | None) -> bool:
        """Whether it computes with such arrays here and now; those ask who have another way to."""

    @staticmethod
    def matmul(a: Array, b: Array, /, bias: Array | None = None) -> Any:
        """Product of matrices (M, K) and (K, N), plus `bias` (N,) for every row.

        For the large products before and after the loop. The arrays have been checked.
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
        """One step of a cell in eval.

        Parameters
        ----------
        x : array, (I,) or (N, I)
        h : array, (H,) or (N, H), or None
            None means zeros.
        weight_ih, weight_hh, bias_ih, bias_hh : array
            As in `GRUParams`; these are sound.
        reset_after : bool
            As in `Loop`. Whatever `OPTIONS` names, the function is asked with True and with False.

        Returns
        -------
        h_t : array, (H,) or (N, H)
        """

    @staticmethod
    def sequence(
        x: Array, h0: Array | None, params: Sequence[GRUParams], loop: Loop, form: Form, /
    ) -> Any:
        """A whole GRU in eval, without a tape.

        Parameters
        ----------
        x, h0 : array
            As in `gru_xp.functional.gru`; h0 may be None, which means zeros.
        params : sequence of GRUParams
            Of all layers and directions; these are sound.
        loop : Loop
            Of the first direction of each layer: with one alone it may run in reverse. Its lengths
            may be anything that a user can give.
        form : Form

        Returns
        -------
        y, h_n
            As `gru_xp.functional.gru` returns them.
        """

    @staticmethod
    def stream(params: Sequence[GRUParams], loop: Loop, form: Form, /) -> Any:
        """A GRU that is fed step by step, from a state of zeros.

        Asked once, as a `gru_xp.Stream` is made.

        Parameters
        ----------
        params : sequence of GRUParams
            Of all layers; these are sound, and nobody changes them as long as the stream lives,
            which may keep them.
        loop : Loop
            Without lengths, from the first step to the last.
        form : Form
            Of one direction.

        Returns
        -------
        NativeStream
        """

    @staticmethod
    def describe() -> str:
        """Say what this is in some words, for the list of backends."""

    @staticmethod
    def explain() -> str:
        """Tell which way calls take here and why, in lines for ``gru-xp info``."""

    @staticmethod
    def set_num_threads(count: int, /) -> None:
        """Set how many threads a call uses at most; see `gru_xp.set_num_threads`."""

    @staticmethod
    def get_num_threads() -> int:
        """Return how many threads a call uses at most."""

    @staticmethod
    def measure_fma_peak(dtype: str, seconds: float = 0.2) -> float:
        """Measure the FLOP/s of one thread's multiply-adds, for the shares in ``gru-xp bench``."""
