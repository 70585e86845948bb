"""A pseudo-terminal for the command, to type at and to read from."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import signal
import subprocess
import time
from typing import Any, Iterator


class Terminal:
    """The command at a terminal: all of stdin, stdout and stderr are one."""

    def __init__(self, child: subprocess.Popen[bytes], master: int) -> None:
        self.child = child
        self.text = ""
        self._master = master
        self._seen = 0

    def expect(self, wanted: str, timeout: float = 30) -> str:
        """Wait until the pattern *wanted* appears after what was expected before."""
        deadline = time.monotonic() + timeout
        while not (match := re.compile(wanted).search(self.text, self._seen)):
            left = deadline - time.monotonic()
            assert left > 0, f"no {wanted!r} in {self.text[self._seen :]!r}"
            assert self._read(left), f"no {wanted!r} before the end: {self.text!r}"
        self._seen = match.end()
        return match[0]

    def type(self, text: str) -> None:
        """Type *text*, without a return key."""
        os.write(self._master, text.encode())

    def end(self, timeout: float = 30) -> int:
        """Read to the end; the exit code."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline and self._read(0.2) is not False:
            pass
        return self.child.wait(max(0.1, deadline - time.monotonic()))

    def _read(self, seconds: float) -> bool | None:
        """True when something came, None when nothing did, False at the end."""
        if not select.select([self._master], [], [], seconds)[0]:
            return None
        try:
            piece = os.read(self._master, 65536)
        except OSError:  # what Linux says when the other side is closed
            return False
        self.text += piece.decode(errors="replace").replace("\r\n", "\n")
        return bool(piece)


@contextlib.contextmanager
def at_terminal(run_cli: Any, *arguments: object, **options: Any) -> Iterator[Terminal]:
    """The command with a terminal of its own, which it may also open as /dev/tty."""
    master, slave = pty.openpty()
    try:
        child = run_cli.start(
            *arguments,
            stdin=slave,
            stdout=options.pop("stdout", slave),
            stderr=slave,
            preexec_fn=_own_terminal,
            **options,
        )
    finally:
        os.close(slave)
    try:
        yield Terminal(child, master)
    finally:
        if child.poll() is None:
            child.send_signal(signal.SIGKILL)
        child.wait()
        os.close(master)


def _own_terminal() -> None:
    import fcntl
    import termios

    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
