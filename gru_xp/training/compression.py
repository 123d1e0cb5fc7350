"""Compression of the held-out text by general-purpose compressors, for comparison with a model."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable

from gru_xp.training.text import Corpus

_COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, compresslevel=9, mtime=0),
    "bz2": lambda data: bz2.compress(data, compresslevel=9),
    "xz": lambda data: lzma.compress(data, preset=9),
}


def compressed_bits(corpus: Corpus, /) -> dict[str, float]:
    """Return the bits per held-out character of gzip, bz2 and xz at their highest levels.

    The figure is based on ``size(training + held out) - size(training)``, the amount by which the
    held-out text increases the compressed size. The compressors thus know the training text, as the
    model does.
    """
    training = corpus.training.encode()
    both = training + corpus.held_out.encode()
    return {
        name: 8 * (len(compress(both)) - len(compress(training))) / len(corpus.held_out)
        for name, compress in _COMPRESSORS.items()
    }
