"""Lists of images in YAML, if the package PyYAML is there. Pure.

Nothing is made of the document but dicts, lists and texts. What stands without quotes
is `Plain`: the schema decides whether ``1.10`` is a text, and ``no`` a boolean.
"""

from __future__ import annotations

import re
from typing import Any, NoReturn

from ..errors import UsageError
from ..oci import VALUE_LIMIT
from ..values import record
from .lists import Document, Path, Problem, SyncListError

DEPTH_LIMIT = 50
"""Collections within each other; a list of images needs five."""

_BOOLEANS = {
    **dict.fromkeys(("true", "yes", "on"), True),
    **dict.fromkeys(("false", "no", "off"), False),
}
_TAGS = (None, "!", *(f"tag:yaml.org,2002:{kind}" for kind in ("str", "seq", "map")))


class Plain(str):
    """A text that was written without quotes."""

    __slots__ = ()


def is_yaml(text: str, name: str) -> bool:
    """Whether the list *text* of the file *name* is YAML, unless it is JSON.

    Its ending says so, or its first line: no line ``SRC [DST]`` begins with ``key:``.
    """
    lines = (line.split() for line in text.splitlines())
    first = next((line[0] for line in lines if line and line[0][0] != "#"), "")
    ending = name.lower().endswith((".yaml", ".yml"))
    key = first.endswith(":") and first[0] not in "{["
    return ending or key or first in ("---", "%YAML")


def is_null(value: Any) -> bool:
    """True for null, in JSON or YAML."""
    nulls = ("", "~", "null", "Null", "NULL")
    return value is None or (isinstance(value, Plain) and value in nulls)


def as_boolean(value: Any) -> bool | None:
    """*value* when it is a boolean, in JSON or YAML, else None."""
    if isinstance(value, Plain):
        return _BOOLEANS.get(value.lower())
    return value if isinstance(value, bool) else None


def as_integer(value: Any) -> int | None:
    """*value* when it is a whole number, in JSON or YAML, else None."""
    if isinstance(value, Plain):
        return int(value) if re.fullmatch(r"[0-9]{1,9}", value) else None
    return value if type(value) is int else None


def parse_yaml(text: str, name: str) -> Document:
    """The document *text*, which messages call *name*.

    Raises SyncListError where it cannot continue, UsageError without PyYAML.
    """
    yaml = _library(name)
    builder = _Builder(yaml, name)
    try:
        for event in yaml.parse(text, getattr(yaml, "CBaseLoader", yaml.BaseLoader)):
            builder.take(event)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        why = " ".join(str(getattr(error, "problem", None) or error).split())
        problem = Problem(mark.line + 1 if mark else 1, f"not YAML: {why:.120}")
        raise SyncListError(name, [problem]) from error
    if isinstance(builder.document.value, str):
        why = "no YAML of a list; lines SRC [DST] go into a file with another ending"
        raise SyncListError(name, [Problem(1, why)])
    return builder.document


def _library(name: str) -> Any:
    try:
        import yaml
    except ImportError as error:
        raise UsageError(
            f"{name} is YAML, which needs PyYAML: pip install 'dockerpush[yaml]', or "
            "write the list as JSON or as lines SRC [DST]"
        ) from error
    return yaml


@record
class _Open:
    """A collection whose end has not come; *key* waits for its value in a dict.

    *first* is how many values came before.
    """

    value: Any
    path: Path
    anchor: str | None
    first: int
    key: str | None = None


class _Builder:
    """Makes a document of events; an alias is the value that it stands for.

    Each value counts as often as it is used, so that few lines cannot mean millions.
    """

    def __init__(self, yaml: Any, name: str) -> None:
        self.document = Document(None, {(): 1}, [])
        self._yaml = yaml
        self._name = name
        self._open: list[_Open] = []
        self._anchors: dict[str, tuple[Any, int]] = {}
        self._count = 0
        self._line = 1
        self._documents = 0

    def take(self, event: Any) -> None:
        """Take the next of the parser's events. Raises SyncListError."""
        self._line = event.start_mark.line + 1
        if isinstance(event, self._yaml.CollectionStartEvent):
            mapping = isinstance(event, self._yaml.MappingStartEvent)
            self._begin({} if mapping else [], event)
        elif isinstance(event, self._yaml.CollectionEndEvent):
            self._end()
        elif isinstance(event, self._yaml.ScalarEvent):
            self._check_tag(event)
            self._put(Plain(event.value) if event.implicit[0] else event.value)
            self._name_value(event.anchor, event.value, 1)
        elif isinstance(event, self._yaml.AliasEvent):
            self._put_again(event.anchor)
        elif isinstance(event, self._yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                self._fail("a second document begins here; write one list a file")

    def _begin(self, value: Any, event: Any) -> None:
        self._check_tag(event)
        if len(self._open) >= DEPTH_LIMIT:
            self._fail(f"more than {DEPTH_LIMIT} collections within each other")
        first = self._count
        self._open.append(_Open(value, self._put(value), event.anchor, first))

    def _end(self) -> None:
        done = self._open.pop()
        self._name_value(done.anchor, done.value, self._count - done.first)

    def _name_value(self, anchor: str | None, value: Any, count: int) -> None:
        if anchor is not None:
            self._anchors[anchor] = (value, count)

    def _put_again(self, anchor: str) -> None:
        if anchor not in self._anchors:
            self._fail(f"*{anchor:.40} stands for nothing that ends before it")
        value, count = self._anchors[anchor]
        self._count += count - 1
        self._put(value)

    def _put(self, value: Any) -> Path:
        """Put *value* where the next one belongs; the way to it."""
        self._count += 1
        if self._count > VALUE_LIMIT:
            self._fail(f"more than {VALUE_LIMIT} values")
        if not self._open:
            self.document = self.document._replace(value=value)
            return ()
        parent = self._open[-1]
        if isinstance(parent.value, list):
            path = (*parent.path, len(parent.value))
            parent.value.append(value)
        elif parent.key is None:
            path = (*parent.path, self._key(value, parent))
        else:
            path = (*parent.path, parent.key)
            parent.value[parent.key] = value
            parent.key = None
        self.document.lines.setdefault(path, self._line)
        return path

    def _key(self, value: Any, parent: _Open) -> str:
        if not isinstance(value, str):
            self._fail("a key must be a text")
        if value == "<<" and isinstance(value, Plain):
            self._fail("<< is not understood; write the keys out, or use an alias")
        parent.key = str(value)
        if parent.key in parent.value:
            self.document.problems.append(
                Problem(self._line, f"{value:.80}: this key is there twice")
            )
        return parent.key

    def _check_tag(self, event: Any) -> None:
        if event.tag not in _TAGS:
            self._fail(f"the tag {event.tag:.80} is not understood; leave it out")

    def _fail(self, text: str) -> NoReturn:
        raise SyncListError(self._name, [Problem(self._line, text)])
