"""Cross-entropy against torch, a formula in float64, and finite differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gru_xp.training.losses import cross_entropy, cross_entropy_and_gradient
from tests.library import Library


def case(seed: int = 0, shape: tuple[int, ...] = (3, 4), classes: int = 5) -> Any:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(*shape, classes)) * 3, rng.integers(0, classes, size=shape)


def plain(logits: Any, targets: Any) -> Any:
    """The definition, -log of the softmax's share, which overflows where logits are large."""
    shares = np.exp(logits) / np.sum(np.exp(logits), axis=-1, keepdims=True)
    return -np.log(np.take_along_axis(shares, targets[..., None], axis=-1)[..., 0])


@pytest.mark.parametrize(("dtype", "atol"), [("float64", 1e-14), ("float32", 2e-6)])
def test_loss_is_minus_the_log_of_the_softmax(lib: Library, dtype: str, atol: float) -> None:
    logits, targets = case()
    losses, dlogits = cross_entropy_and_gradient(
        lib.array(logits, dtype), lib.array(targets, "int32"), xp=lib.xp
    )
    lib.assert_close(losses, plain(logits, targets), atol=atol, dtype=dtype)
    shares = np.exp(logits) / np.sum(np.exp(logits), axis=-1, keepdims=True)
    lib.assert_close(dlogits, shares - np.eye(5)[targets], atol=atol, dtype=dtype)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_16_bit_logits_have_the_loss_and_gradient_of_float32(lib: Library, dtype: str) -> None:
    lib.skip_without(dtype)
    logits, targets = case()
    given = lib.array(logits, dtype)
    rounded = lib.numpy(given).astype(np.float64)
    losses, dlogits = cross_entropy_and_gradient(given, lib.array(targets, "int32"), xp=lib.xp)
    lib.assert_close(losses, plain(rounded, targets), atol=2e-6, dtype="float32")
    shares = np.exp(rounded) / np.sum(np.exp(rounded), axis=-1, keepdims=True)
    lib.assert_close(dlogits, shares - np.eye(5)[targets], atol=2e-6, dtype="float32")


def test_the_loss_alone_is_the_same(lib: Library) -> None:
    logits, targets = case()
    given = lib.array(logits, "float32"), lib.array(targets, "int32")
    losses, _ = cross_entropy_and_gradient(*given, xp=lib.xp)
    lib.assert_close(cross_entropy(*given, xp=lib.xp), lib.numpy(losses), atol=0)


def test_the_gradient_comes_with_a_scale(lib: Library) -> None:
    logits, targets = case()
    given = lib.array(logits), lib.array(targets, "int32")
    losses, plain_ones = cross_entropy_and_gradient(*given, xp=lib.xp)
    same, scaled = cross_entropy_and_gradient(*given, scale=0.3, xp=lib.xp)
    lib.assert_close(same, lib.numpy(losses), atol=0)
    lib.assert_close(scaled, 0.3 * lib.numpy(plain_ones), atol=1e-15)


def test_logits_are_left_as_they_were(lib: Library) -> None:
    logits, targets = case()
    given = lib.array(logits)
    cross_entropy_and_gradient(given, lib.array(targets, "int32"), xp=lib.xp)
    lib.assert_close(given, logits, atol=0)


def test_gradient_is_that_of_finite_differences(lib: Library) -> None:
    logits, targets = case(shape=(2,))
    _, dlogits = cross_entropy_and_gradient(
        lib.array(logits), lib.array(targets, "int64"), xp=lib.xp
    )
    step = 1e-6
    slopes = np.empty_like(logits)
    for index in np.ndindex(*logits.shape):
        above, below = logits.copy(), logits.copy()
        above[index] += step
        below[index] -= step
        slopes[index] = np.sum(plain(above, targets) - plain(below, targets)) / (2 * step)
    lib.assert_close(dlogits, slopes, atol=1e-8)


def test_large_logits_neither_overflow_nor_lose_the_loss(lib: Library) -> None:
    logits = np.asarray([[1e4, -1e4, 0.0], [1e30, 1e30, -1e30]])
    losses, dlogits = cross_entropy_and_gradient(
        lib.array(logits, "float32"), lib.array([1, 0], "int32"), xp=lib.xp
    )
    lib.assert_close(losses, [2e4, np.log(2)], atol=1e-6)
    lib.assert_close(dlogits, [[1, -1, 0], [-0.5, 0.5, 0]], atol=1e-6)


@pytest.mark.parametrize("dtype", ["int32", "uint8"])
def test_padding_has_no_loss_whatever_its_logits(lib: Library, dtype: str) -> None:
    logits, targets = case()
    padding = np.zeros(targets.shape, dtype=bool)
    if dtype == "int32":
        padding[0, 1] = padding[2, 3] = True
        logits[0, 1], logits[2, 3, 1] = np.nan, np.inf
    given = lib.array(logits), lib.array(np.where(padding, -1, targets), dtype)
    with np.errstate(invalid="ignore", divide="ignore"):  # of the padding
        losses = lib.numpy(cross_entropy(*given, xp=lib.xp))
        wanted = plain(logits, targets)
    assert np.all(losses[padding] == 0)
    np.testing.assert_allclose(losses[~padding], wanted[~padding], atol=1e-13)


def test_loss_and_gradient_are_torchs(lib: Library) -> None:
    torch = pytest.importorskip("torch", reason="torch is the oracle here")
    logits, targets = case(shape=(6, 7), classes=11)
    wanted = torch.tensor(logits, requires_grad=True)
    loss = torch.nn.functional.cross_entropy(
        wanted.reshape(-1, 11), torch.tensor(targets).reshape(-1), reduction="none"
    )
    loss.sum().backward()
    losses, dlogits = cross_entropy_and_gradient(
        lib.array(logits), lib.array(targets, "int32"), xp=lib.xp
    )
    lib.assert_close(losses, loss.detach().numpy().reshape(6, 7), atol=1e-13)
    lib.assert_close(dlogits, wanted.grad.numpy(), atol=1e-13)
