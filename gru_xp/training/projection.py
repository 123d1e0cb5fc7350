"""The projection of states onto the vocabulary, and the loss of its predictions.

A vocabulary may have thousands of characters, and the logits of a chunk may take hundreds of
megabytes. They are therefore computed, used and discarded in blocks of rows that fit the cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from gru_xp.arrays.dtypes import at_least_float32, cast
from gru_xp.arrays.place import Place
from gru_xp.arrays.typing import Array
from gru_xp.core.products import matmul, sum_of_rows
from gru_xp.training.losses import cross_entropy, cross_entropy_and_gradient

BLOCK = 1 << 22
"""Approximate number of logits in a block."""


class Projection(NamedTuple):
    """Weights of the projection."""

    weight: Array
    """(V, H)"""
    bias: Array
    """(V,)"""

    def logits(self, rows: Array, /) -> Array:
        """Return the logits (M, V) of states (M, H)."""
        return matmul(rows, self.weight.T, self.bias, place=Place.of(self.bias))

    def losses(self, rows: Array, targets: Array, /) -> Array:
        """Return the cross-entropy (M,) in nats for states (M, H) and targets (M,)."""
        xp = Place.of(self.bias).xp
        return xp.concat(
            [
                cross_entropy(self.logits(rows[block, :]), targets[block], xp=xp)
                for block in self._blocks(rows)
            ]
        )

    def losses_and_gradients(
        self, rows: Array, targets: Array, /, *, scale: float = 1.0
    ) -> tuple[Array, Array, Projection]:
        """Return the `losses`, and the gradients of their sum, times `scale`.

        Returns
        -------
        losses : array, (M,)
            Cross-entropy in nats.
        drows : array, (M, H)
            Gradient with respect to the states.
        gradients : Projection
            Gradients with respect to the weights; float32 for 16-bit weights.
        """
        place = Place.of(self.bias)
        xp = place.xp
        losses, drows = [], []
        gradients: list[Array] = []
        for block in self._blocks(rows):
            of_block = rows[block, :]
            each, wide = cross_entropy_and_gradient(
                self.logits(of_block), targets[block], scale=scale, xp=xp
            )
            dlogits = cast(wide, place.dtype, xp=xp)
            losses.append(each)
            drows.append(matmul(dlogits, self.weight, place=place))
            parts = [matmul(dlogits.T, of_block, place=place), sum_of_rows(dlogits, place=place)]
            parts = [at_least_float32(part, xp=xp) for part in parts]
            if gradients:
                parts = [one + other for one, other in zip(gradients, parts, strict=True)]
            gradients = parts
        return xp.concat(losses), xp.concat(drows), Projection(*gradients)

    def _blocks(self, rows: Array, /) -> Iterator[slice]:
        """Yield even blocks of rows with about BLOCK logits each; one empty block for no rows."""
        count = rows.shape[0]
        blocks = max(1, round(count * self.weight.shape[0] / BLOCK))
        for k in range(blocks):
            yield slice(count * k // blocks, count * (k + 1) // blocks)
