"""Lists of images in JSON: each value with its line. Pure."""

from __future__ import annotations

import json
import re
from typing import Any

from ..errors import InvalidJSON
from ..expressions import expression
from ..oci import parse_json
from .lists import Document, Path, Problem, SyncListError

_TOKEN = expression(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+')


def may_be_json(text: str) -> bool:
    """True when *text* is no list of plain lines."""
    return text.lstrip()[:1] in ("{", "[")


def parse_json_list(text: str, name: str) -> Document:
    """The document *text*. Raises SyncListError, which calls it *name*."""
    try:
        return located(parse_json(text.encode(), name), text)
    except InvalidJSON as error:
        line = re.search(r"line (\d+)", str(error))
        problem = Problem(int(line[1]) if line else 1, str(error))
        raise SyncListError(name, [problem]) from error


def located(value: Any, text: str) -> Document:
    """*value* of the JSON document *text*, with its lines and the repeated keys."""
    document = Document(value, {(): 1}, [])
    path: list[Any] = []
    kinds: list[str] = []
    line, end = 1, 0
    for match in _TOKEN.finditer(text):
        line += text.count("\n", end, match.start())
        end, token = match.start(), match[0]
        if token in "}]":
            path.pop()
            kinds.pop()
        elif token == ",":
            path[-1] = path[-1] + 1 if kinds[-1] == "[" else None
        elif token != ":":
            if kinds and kinds[-1] == "{" and path[-1] is None:
                path[-1] = json.loads(token)
                _check_key(tuple(path), line, document)
            document.lines.setdefault(tuple(path), line)
            if token in "{[":
                path.append(0 if token == "[" else None)
                kinds.append(token)
    return document


def _check_key(path: Path, line: int, document: Document) -> None:
    """JSON itself would drop the first of two values without a word."""
    if path in document.lines:
        problem = Problem(line, f"{shown(path)}: this key is there twice")
        document.problems.append(problem)


def shown(path: Path) -> str:
    """*path* as messages have it: ``sync[0].tags``."""
    parts = (f"[{p}]" if isinstance(p, int) else f".{p}" for p in path)
    return "".join(parts).lstrip(".")
