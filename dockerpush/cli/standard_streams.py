"""The standard streams, in whatever state the command was started with them.

What is said on stderr is said to people, so a reader who goes away stops nothing. What
goes to stdout is the result, and a failure there is one.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any, Callable, Iterator, TextIO

OUTPUTS = (1, 2)


@contextlib.contextmanager
def usable() -> Iterator[None]:
    """Have stdout and stderr that can be written to for the ``with``.

    One that was closed before we were started would give its number to the first file
    or connection that is opened.
    """
    for number in OUTPUTS:
        with contextlib.suppress(OSError):
            _ensure_open(number)
    with (
        contextlib.redirect_stdout(sys.stdout or _nowhere()),
        contextlib.redirect_stderr(_Enduring(sys.stderr or _nowhere())),
    ):
        yield


def lose(stream: TextIO) -> None:
    """Nobody takes what is written to *stream*: from now on it leads nowhere.

    What is still in its buffer must not fail again when the interpreter ends.
    """
    with contextlib.suppress(OSError, ValueError):
        number = stream.fileno()
        if number in OUTPUTS:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, number)
            os.close(nowhere)


class _Enduring:
    """A stream like *stream*, which never fails."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write *text*, if anybody is there."""
        self._attempt(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Write what is buffered, if anybody is there."""
        self._attempt(self._stream.flush)

    def _attempt(self, work: Callable[[], object]) -> None:
        try:
            work()
        except OSError:
            lose(self._stream)


def _ensure_open(number: int) -> None:
    try:
        os.fstat(number)
    except OSError:
        opened = os.open(os.devnull, os.O_WRONLY)
        if opened != number:
            os.dup2(opened, number)
            os.close(opened)


def _nowhere() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123
