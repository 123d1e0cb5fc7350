"""What can be wrong with a benchmark; each message says it in one line."""

from __future__ import annotations


class BenchError(Exception):
    """A benchmark cannot run as asked, or its numbers would be worth nothing."""


class FailedError(BenchError):
    """A contestant raised instead of computing, or computed something else than gru_xp."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(f"{name}{message}")
        self.name = name


class UnavailableError(BenchError):
    """A contestant cannot be had here."""
