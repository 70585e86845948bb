"""The terminal of the person at it: lines that change, and one key without Enter."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import threading
import time
from typing import Callable, Iterator, Sequence, TextIO

if sys.platform == "win32":
    import msvcrt

USUAL_SIZE = (80, 24)
"""Columns and rows of what does not say its size."""

_NO_WRAP, _WRAP = "\x1b[?7l", "\x1b[?7h"
_ERASE_LINE, _ERASE_BELOW = "\x1b[K", "\x1b[J"


def can_redraw(stream: TextIO) -> bool:
    """True when *stream* is a terminal whose cursor can be moved."""
    kind = os.environ.get("TERM", "")
    if sys.platform == "win32":
        kind = kind or os.environ.get("WT_SESSION", "")
    return kind not in ("", "dumb") and stream.isatty()


def window_size(stream: TextIO) -> tuple[int, int]:
    """Columns and rows of the terminal *stream*, as they are now."""
    try:
        columns, rows = os.get_terminal_size(stream.fileno())
    except (OSError, ValueError):
        return USUAL_SIZE
    return columns or USUAL_SIZE[0], rows or USUAL_SIZE[1]


class LiveLines:
    """Lines at the end of a terminal that change, with other text above them.

    The cursor rests at the start of the first of them. A terminal keeps it there when
    its size changes, whether it wraps the lines to the new width or cuts them off, so
    everything from the cursor on can be drawn again. *render* gives the lines for so
    many columns and rows; none take no place.
    """

    def __init__(
        self, stream: TextIO, render: Callable[[int, int], Sequence[str]]
    ) -> None:
        self.lock = threading.RLock()  # guards everything below, and what *render* has
        self._stream = stream
        self._render = render
        self._drawn = False
        self._closed = False
        self._writing = False
        self._line_is_open = False

    def draw(self) -> None:
        """Show the lines as they are now."""
        with self.lock:
            if self._closed or self._line_is_open:
                return
            columns, rows = window_size(self._stream)
            lines = self._render(columns - 1, max(1, rows - 1))
            if lines or self._drawn:
                self._write(_frame(lines))
            self._drawn = bool(lines)

    @contextlib.contextmanager
    def aside(self, *, whole: bool = True) -> Iterator[None]:
        """Take the lines away, so that the ``with`` can write text above them.

        They come back when that text is *whole* lines.
        """
        with self.lock:
            if self._writing:
                yield
                return
            was_drawn = self._drawn
            self._erase()
            yield
            self._line_is_open = not whole and (was_drawn or self._line_is_open)
            self.draw()

    def close(self) -> None:
        """Take the lines away for good."""
        with self.lock:
            self._erase()
            self._closed = True

    def _erase(self) -> None:
        if self._drawn:
            self._write("\r" + _ERASE_BELOW)
        self._drawn = False

    def _write(self, text: str) -> None:
        self._writing = True
        try:
            self._stream.write(text)
            self._stream.flush()
        finally:
            self._writing = False


def _frame(lines: Sequence[str]) -> str:
    """What draws *lines* from the cursor on, and puts the cursor back."""
    up = f"\x1b[{len(lines) - 1}A" if len(lines) > 1 else ""
    text = f"{_ERASE_LINE}\r\n".join(lines)
    return f"\r{_NO_WRAP}{text}{_ERASE_BELOW}{up}\r{_WRAP}"


def key_pressed(descriptor: int, seconds: float) -> bool:
    """Wait for a key at the terminal *descriptor*; false after so many *seconds*.

    The key itself is swallowed and not shown. The terminal is put back as it was, also
    when a signal handler raises.
    """
    if sys.platform == "win32":
        deadline = time.monotonic() + seconds
        while not msvcrt.kbhit():
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.05)
        msvcrt.getwch()
        return True
    import termios  # hardly any run asks
    import tty

    usual = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor, termios.TCSADRAIN)  # keeps what was typed
        pressed = bool(select.select([descriptor], [], [], seconds)[0])
        if pressed:
            termios.tcflush(descriptor, termios.TCIFLUSH)
        return pressed
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, usual)
