"""The only print: results on stdout, everything else on stderr."""

from __future__ import annotations

import contextlib
import json
import sys
from typing import Any, Iterable, Iterator, Sequence

from . import standard_streams


def result(text: str) -> None:
    """A line of what the command was asked for."""
    print(printable(text))


def json_result(value: Any) -> None:
    """*value* as one line of JSON on stdout, ASCII whatever the terminal speaks."""
    print(json.dumps(value), flush=True)


_failures: list[OSError] = []


@contextlib.contextmanager
def enduring() -> Iterator[None]:
    """Results of work that goes on when nobody takes them any more.

    Whoever ends the command asks `failure` afterwards.
    """
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        _failures.append(error)
        standard_streams.lose(sys.stdout)


def failure() -> OSError | None:
    """Why results could not be written, the first time it happened."""
    return _failures[0] if _failures else None


def say(text: str) -> None:
    """A line for people, on stderr."""
    print(printable(text), file=sys.stderr, flush=True)


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
    """*size* bytes as people read it: ``980 B``, ``12.3 MiB``."""
    if size < 1024:
        return f"{size} B"
    amount = float(size)
    for unit in ("KiB", "MiB", "GiB"):
        amount /= 1024
        if amount < 1024:
            return f"{amount:.1f} {unit}"
    return f"{amount / 1024:.1f} TiB"
