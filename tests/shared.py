"""Where samples of public data sets lie; see the marker ``real_data`` in `tests.conftest`."""

from __future__ import annotations

import os
from pathlib import Path

DATA = Path(os.environ.get("TRUING_SHARED", Path(__file__).resolve().parents[2] / "shared")) / "data"
