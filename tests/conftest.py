"""What every test may rely on, however the tests were started."""

from __future__ import annotations

import os
import signal
import tempfile

# Whoever starts tests in the background may leave interrupts ignored, and child processes would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# What one test leaves in the cache must not be found by the next run of the tests, nor by the user.
os.environ["TRUING_CACHE"] = tempfile.mkdtemp(prefix="truing-tests-")
