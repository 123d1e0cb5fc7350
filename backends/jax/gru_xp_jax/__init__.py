"""JAX's accelerator: the recurrence by ``lax.scan``.

The portable loop is unrolled under ``jax.jit``, so that compiling it takes minutes for a thousand
steps; a scan compiles its one step. The equations are the package's own.
"""

from gru_xp_jax.scan import OPTIONS, backward, forward

__all__ = ["OPTIONS", "backward", "forward"]
