"""Reading, splitting and numbering text."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from gru_xp.training import text
from gru_xp.training.batches import Streams, side_by_side
from gru_xp.training.errors import TextError
from gru_xp.training.text import Vocabulary


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_without_files_the_text_is_the_language_reference() -> None:
    from pydoc_data.topics import topics

    read = text.read_texts([])
    whole = sum(map(len, topics.values()))
    assert 'The "import" statement' in read
    assert 0.75 < len(read) / whole < 0.9
    paragraphs = read.split("\n\n")
    assert len(paragraphs) == len(set(paragraphs))


def test_only_the_first_of_equal_paragraphs_stays() -> None:
    assert text.without_repeats("a\n\nb\nb\n\na\n\nc\n\nb") == "a\n\nb\nb\n\nc\n\nb"


def test_files_are_joined_in_their_order(tmp_path: Path) -> None:
    first = write(tmp_path / "1", "é\r\nb".encode())
    second = write(tmp_path / "2", b"\xef\xbb\xbfc\n")
    assert text.read_texts([first, second]) == "é\nb\nc\n"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="pipe is not a regular file"):
        text.read_texts([tmp_path / "pipe"])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "got an empty or blank file"),
        (b" \n\n", "got an empty or blank file"),
        (b"abc\xff", "expected UTF-8 text .* at byte 3"),
        (b"abc\0", "got NUL characters"),
    ],
)
def test_what_is_no_text_is_refused_by_name(tmp_path: Path, data: bytes, words: str) -> None:
    path = write(tmp_path / "odd", data)
    with pytest.raises(TextError, match=words) as error:
        text.read_texts([write(tmp_path / "good", b"good"), path])
    assert str(path) in str(error.value)


def test_the_last_twentieth_is_held_out() -> None:
    corpus = text.split("x" * 950 + "y" * 50)
    assert corpus == ("x" * 950, "y" * 50)
    assert text.split("abc") == ("ab", "c")


def test_characters_are_numbered_from_one_and_the_unknown_is_zero() -> None:
    vocabulary = Vocabulary("banana𝛑")
    assert vocabulary.characters == "abn𝛑"
    assert len(vocabulary) == 5
    numbers = vocabulary.encode("na\U0010ffff𝛑b\ud800 ")
    assert numbers.dtype == np.int32
    assert numbers.tolist() == [3, 1, 0, 4, 2, 0, 0]
    assert [vocabulary.character(number) for number in (1, 2, 3, 4)] == list("abn𝛑")


def test_chunks_follow_each_other_in_every_stream() -> None:
    streams = Streams(np.arange(20, dtype=np.int32), batch_size=2, seq_len=3)
    inputs, targets = streams.chunk(0)
    assert inputs.tolist() == [[0, 10], [1, 11], [2, 12]]
    assert targets.tolist() == [[1, 11], [2, 12], [3, 13]]
    assert streams.chunk(1)[0].tolist() == [[3, 13], [4, 14], [5, 15]]


def test_streams_go_round_the_text() -> None:
    streams = Streams(np.arange(7, dtype=np.int32), batch_size=2, seq_len=3)
    inputs, targets = streams.chunk(2)
    assert inputs.tolist() == [[6, 2], [0, 3], [1, 4]]
    assert targets.tolist() == [[0, 3], [1, 4], [2, 5]]


def test_a_text_shorter_than_a_chunk_is_refused() -> None:
    with pytest.raises(TextError, match=r"at least 7 characters .* got 6"):
        Streams(np.arange(6, dtype=np.int32), batch_size=2, seq_len=3)


def test_side_by_side_keeps_every_target_once() -> None:
    inputs, targets = side_by_side(
        np.arange(7, dtype=np.int32), np.arange(1, 8, dtype=np.int32), streams=3
    )
    assert inputs.tolist() == [[0, 3, 6], [1, 4, 0], [2, 5, 0]]
    assert targets.tolist() == [[1, 4, 7], [2, 5, -1], [3, 6, -1]]
