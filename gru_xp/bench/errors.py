"""Errors of a benchmark. Each message is a single line."""

from __future__ import annotations


class BenchError(Exception):
    """A benchmark cannot run with the given options, or its numbers would be meaningless."""


class FailedError(BenchError):
    """A contestant raised an exception, or its results differ from those of gru_xp."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(f"{name}{message}")
        self.name = name


class UnavailableError(BenchError):
    """A contestant is not available on this machine."""
