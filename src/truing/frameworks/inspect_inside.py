"""What is taken from inside Inspect, where its public interface has no such thing: here alone, and guarded."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from importlib import metadata

from truing.errors import TruingError, UnsupportedError

VERSIONS = ">=0.3.285,<0.4"
"""Releases of Inspect that truing is made for, as its extra `inspect` asks for them."""


@contextlib.contextmanager
def told() -> Iterator[None]:
    """What a person can change is told by Inspect as one message, as its own mistakes are, without a traceback."""
    try:
        yield
    except TruingError as error:
        try:
            from inspect_ai._util.error import PrerequisiteError
        except ImportError:
            raise error from None  # the same message, below a traceback
        from rich.markup import escape

        raise PrerequisiteError(escape(str(error))) from error


def epoch() -> int:
    """Which time Inspect asks the sample at hand, from 1; 1 outside of an evaluation.

    Raises:
        UnsupportedError: this release of Inspect does not say.
    """
    try:
        from inspect_ai.solver._task_state import sample_state

        state = sample_state()
        return 1 if state is None else int(state.epoch)
    except (ImportError, AttributeError) as error:
        raise UnsupportedError(
            f"Inspect {metadata.version('inspect_ai')} does not tell which epoch it asks for, without which all epochs "
            f"of a seed would be equal. Leave `seed` out, or install a release that truing is made for: pip install "
            f"'inspect_ai{VERSIONS}'"
        ) from error
