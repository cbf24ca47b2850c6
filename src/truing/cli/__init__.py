"""The command line: ``truing``. Commands import what they use, so that help is quick."""

from __future__ import annotations

import os
import sys
import traceback

from truing.errors import TruingError


def main() -> None:
    """Run the command line; a user's mistake ends in its message alone and exit code 2."""
    debug = "--debug" in sys.argv[1:] or os.environ.get("TRUING_DEBUG", "") not in ("", "0")
    try:
        from truing.cli.app import app

        app()
    except TruingError as error:
        print(f"error: {error}", file=sys.stderr)
        if debug:
            traceback.print_exc()
        sys.exit(2)
    except (KeyboardInterrupt, SystemExit) as end:
        # typer turns an interrupt into exit code 130 without a word.
        if isinstance(end, KeyboardInterrupt) or end.code == 130:
            print("Stopped. `truing run` again, with the same --out, goes on where it stopped.", file=sys.stderr)
            sys.exit(130)
        raise
    except BrokenPipeError:
        # The reader went away; the interpreter must not complain about it when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if debug:
            raise
        print(f"error: {type(error).__name__}: {error}\nFor the traceback: TRUING_DEBUG=1", file=sys.stderr)
        sys.exit(1)
