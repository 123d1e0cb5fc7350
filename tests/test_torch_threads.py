"""Calls for torch's tensors run on torch's own threads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.library import Library

TRAIN = """
import os, signal
import torch
from gru_xp.interop.torch import GRU

torch.manual_seed(0)
torch.set_num_threads(2)
layer, x = GRU(64, 256), torch.randn(30, 16, 64)

def train():
    layer.zero_grad()
    layer(x)[0].sum().backward()
    return [each.grad.numpy().tobytes() for each in layer.parameters()]

def threads():
    return len(os.listdir("/proc/self/task"))

torch.ones(1000, 1000).exp()  # starts torch's thread
"""


@pytest.fixture
def lent(lib: Library) -> None:
    """Leave out where the threads are the engine's own."""
    if lib.name != "torch" or not lib.accelerated:
        pytest.skip("about torch's accelerator")
    torch: Any = pytest.importorskip("torch", reason="about torch")
    pytest.importorskip(
        "gru_xp_torch", reason="torch's accelerator does not load here", exc_type=ImportError
    )
    if "parallel backend: OpenMP" not in torch.__config__.parallel_info():
        pytest.skip("torch's threads are not OpenMP's here")
    if not Path("/proc/self/task").is_dir():
        pytest.skip("there is no /proc here")


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", TRAIN + code],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "GRU_XP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_no_thread_is_made(lent: None) -> None:
    assert run("before = threads(); train(); print(threads() - before)") == "0\n"


def test_threads_of_the_engine_have_the_same_bits(lent: None) -> None:
    """As many more of them as torch has threads, without the caller."""
    code = """
from gru_xp_numpy import _native
expected, before = train(), threads()
_native.set_lender(0)
print(train() == expected, threads() - before)
"""
    assert run(code) == "True 1\n"


def test_a_child_of_a_fork_does_not_wait_for_its_parents_threads(lent: None) -> None:
    code = """
train()
expected = layer(x)[0].detach().numpy().tobytes()
child = os.fork()
if child == 0:
    signal.alarm(60)
    with torch.no_grad():
        os._exit(layer(x)[0].numpy().tobytes() != expected)
print(os.waitpid(child, 0)[1])
"""
    assert run(code) == "0\n"
