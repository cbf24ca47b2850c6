"""What every test may rely on, however the tests were started."""

from __future__ import annotations

import signal

# Whoever starts tests in the background may leave interrupts ignored, and child processes would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
