"""Dynamic loss scaling: a factor that prevents small gradients from underflowing in float16.

The smallest positive number of float16 is 6e-8, and many gradients are smaller. The loss is
therefore multiplied by a scale before the backward pass, and the gradients are divided by it
in float32; see section 3.2 of Micikevicius et al., "Mixed Precision Training" (2018). The scale is
a power of two, so multiplying by it causes no rounding.
"""

from __future__ import annotations

from typing import NamedTuple, Self

from gru_xp.arrays.typing import Array

START = 2.0**16
GROWTH_INTERVAL = 2000
"""Number of consecutive updates after which the scale is doubled."""


class LossScale(NamedTuple):
    """The scale, and the state that determines the scale of the next step."""

    value: float
    updates: int
    """Number of consecutive updates since the scale last changed."""
    dynamic: bool
    """Whether the scale changes. This is so only for float16: the other dtypes have at least the
    range of float32."""

    @classmethod
    def start(cls, dtype: str, /) -> Self:
        """Return the scale of a run's first step; it is always 1 unless the dtype is float16."""
        dynamic = dtype == "float16"
        return cls(START if dynamic else 1.0, 0, dynamic)

    def after_update(self) -> Self:
        """Return the scale after finite gradients: doubled after 2000 consecutive updates."""
        if not self.dynamic:
            return self
        if self.updates + 1 == GROWTH_INTERVAL:
            return self._replace(value=2 * self.value, updates=0)
        return self._replace(updates=self.updates + 1)

    def after_overflow(self) -> Self:
        """Return the scale after gradients that were not all finite: half of the current scale."""
        return self._replace(value=self.value / 2, updates=0)


def unscaled(gradients: dict[str, Array], scale: float, /) -> dict[str, Array]:
    """Divide float32 gradients by the scale of the loss."""
    if scale == 1:
        return gradients
    return {name: gradient / scale for name, gradient in gradients.items()}
