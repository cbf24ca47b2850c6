"""Errors for what a user can change; each message says what was given, why it cannot work, and what to do."""

from __future__ import annotations


class TruingError(Exception):
    """Base of all errors meant for the user. The command line prints the message alone and exits with 2."""


class SettingsError(TruingError, ValueError):
    """A hyperparameter has a value that cannot work."""


class RecordError(TruingError, ValueError):
    """A file, row or column is not what its kind of record asks for."""


class ModelError(TruingError):
    """A model cannot be found, read, or given to this method."""


class UnsupportedError(TruingError):
    """The model can do other things, but not this one (a remote model asked for its activations, say)."""


class StackError(TruingError, ValueError):
    """Two modifiers, or a modifier and a method, cannot act on one model."""


class RewardError(TruingError):
    """A reward raised, or returned the wrong number of values, or a value that is not finite."""


class RemoteError(TruingError):
    """A remote server refused, failed or answered in a form that cannot be read."""


class RecipeError(TruingError, ValueError):
    """A recipe has a key or a value that truing does not know; the message names the line."""


class RunError(TruingError):
    """A run folder cannot be continued or read."""


class TrainingError(TruingError):
    """Training stopped: the loss is not finite, or no row is left to learn from."""


class MissingExtraError(TruingError, ImportError):
    """An optional package is absent.

    Args:
        package: what could not be imported.
        extra: the extra of truing that brings it.
    """

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"This needs {package}, which is not installed. Install it with: pip install 'truing[{extra}]'"
        )
