"""What Python does between a call and its arithmetic, counted: more than the arithmetic takes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gru_xp

H = 16


def calls(function: Callable[[], Any]) -> int:
    """Functions that one call enters, in Python and in C, as a profiler counts them."""
    function()  # what happens once has happened
    count = 0

    def count_them(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(count_them)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count - 1  # setprofile itself


@pytest.fixture
def one(native: Any) -> Any:
    """One row of H numbers, where NumPy's accelerator is there: without it the loop adds calls."""
    return np.ones((1, H), dtype=np.float32)


def test_a_training_step_of_a_cell(one: Any) -> None:
    cell = gru_xp.GRUCell(H, H, rng=0)

    def step() -> None:
        cell(one, one)
        cell.backward(one)

    assert calls(step) <= 150


def test_a_training_step_of_a_gru(one: Any) -> None:
    gru, x = gru_xp.GRU(H, H, rng=0), one[None]

    def step() -> None:
        gru(x, x)
        gru.backward(x)

    assert calls(step) <= 220


def test_a_step_in_eval(one: Any) -> None:
    cell = gru_xp.GRUCell(H, H, rng=0).eval()
    assert calls(lambda: cell(one, one)) <= 10
