"""What can be wrong with a benchmark; each message says it in one line."""

from __future__ import annotations


class BenchError(Exception):
    """A benchmark cannot run as asked, or its numbers would be worth nothing."""


class UnavailableError(BenchError):
    """A contestant cannot be had here."""
