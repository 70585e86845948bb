"""Texts that a command reads: a file, or standard input."""

from __future__ import annotations

import sys
from pathlib import Path

from ..errors import NotFound, PusherError, UsageError, file_error, reason_of

STDIN = "-"


def shown_name(file: str) -> str:
    """What *file* is called in messages."""
    return "standard input" if file == STDIN else file


def read_text(file: str, limit: int, hint: str) -> str:
    """All of *file*, in UTF-8; *hint* asks what else it may be if it is too long.

    Raises NotFound, UsageError and PusherError.
    """
    name = shown_name(file)
    if file == STDIN and sys.stdin is None:
        raise UsageError("standard input is closed: name a file")
    try:
        if file == STDIN:
            raw = sys.stdin.buffer.read(limit + 1)
        else:
            with Path(file).open("rb") as opened:
                raw = opened.read(limit + 1)
    except FileNotFoundError as error:
        raise NotFound(f"{name}: no such file") from error
    except OSError as error:
        raise file_error(f"{name}: cannot be read", error) from error
    except ValueError as error:
        raise PusherError(f"{name}: cannot be read: {reason_of(error)}") from error
    if len(raw) > limit:
        raise UsageError(f"{name}: more than {limit} bytes; {hint}")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{name}: not a text in UTF-8: {error.reason}") from error
