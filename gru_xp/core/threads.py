"""The number of threads that the accelerators use."""

from __future__ import annotations

import operator

from gru_xp.core import accelerators


def set_num_threads(count: int, /) -> None:
    """Set the maximum number of threads that NumPy's accelerator uses in one call.

    The default is the environment variable ``GRU_XP_NUM_THREADS`` if it is set. Otherwise it is the
    number of processors available to the process, limited by ``OMP_NUM_THREADS``. Results do
    not depend on the number of threads. The portable loop uses NumPy's matrix products, whose
    threads this function does not control (see the package threadpoolctl). If the accelerator is
    not installed, the function has no effect.

    Parameters
    ----------
    count : int
        Number of threads, at least 1.

    Raises
    ------
    ValueError, TypeError
        If `count` is not a positive integer.
    """
    try:
        wanted = operator.index(count)
    except TypeError:
        raise TypeError(
            f"set_num_threads: expected a positive integer, got {type(count).__name__}"
        ) from None
    if isinstance(count, bool) or wanted < 1:
        raise ValueError(f"set_num_threads: expected a positive integer, got {count}")
    change = getattr(accelerators.find("numpy").module, "set_num_threads", None)
    if change is not None:
        change(min(wanted, (1 << 31) - 1))


def get_num_threads() -> int:
    """Return the maximum number of threads of NumPy's accelerator; 1 if it is not installed."""
    ask = getattr(accelerators.find("numpy").module, "get_num_threads", None)
    return 1 if ask is None else int(ask())
