"""The console: results on stdout by the only print, everything else on stderr.

What goes to stderr is for people, so a reader who goes away stops nothing. What goes to
stdout is the result, and a failure there is one. Questions go to stderr, too; a signal
ends a question at once, and leaves the terminal as it was.

`exit_code` is the one place that turns errors into exit codes, which the README
promises.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
from types import FrameType
from typing import Any, Callable, Iterable, Iterator, Sequence, TextIO

from ..errors import (
    ArchiveError,
    Cancelled,
    ContentMismatch,
    InvalidDigest,
    InvalidJSON,
    InvalidReference,
    NetworkError,
    NotFound,
    PusherError,
    SomeFailed,
    TransientError,
    Unauthorized,
    UsageError,
)
from ..system.processes import ending_signals
from ..system.terminal import LiveLines, key_pressed
from ..values import value

OUTPUTS = (1, 2)
SMALL = 100 * 1024
"""Bytes below which "0.0 MiB" would say nothing."""


@value
class Display:
    """How results and progress are shown.

    *quiet* leaves results, warnings and errors; *json* has results as JSON. *progress*
    is ``auto``, ``tty``, ``plain`` or ``none``, with *interval* seconds between lines.
    """

    quiet: bool = False
    verbose: bool = False
    debug: bool = False
    json: bool = False
    progress: str = "auto"
    interval: float = 30.0


@contextlib.contextmanager
def usable_streams() -> Iterator[None]:
    """Make sure that stdout and stderr can be written to during the ``with``.

    One that was closed before we were started would give its number to the first file
    or connection that is opened.
    """
    for number in OUTPUTS:
        with contextlib.suppress(OSError):
            _ensure_open(number)
    with (
        contextlib.redirect_stdout(sys.stdout or _to_devnull()),
        contextlib.redirect_stderr(SafeStream(sys.stderr or _to_devnull())),
    ):
        yield


def to_devnull(stream: TextIO) -> None:
    """Nobody takes what is written to *stream*: from now on it leads nowhere.

    What is still in its buffer must not fail again when the interpreter ends.
    """
    with contextlib.suppress(OSError, ValueError):
        number = stream.fileno()
        if number in OUTPUTS:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, number)
            os.close(nowhere)


_lines: list[LiveLines] = []
"""What is at the end of the terminal while bars are shown, at most one."""


def write_above(lines: LiveLines) -> None:
    """From now on, everything that is written stands above *lines*."""
    _lines[:] = [lines]


@contextlib.contextmanager
def _above(*, whole: bool = True) -> Iterator[None]:
    """Write where no bars are; they come back below *whole* lines."""
    with contextlib.ExitStack() as stack:
        for lines in _lines:
            stack.enter_context(lines.aside(whole=whole))
        yield


class SafeStream:
    """A stream like *stream*, which never fails, and never writes over the bars."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write *text*, if anybody is there."""
        with _above(whole=text.endswith("\n")):
            self._attempt(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Write what is buffered, if anybody is there."""
        self._attempt(self._stream.flush)

    def _attempt(self, work: Callable[[], object]) -> None:
        try:
            work()
        except OSError:
            to_devnull(self._stream)


def _ensure_open(number: int) -> None:
    try:
        os.fstat(number)
    except OSError:
        opened = os.open(os.devnull, os.O_WRONLY)
        if opened != number:
            os.dup2(opened, number)
            os.close(opened)


def _to_devnull() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123


DONE = 0
OTHER = 1
USAGE = 2
DENIED = 3
NOT_FOUND = 4
NETWORK = 5
CONTENT = 6
SOME_FAILED = 7
CLOSED_PIPE = 141

_CODES: tuple[tuple[type[PusherError], int], ...] = (
    (UsageError, USAGE),
    (InvalidReference, USAGE),
    (Unauthorized, DENIED),
    (NotFound, NOT_FOUND),
    (NetworkError, NETWORK),
    (ArchiveError, CONTENT),
    (ContentMismatch, CONTENT),
    (InvalidJSON, CONTENT),
    (InvalidDigest, CONTENT),
    (SomeFailed, SOME_FAILED),
)


def exit_code(error: PusherError) -> int:
    """The exit code for *error*; a server's 5xx is its failure, not the network's."""
    if isinstance(error, TransientError) and error.status is not None:
        return OTHER
    for kind, code in _CODES:
        if isinstance(error, kind):
            return code
    return OTHER


def result(text: str) -> None:
    """A line of what the command was asked for."""
    _print_result(printable(text))


def json_result(record: Any) -> None:
    """*record* as one line of JSON on stdout, ASCII whatever the terminal speaks."""
    _print_result(json.dumps(record))
    sys.stdout.flush()


def _print_result(text: str) -> None:
    with _above():
        print(text, flush=bool(_lines))


_failures: list[OSError] = []


@contextlib.contextmanager
def surviving_closed_stdout() -> Iterator[None]:
    """Results of work that continues when nobody reads them any more.

    Whoever ends the command asks `failure` afterwards.
    """
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        _failures.append(error)
        to_devnull(sys.stdout)


def failure() -> OSError | None:
    """Why results could not be written, the first time it happened."""
    return _failures[0] if _failures else None


def say(text: str) -> None:
    """A line for people, on stderr."""
    sys.stderr.write(printable(text) + "\n")
    sys.stderr.flush()


def printable(text: str) -> str:
    """*text* on one line: names from an archive may hold anything, also commands."""
    encoding = sys.stdout.encoding or "utf-8"
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return shown.encode(encoding, "backslashreplace").decode(encoding)


def error_line(text: str) -> None:
    """The last line of a failure, on stderr, always one line."""
    say("error: " + " ".join(str(text).split()))


def warn(text: str) -> None:
    """A line about what degrades the run, on stderr, also for who wants quiet."""
    say(f"warning: {text}")


def table(rows: Iterable[Sequence[str]]) -> None:
    """*rows* on stdout, in columns as wide as they need."""
    rows = [tuple(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths))
        result("  ".join(cells).rstrip())


def size_text(size: int) -> str:
    """*size* bytes as people read it: ``980 B``, ``51.3 KiB``, ``12.3 MiB``.

    From a tenth of a MiB on it is MiB, as in the lines and bars of progress.
    """
    if size < 1024:
        return f"{size} B"
    if size < SMALL:
        return f"{size / 1024:.1f} KiB"
    return f"{size / 1024 / 1024:.1f} MiB"


def counted(count: int, noun: str) -> str:
    """``1 blob``, ``2 blobs``."""
    return f"{count} {noun}{'s' * (count != 1)}"


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
    """`ending_signals` end a wait for input, after what they do anyway."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    usual = {n: signal.getsignal(n) for n in ending_signals()}

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
