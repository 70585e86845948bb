"""Texts that a command reads, from a file or standard input: also lists of images."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Mapping

from ..errors import NotFound, PusherError, UsageError, file_error, reason_of
from . import console

if TYPE_CHECKING:
    from ..sync.lists import Defaults, SyncList

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


_LIST_LIMIT = 4 * 1024 * 1024  # bytes of a list that are read


def read_list(
    file: str, defaults: Defaults, variables: Mapping[str, str] | None = None
) -> SyncList:
    """The whole list in *file*, checked. Raises what `parse_list` and reading do."""
    text = read_text(file, _LIST_LIMIT, "is it a list of images?")
    return parse_list(text, shown_name(file), defaults, variables or {})


def parse_list(
    text: str,
    name: str,
    defaults: Defaults,
    variables: Mapping[str, str],
    *,
    is_plain: bool = False,
) -> SyncList:
    """The list in *text*, called *name*; every mistake is reported with its line.

    One that *is_plain* has a line for each image, whatever it looks like. Raises
    SyncListError, and NotFound for a list without images.
    """
    from ..sync.list_document import is_document, parse_document
    from ..sync.lists import SyncListError, parse_lines

    try:
        if not is_plain and is_document(text, name):
            return parse_document(text, name, defaults, variables)
        return parse_lines(text, name, defaults)
    except SyncListError as error:
        if len(error.problems) > 1:  # one alone is in the error
            for problem in error.problems:
                console.say(f"{name}:{problem.line}: {problem.text}")
        raise
