"""Errors of a training run. Each message is a single line."""

from __future__ import annotations


class TrainingError(Exception):
    """Base of the errors below."""


class TextError(TrainingError):
    """A text cannot be used."""


class CheckpointError(TrainingError):
    """A folder does not contain a usable checkpoint."""


class SessionError(TrainingError):
    """A run cannot be started or resumed with the given options."""


class DivergenceError(TrainingError):
    """The loss, a gradient or a weight is no longer finite."""
