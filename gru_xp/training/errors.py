"""What can be wrong with a training run; each message says it in one line."""

from __future__ import annotations


class TrainingError(Exception):
    """Base of the errors below."""


class TextError(TrainingError):
    """A text cannot be used."""


class CheckpointError(TrainingError):
    """A folder holds no checkpoint that can be used."""


class SessionError(TrainingError):
    """A run cannot begin or go on as asked."""


class DivergenceError(TrainingError):
    """The loss is no finite number any more."""
