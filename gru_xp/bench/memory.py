"""Peak memory of a training step: the growth of the resident set of a separate process."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress
from pathlib import Path

from gru_xp.bench.cases import Size, work
from gru_xp.bench.contestant import Contestant

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_TINY = Size(2, 1, 3, 5)


def training_growth(contestant: Contestant, size: Size, dtype: str, /) -> int:
    """Measure by how many bytes a training step raises the peak of the resident set.

    Weights and inputs are created before, and a step of a tiny size warms the library up. This must
    only be called on platforms where `peak` does not return None.
    """
    warm_up, call = (contestant.training(work(each, dtype)) for each in (_TINY, size))
    assert warm_up is not None
    assert call is not None
    with call.context():
        warm_up.run()
        _reset_peak()
        before = peak()
        results = call.run()
        after = peak()
    del results  # kept alive until the measurement, as a caller would keep them
    assert before is not None
    assert after is not None
    return after - before


def peak() -> int | None:
    """Return the peak of this process's resident set in bytes; None if it is not known."""
    with suppress(OSError):
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:
        return None
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return highest if sys.platform == "darwin" else highest * 1024


def _reset_peak() -> None:
    """Reset the peak to the current resident set, if the platform supports this.

    Memory that the allocator has kept from freed arrays is first returned to the system. Otherwise
    the step would reuse it and seem to need less.
    """
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)  # available in glibc
    with suppress(OSError):
        _CLEAR.write_text("5")
