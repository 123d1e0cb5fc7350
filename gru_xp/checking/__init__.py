"""Comparison of the array libraries on this machine with a float64 reference.

`comparison` runs the checks. `reference` is the oracle, which shares no code with the package.
"""

from gru_xp.checking.comparison import CheckResult, check_backends

__all__ = ["CheckResult", "check_backends"]
