"""Lists of images in files, for the commands that read them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Mapping

from . import console
from .text_files import read_text, shown_name

if TYPE_CHECKING:
    from ..sync.lists import Defaults, SyncList

_LIMIT = 4 * 1024 * 1024  # bytes of a list that are read


def read_list(
    file: str, defaults: Defaults, variables: Mapping[str, str] | None = None
) -> SyncList:
    """The whole list in *file*, checked. Raises what `parse_list` and reading do."""
    text = read_text(file, _LIMIT, "is it a list of images?")
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
        for problem in error.problems:
            console.say(f"{name}:{problem.line}: {problem.text}")
        raise
