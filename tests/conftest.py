"""What every test may rely on, however the tests were started."""

from __future__ import annotations

import os
import signal
import tempfile

import pytest

# Whoever starts tests in the background may leave interrupts ignored, and child processes would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# What one test leaves in the cache must not be found by the next run of the tests, nor by the user.
os.environ["TRUING_CACHE"] = tempfile.mkdtemp(prefix="truing-tests-")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what is marked ``real_data(PATH)`` where that file or folder is absent."""
    for mark in item.iter_markers("real_data"):
        if not mark.args[0].exists():
            pytest.skip(f"{mark.args[0]} is not here; set TRUING_SHARED")
