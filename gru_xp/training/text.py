"""The training text: reading it, splitting it, and encoding its characters as numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gru_xp.files import check_regular
from gru_xp.training.errors import TextError

HELD_OUT_SHARE = 0.05
UNKNOWN_BITS = math.log2(0x110000)
"""Bits that encode the code point of a character not in the vocabulary, uniformly over all."""


class Corpus(NamedTuple):
    """A text in two parts, of which the model is trained on the first only."""

    training: str
    held_out: str
    """The last 5 % of the text, on which the model is evaluated."""


def read_texts(paths: Sequence[Path], /) -> str:
    """Read UTF-8 files and join them with newlines; without files, use the language reference.

    Raises
    ------
    TextError
        If a file is empty or is not UTF-8 text.
    OSError
        If a file cannot be read.
    """
    return "\n".join(_read(path) for path in paths) if paths else language_reference()


def _read(path: Path) -> str:
    check_regular(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise TextError(
            f"expected UTF-8 text in {path}, got {error.reason} at byte {error.start}"
        ) from None
    if not text.strip():
        raise TextError(f"expected text in {path}, got an empty or blank file")
    if "\0" in text:
        raise TextError(f"expected text in {path}, got NUL characters")
    return text


def language_reference() -> str:
    """Return Python's language reference, which is part of CPython, without repeated paragraphs.

    Its topics share paragraphs, which make up 19 % of the text. If they were kept, the held-out
    part would contain paragraphs of the training part.
    """
    from pydoc_data.topics import topics  # imported here because it takes half a megabyte

    return without_repeats("\n".join(topics.values()))


def without_repeats(text: str, /) -> str:
    """Remove repeated paragraphs, which are separated by empty lines; keep the first of each."""
    return "\n\n".join(dict.fromkeys(text.split("\n\n")))


def split(text: str, /) -> Corpus:
    """Hold out the last 5 % of a text, at least one character."""
    held_out = max(1, int(len(text) * HELD_OUT_SHARE))
    return Corpus(text[:-held_out], text[-held_out:])


class Vocabulary:
    """The characters of a model, numbered from 1.

    Number 0 is the unknown character. It stands for all other characters, which may occur in
    held-out text or in a prompt. It does not occur in training, and a model never generates it.

    Parameters
    ----------
    characters : iterable of str
        The characters. Repetitions and order are ignored.
    """

    UNKNOWN = 0

    def __init__(self, characters: Iterable[str]) -> None:
        self.characters = "".join(sorted(set(characters)))
        # A sentinel above the last code point, so that every search returns an index in the array.
        self._code_points = np.append(_code_points(self.characters), np.uint32(0x110000))

    def __len__(self) -> int:
        """Return the number of characters, including the unknown character."""
        return 1 + len(self.characters)

    def encode(self, text: str, /) -> np.ndarray[Any, np.dtype[np.int32]]:
        """Return the numbers of the characters, (len(text),)."""
        wanted = _code_points(text)
        place = np.searchsorted(self._code_points, wanted)
        known = self._code_points[place] == wanted
        return np.where(known, place + 1, self.UNKNOWN).astype(np.int32)

    def character(self, number: int, /) -> str:
        """Return the character with a number of 1 or more."""
        return self.characters[number - 1]


def _code_points(text: str) -> np.ndarray[Any, np.dtype[np.uint32]]:
    # Undecodable bytes of a command line become lone surrogates. They count as unknown characters.
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
