"""The terminal of the person at it: one key, read without Enter."""

from __future__ import annotations

import select
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass

if sys.platform == "win32":
    import msvcrt


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
