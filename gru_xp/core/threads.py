"""How many threads the accelerators use."""

from __future__ import annotations

import operator

from gru_xp.core import accelerators


def set_num_threads(count: int, /) -> None:
    """Set how many threads NumPy's accelerator uses at most for one call.

    As long as this has not been called it is what the environment variable ``GRU_XP_NUM_THREADS``
    says, or else the number of processors that the process may run on, at most
    ``OMP_NUM_THREADS``. Results do not depend on it. The portable loop's products are NumPy's own,
    and so are their threads (see the package threadpoolctl), as is everything where the
    accelerator is not installed: then this does nothing.

    Parameters
    ----------
    count : int
        At least 1.

    Raises
    ------
    ValueError, TypeError
        If `count` is no positive integer.
    """
    try:
        wanted = operator.index(count)
    except TypeError:
        raise TypeError(
            f"set_num_threads: expected a positive integer, got {type(count).__name__}"
        ) from None
    if isinstance(count, bool) or wanted < 1:
        raise ValueError(f"set_num_threads: expected an integer of at least 1, got {count}")
    change = getattr(accelerators.find("numpy").module, "set_num_threads", None)
    if change is not None:
        change(min(wanted, (1 << 31) - 1))


def get_num_threads() -> int:
    """Return how many threads NumPy's accelerator uses at most; 1 where it is not installed."""
    ask = getattr(accelerators.find("numpy").module, "get_num_threads", None)
    return 1 if ask is None else int(ask())
