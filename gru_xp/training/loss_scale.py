"""Dynamic loss scaling: a factor that keeps small gradients from underflow in float16.

The smallest number of float16 is 6e-8, and many gradients are smaller. So the loss is multiplied
by a scale before the backward pass, and the gradients are divided by it in float32: section 3.2 of
Micikevicius et al., "Mixed Precision Training" (2018). A power of two, the scale rounds nothing.
"""

from __future__ import annotations

from typing import NamedTuple, Self

from gru_xp.arrays.typing import Array

START = 2.0**16
GROWTH_INTERVAL = 2000
"""Updates in a row after which a larger scale is tried."""


class LossScale(NamedTuple):
    """The scale, and what decides on the next step's."""

    value: float
    updates: int
    """Updates in a row since it last changed."""
    dynamic: bool
    """Whether it changes at all: in float16 alone; other formats have the range of float32."""

    @classmethod
    def start(cls, dtype: str, /) -> Self:
        """Scale of a run's first step, 1 for ever but in "float16"."""
        dynamic = dtype == "float16"
        return cls(START if dynamic else 1.0, 0, dynamic)

    def after_update(self) -> Self:
        """Scale after gradients that were finite: doubled after every 2000 in a row."""
        if not self.dynamic:
            return self
        if self.updates + 1 == GROWTH_INTERVAL:
            return self._replace(value=2 * self.value, updates=0)
        return self._replace(updates=self.updates + 1)

    def after_overflow(self) -> Self:
        """Scale after gradients of which one was not finite: half of it."""
        return self._replace(value=self.value / 2, updates=0)


def unscaled(gradients: dict[str, Array], scale: float, /) -> dict[str, Array]:
    """Divide float32 gradients by the scale that the loss had."""
    if scale == 1:
        return gradients
    return {name: gradient / scale for name, gradient in gradients.items()}
