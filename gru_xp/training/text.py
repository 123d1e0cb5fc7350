"""The text that a model learns: reading it, splitting it, and its characters as numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gru_xp.training.errors import TextError

HELD_OUT_SHARE = 0.05
UNKNOWN_BITS = math.log2(0x110000)
"""What it costs to spell out a character that the vocabulary lacks: its code point, any of all."""


class Corpus(NamedTuple):
    """A text in two parts, of which the model sees only the first."""

    training: str
    held_out: str
    """The last 5 %, what the model is judged by."""


def read_texts(paths: Sequence[Path], /) -> str:
    """Read files as UTF-8, joined by a newline; with no file, the language reference.

    Raises
    ------
    TextError
        If a file is empty, or its bytes are no text.
    OSError
        If one cannot be read.
    """
    return "\n".join(_read(path) for path in paths) if paths else language_reference()


def _read(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise TextError(f"{path} is no UTF-8 text: byte {error.start} {error.reason}") from None
    if not text.strip():
        raise TextError(f"{path} is empty")
    if "\0" in text:
        raise TextError(f"{path} is no text: it has NUL characters")
    return text


def language_reference() -> str:
    """Return Python's language reference, English that every CPython carries, each paragraph once.

    Its topics repeat paragraphs of each other, 19 % of the text: left in, the held-out part would
    be known by heart.
    """
    from pydoc_data.topics import topics  # loaded late: half a megabyte

    return without_repeats("\n".join(topics.values()))


def without_repeats(text: str, /) -> str:
    """Keep only the first of equal paragraphs, which are what empty lines part."""
    return "\n\n".join(dict.fromkeys(text.split("\n\n")))


def split(text: str, /) -> Corpus:
    """Hold out the last 5 % of a text, at least one character."""
    held_out = max(1, int(len(text) * HELD_OUT_SHARE))
    return Corpus(text[:-held_out], text[-held_out:])


class Vocabulary:
    """The characters that a model knows, numbered from 1.

    Number 0 stands for every character that is not among them, so that held-out text or a prompt
    may hold any. A model never sees 0 in training, and never writes it.

    Parameters
    ----------
    characters : iterable of str
        Repeats are dropped; the order does not matter.
    """

    UNKNOWN = 0

    def __init__(self, characters: Iterable[str]) -> None:
        self.characters = "".join(sorted(set(characters)))
        # Past the last code point there is, so that every search ends at a place of the array.
        self._code_points = np.append(_code_points(self.characters), np.uint32(0x110000))

    def __len__(self) -> int:
        """Count the numbers in use, that of the unknown included."""
        return 1 + len(self.characters)

    def encode(self, text: str, /) -> np.ndarray[Any, np.dtype[np.int32]]:
        """Return the characters' numbers, (len(text),)."""
        wanted = _code_points(text)
        place = np.searchsorted(self._code_points, wanted)
        known = self._code_points[place] == wanted
        return np.where(known, place + 1, self.UNKNOWN).astype(np.int32)

    def character(self, number: int, /) -> str:
        """Return the character of a number from 1."""
        return self.characters[number - 1]


def _code_points(text: str) -> np.ndarray[Any, np.dtype[np.uint32]]:
    # A command line's undecodable bytes arrive as lone surrogates; they are unknown, not an error.
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
