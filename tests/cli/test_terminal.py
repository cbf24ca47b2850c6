from __future__ import annotations

import os
import pty
import select
import signal
import sys
import time
from pathlib import Path


def test_a_chat_at_a_terminal(models: dict[str, Path]) -> None:
    """Ctrl-C at the prompt says how to leave, in an answer it stops the answer, and Ctrl-D leaves."""
    process, terminal = pty.fork()
    if process == 0:
        os.environ.update(OMP_NUM_THREADS="1", TERM="xterm")
        words = ["-m", "truing", "chat", "--model", str(models["a"]), "--max-new-tokens", "200", "--temperature", "1"]
        os.execv(sys.executable, [sys.executable, *words])

    def until(text: bytes, seconds: float = 60) -> bytes:
        got, end = b"", time.monotonic() + seconds
        while text not in got and time.monotonic() < end:
            if select.select([terminal], [], [], 0.05)[0]:
                try:
                    got += os.read(terminal, 4096)
                except OSError:  # the other end is closed
                    break
        assert text in got, got
        return got

    try:
        until(b"> ")
        # Between its prompt and its wait for a key Python's readline does not see a signal; nobody is that fast.
        time.sleep(0.5)
        os.write(terminal, b"\x03")
        until(b"/quit leaves.\r\n> ")
        os.write(terminal, b"the cat\n")
        until(b"the cat\r\n")
        time.sleep(0.05)
        os.write(terminal, b"\x03")
        until(b"> ")
        os.write(terminal, b"/undo\n")
        until(b"> ")
        os.write(terminal, b"\x04")
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
    except BaseException:
        os.kill(process, signal.SIGKILL)
        raise
    finally:
        os.close(terminal)
