"""Regular expressions that are compiled when they are first used, not at the start."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any


class _Expression:
    """Has every attribute of the pattern that it stands for."""

    def __init__(self, source: str | bytes, flags: int = 0) -> None:
        self._source = source
        self._flags = flags

    def __getattr__(self, name: str) -> Any:
        found = getattr(re.compile(self._source, self._flags), name)
        setattr(self, name, found)  # the next time it is found there
        return found


if TYPE_CHECKING:
    expression = re.compile
else:
    expression = _Expression
