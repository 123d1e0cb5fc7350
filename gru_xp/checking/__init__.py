"""A check of the array libraries of this machine against a float64 reference.

`comparison` runs it, `reference` is the oracle, which shares no code with the package.
"""

from gru_xp.checking.comparison import CheckResult, check_backends

__all__ = ["CheckResult", "check_backends"]
