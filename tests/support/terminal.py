"""A pseudo-terminal for the command, to type at and to read from, and its screen."""

from __future__ import annotations

import codecs
import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from typing import Any, Iterator

from screen import Screen


class Terminal:
    """The command at a terminal: all of stdin, stdout and stderr are one."""

    def __init__(
        self, child: subprocess.Popen[bytes], master: int, screen: Screen
    ) -> None:
        self.child = child
        self.text = ""
        self.screen = screen
        self._master = master
        self._seen = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

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

    def see_bars(self, timeout: float = 30) -> None:
        """Wait until the bars are drawn once more."""
        before, deadline = len(self.screen.frames), time.monotonic() + timeout
        while len(self.screen.frames) == before:
            left = deadline - time.monotonic()
            assert left > 0, self.text
            assert self._read(left) is not False, f"no bars: {self.text!r}"

    def resize(self, columns: int) -> None:
        """Give the window so many columns, as the person at it does with the mouse."""
        self.child.send_signal(signal.SIGSTOP)
        os.waitpid(self.child.pid, os.WUNTRACED)
        while self._read(0):
            pass  # what was written for the old size
        set_columns(self._master, columns)
        self.screen.resize(columns)
        self.child.send_signal(signal.SIGCONT)

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
        text = self._decoder.decode(piece)
        self.screen.feed(text)
        self.text += text.replace("\r\n", "\n")
        return bool(piece)


@contextlib.contextmanager
def at_terminal(
    run_cli: Any, *arguments: object, screen: Screen | None = None, **options: Any
) -> Iterator[Terminal]:
    """The command with a terminal of its own, which it may also open as /dev/tty."""
    screen = screen or Screen(80)
    master, slave = pty.openpty()
    try:
        set_columns(master, screen.columns, screen.rows)
        child = run_cli.start(
            *arguments,
            stdin=slave,
            stdout=options.pop("stdout", slave),
            stderr=slave,
            preexec_fn=_own_terminal,
            env={"TERM": "xterm", **options.pop("env", {})},
            **options,
        )
    finally:
        os.close(slave)
    try:
        yield Terminal(child, master, screen)
    finally:
        if child.poll() is None:
            child.send_signal(signal.SIGKILL)
        child.wait()
        os.close(master)


def set_columns(master: int, columns: int, rows: int = 24) -> None:
    """Give the terminal so many columns; who is at it gets SIGWINCH."""
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))


def _own_terminal() -> None:
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
