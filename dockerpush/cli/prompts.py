"""Questions to the person at the terminal, and whether there is one.

Questions go to stderr, so that stdout holds nothing but results. A signal ends a
question at once, and the terminal is as it was before.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from types import FrameType
from typing import Iterator

from ..errors import Cancelled, UsageError
from ..system.terminal import key_pressed


def is_interactive() -> bool:
    """True when somebody sits at standard input; looked at before any question."""
    return sys.stdin is not None and sys.stdin.isatty()


def ask(question: str, default: str = "") -> str:
    """The answer, or *default* for an empty one. Raises UsageError at the end of input.

    Raises Cancelled when a signal comes instead.
    """
    shown = f"{question} [{default}]: " if default else f"{question}: "
    with _interruptible():
        sys.stderr.write(shown)
        sys.stderr.flush()
        try:
            line = sys.stdin.readline()
        except UnicodeDecodeError as error:
            raise UsageError(f"the answer to {question!r} is not text") from error
    if not line:
        sys.stderr.write("\n")
        raise UsageError(f"no answer to {question!r}")
    return line.strip() or default


def confirm(question: str) -> bool:
    """True for yes; no is the default. Raises as `ask` does."""
    return ask(f"{question} [y/N]").lower() in ("y", "yes")


def ask_password(question: str) -> str:
    """What is typed without being shown. Raises as `ask` does."""
    import getpass  # hardly any run asks

    with _interruptible():
        try:
            return getpass.getpass(f"{question}: ", stream=sys.stderr)
        except (EOFError, UnicodeDecodeError) as error:
            raise UsageError(f"no answer to {question!r}") from error


def pause(text: str, seconds: float) -> bool:
    """Show *text* and wait; true when a key was pressed meanwhile."""
    with _interruptible():
        sys.stderr.write(text)
        sys.stderr.flush()
        try:
            return key_pressed(sys.stdin.fileno(), seconds)
        finally:
            sys.stderr.write("\n")


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """SIGINT and SIGTERM end a wait for input, after what they do anyway."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    usual = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}

    def stop(number: int, frame: FrameType | None) -> None:
        handler = usual[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)
        raise Cancelled("interrupted at a question; nothing was done")

    try:
        for number in usual:
            signal.signal(number, stop)
        yield
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)
