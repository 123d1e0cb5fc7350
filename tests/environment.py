"""What must be in the environment before an array library is imported."""

from __future__ import annotations

import os

# JAX: float64, and a second CPU device that is not the default one.
os.environ.setdefault("JAX_ENABLE_X64", "1")
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("KERAS_BACKEND", "numpy")
