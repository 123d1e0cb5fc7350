"""The compressors that a model is held against."""

from __future__ import annotations

import bz2
import gzip
import lzma

import pytest

from gru_xp.training.compression import compressed_bits
from gru_xp.training.text import Corpus


def test_bits_are_what_the_held_out_text_adds_to_the_compressed_size() -> None:
    corpus = Corpus("the cat sat on the mät. " * 40, "a dog lay by the dæmon. ")
    sizes = {
        "gzip": [len(gzip.compress(text.encode(), 9)) for text in (corpus[0], "".join(corpus))],
        "bz2": [len(bz2.compress(text.encode(), 9)) for text in (corpus[0], "".join(corpus))],
        "xz": [
            len(lzma.compress(text.encode(), preset=9)) for text in (corpus[0], "".join(corpus))
        ],
    }
    bits = compressed_bits(corpus)
    assert list(bits) == ["gzip", "bz2", "xz"]
    for name, (training, both) in sizes.items():
        assert bits[name] == pytest.approx(8 * (both - training) / 24)
        assert bits[name] > 0
