"""Races of decoding and steering against naive ways, plain decoding and peers: prints Markdown.

    PYTHONPATH=. OMP_NUM_THREADS=1 python benchmarks/decoding.py [--only lookahead nudging steering]

Forward passes and token positions do not depend on the machine; seconds are minima of interleaved rounds in one
process. Outputs are checked to be equal before anything is timed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

from benchmarks import decoding_lookahead, decoding_nudging, decoding_steering

RACES: dict[str, tuple[str, Callable[[], str]]] = {
    "lookahead": ("Look-ahead: DeAL and Transfer Q*", decoding_lookahead.race),
    "nudging": ("Nudging", decoding_nudging.race),
    "steering": ("Steering, and extraction of activations", decoding_steering.race),
}


def main() -> None:
    """Run the races that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(RACES), default=list(RACES))
    for name in parser.parse_args().only:
        title, race = RACES[name]
        print(f"## {title}\n\n{race()}\n", flush=True)


if __name__ == "__main__":
    main()
