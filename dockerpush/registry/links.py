"""Link headers (RFC 8288): which page of a list comes next; pure.

A list that is taken for whole although it is a part does harm in silence. So a header
is understood in full or refused: there is no "no next page" for want of understanding.
"""

from __future__ import annotations

import re
from typing import Iterable, Iterator, NamedTuple

from ..errors import ContentMismatch
from ..expressions import expression
from .debug import one_line

# </v2/team/app/tags/list?last=b,c>; and without brackets, as quay.io once sent it:
# /v2/team/app/tags/list?last=b; rel="next" (heroku/docker-registry-client#11)
_TARGET = expression(r"<([^<>]+)>|([^\s<>,;\"]+)")
# ; rel="next"  ; rel=next  ; title="a, b; c"  ; and a ; that nothing follows
_PARAMETER = expression(
    r"\s*;\s*(?:([!#$%&'*+\-.^_`|~0-9A-Za-z]+)\s*"
    r"(?:=\s*(?:\"((?:[^\"\\]|\\.)*)\"|([^\s,;\"]*)))?)?",
    re.DOTALL,
)
_ESCAPED = expression(r"\\(.)", re.DOTALL)
_BETWEEN = expression(r"[\s,]*")
_SPACE = expression(r"\s*")


class _Link(NamedTuple):
    """One link; *relations* is None when the header does not say what it leads to."""

    target: str
    relations: tuple[str, ...] | None


def next_target(lines: Iterable[str]) -> str | None:
    """What the *lines* of a Link header give as the next page; None without one.

    A link in angle brackets without a ``rel`` counts as the next page, as skopeo and
    crane take it, unless another link says that it is. Raises ContentMismatch when it
    cannot be told which page comes next.
    """
    links = [link for line in lines for link in _links(line)]
    found = {link.target for link in links if "next" in (link.relations or ())}
    found = found or {link.target for link in links if link.relations is None}
    if len(found) > 1:
        raise ContentMismatch(f"several next pages: {one_line(' '.join(found), 160)!r}")
    return next(iter(found), None)


def _links(line: str) -> Iterator[_Link]:
    position = _after(_BETWEEN, line, 0)
    while position < len(line):
        target = _TARGET.match(line, position)
        if target is None:
            raise _unreadable(line)
        parameters, position = _parameters(line, target.end())
        if position < len(line) and line[position] != ",":
            raise _unreadable(line)
        relations = parameters.get("rel")
        if relations is None and target[1] is None:
            raise _unreadable(line)
        words = None
        if relations is not None:  # 'next' in single quotes is meant as next
            words = tuple(relations.lower().replace("'", "").split())
        yield _Link((target[1] or target[2]).strip(), words)
        position = _after(_BETWEEN, line, position)


def _parameters(line: str, position: int) -> tuple[dict[str, str], int]:
    """Names, lower case, and values from *position* on, and where they end.

    The first of two equal names counts (RFC 8288, 3.3).
    """
    found: dict[str, str] = {}
    while match := _PARAMETER.match(line, position):
        name, quoted, bare = match.groups()
        if name is not None:
            text = bare or "" if quoted is None else _ESCAPED.sub(r"\1", quoted)
            found.setdefault(name.lower(), text)
        position = match.end()
    return found, _after(_SPACE, line, position)


def _after(pattern: re.Pattern[str], line: str, position: int) -> int:
    match = pattern.match(line, position)
    return match.end() if match else position


def _unreadable(line: str) -> ContentMismatch:
    shown = one_line(line, 160)
    return ContentMismatch(f"a Link header that cannot be read: {shown!r}")
