"""Peak memory of a training step: how far it lifts the resident set of a process of its own."""

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
    """Measure by how many bytes a training step lifts the peak of the resident set.

    Weights and inputs are there before, and a step at a tiny size has warmed the library up. The
    platform must be one where `peak` is not None.
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
    del results  # lived until here: a caller has them too
    assert before is not None
    assert after is not None
    return after - before


def peak() -> int | None:
    """Return the high-water mark of this process's resident set in bytes; None if none is told."""
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
    """Let the mark start from what is resident now, where the platform can.

    Before that, what the allocator keeps of arrays long gone is given back, or the step would use
    it and seem to need less.
    """
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)  # glibc has it
    with suppress(OSError):
        _CLEAR.write_text("5")
