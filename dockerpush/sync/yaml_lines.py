"""YAML as events, by rules of our own: what people write in manifests. Pure.

Block and flow collections, scalars in all styles, anchors, aliases, several documents.
What is not understood, such as a complex key (``? key``), is reported to `skipped`, and
reading continues after it. Nothing is built here, so an alias costs nothing.
"""

from __future__ import annotations

import re
from typing import Callable, Iterator, NamedTuple

from ..expressions import expression
from ..values import record

MAPPING, SEQUENCE, END, SCALAR, ALIAS = "mapping", "sequence", "end", "scalar", "alias"
DOCUMENT = "document"

DEEPEST = 500
"""Collections within each other that are read; schemas of Kubernetes need some 40."""

OnSkipped = Callable[[int, str], object]


class Event(NamedTuple):
    """One step of a document; keys and values of a mapping are scalars in turn.

    *text* is that of a scalar, or what an alias stands for. *line* counts from 1.
    """

    kind: str
    line: int
    text: str = ""
    anchor: str | None = None


@record
class _Open:
    """A block collection; *waits* for a value: of its last key, or of its last dash."""

    kind: str
    indent: int
    waits: bool = True


_PROPERTY = expression(r"(?:&([^\s,\[\]{}]+)|![^\s,\[\]{}]*)(?:\s+|$)")
_COLON = expression(r":(?=\s|$)")
COMMENT = expression(r"(^|\s)#.*")
_BLOCK = expression(r"([|>])([-+1-9]{0,2})\s*(?:\s#.*)?")
_DOUBLE = expression(r'"([^"\\]*(?:\\.[^"\\]*)*)"', re.DOTALL)
_SINGLE = expression(r"'([^']*(?:''[^']*)*)'")
_BREAKS = r"(?:(?<![ \t])[ \t]+)?\n[ \t\n]*"
_BREAK = expression(_BREAKS)
_ESCAPE = expression(
    r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|\n[ \t]*|(.))|"
    + _BREAKS,
    re.DOTALL,
)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "0": "\0", "b": "\b", "e": "\x1b"}
_ESCAPED.update({"a": "\a", "f": "\f", "v": "\v", "N": "\x85", "_": "\xa0"})
_NOT_FIRST = frozenset("[]{},#&*!|>'\"%@`")


def read_events(text: str, skipped: OnSkipped) -> Iterator[Event]:
    """The events of *text*; *skipped* gets the line and the reason of what is left out.

    Raises nothing.
    """
    return _Lines(text.replace("\r\n", "\n"), skipped).events()


class _Lines:
    """A walk over *text* from line to line; a value may take it further."""

    def __init__(self, text: str, skipped: OnSkipped) -> None:
        self._text = text
        self._skipped = skipped
        self._at = 0  # where the next line begins
        self._end = 0  # where this one ends
        self._line = 0
        self._stack: list[_Open] = []
        self._has_root = False
        self._anchor: str | None = None  # of a value that begins on a later line

    def events(self) -> Iterator[Event]:
        """Everything."""
        while (line := self._next()) is not None:
            yield from self._take(line)
        yield from self._close(-1)

    def _peek(self) -> str | None:
        """The next line; None at the end."""
        if self._at >= len(self._text):
            return None
        end = self._text.find("\n", self._at)
        return self._text[self._at : end if end >= 0 else len(self._text)]

    def _next(self) -> str | None:
        line = self._peek()
        if line is not None:
            self._end = self._at + len(line)
            self._at = self._end + 1
            self._line += 1
        return line

    def _take(self, line: str) -> Iterator[Event]:
        content = line.lstrip(" ")
        if _is_marker(line):
            yield from self._close(-1)
            self._has_root = False
            yield Event(DOCUMENT, self._line)
            content = line[3:].lstrip()
        elif line[:1] == "%" and not self._stack:
            return
        if not content.strip() or content[0] == "#":
            return
        if content[0] == "\t":
            self._skip("a tab stands in the place of spaces")
            return
        yield from self._content(content, len(line) - len(content))

    def _content(self, content: str, indent: int) -> Iterator[Event]:
        """A line without its indentation: dashes, then a key, then a value."""
        while content == "-" or content.startswith(("- ", "-\t")):
            yield from self._begin(SEQUENCE, indent)
            rest = content[1:].lstrip()
            indent += len(content) - len(rest)
            content = rest
            if not content or content[0] == "#" or not self._waits:
                return
        anchor, bare = _properties(content)
        key = split_key(bare)
        if bare.startswith("? ") or bare == "?":
            self._skip("a key after '?' is not understood")
        elif key is None:
            yield from self._value(content)
        else:
            yield from self._begin(MAPPING, indent + len(content) - len(bare))
            if self._waits:
                yield Event(SCALAR, self._line, key[0], anchor)
                yield from self._value(key[1])

    @property
    def _waits(self) -> bool:
        """True where a value may come now."""
        return self._stack[-1].waits if self._stack else not self._has_root

    def _begin(self, kind: str, indent: int) -> Iterator[Event]:
        """Make the collection at *indent* the innermost, waiting for a value."""
        yield from self._close(indent)
        top = self._stack[-1] if self._stack else None
        if top and kind == MAPPING and top.kind == SEQUENCE and top.indent == indent:
            yield from self._pop()  # the items stood below their key, not further right
            top = self._stack[-1] if self._stack else None
        if top and top.kind == kind and top.indent == indent:
            if top.waits:
                yield self._scalar("")
            top.waits = True
            return
        right = top is None or top.indent < indent
        fits = self._waits and (right or kind == SEQUENCE)
        if not fits or len(self._stack) >= DEEPEST:
            self._skip("it is nested too deep" if fits else "its indentation is wrong")
            if self._waits and self._stack:
                yield self._scalar("")
            self._fill()
            return
        self._fill()
        self._stack.append(_Open(kind, indent))
        yield Event(kind, self._line, "", self._take_anchor())

    def _take_anchor(self) -> str | None:
        anchor, self._anchor = self._anchor, None
        return anchor

    def _scalar(self, text: str, line: int = 0, anchor: str | None = None) -> Event:
        """The value that was waited for."""
        self._fill()
        return Event(SCALAR, line or self._line, text, anchor or self._take_anchor())

    def _fill(self) -> None:
        self._has_root = True
        if self._stack:
            self._stack[-1].waits = False

    def _close(self, indent: int) -> Iterator[Event]:
        """End what stands further right than *indent*."""
        while self._stack and self._stack[-1].indent > indent:
            yield from self._pop()

    def _pop(self) -> Iterator[Event]:
        if self._stack[-1].waits:
            yield self._scalar("")
        self._stack.pop()
        yield Event(END, self._line)

    def _value(self, content: str) -> Iterator[Event]:
        """What follows a key or a dash, or stands alone, on this line and the next."""
        if not self._waits:
            self._skip("it belongs to nothing")
            return
        anchor, content = _properties(content)
        if not content or content[0] == "#":
            self._anchor = anchor  # the value begins on a later line
            return
        line, block = self._line, _BLOCK.fullmatch(content)
        if content[0] in "[{":
            yield from self._flow(content, anchor)
        elif content[0] == "*":
            self._fill()
            yield Event(ALIAS, line, COMMENT.sub("", content[1:]).strip())
        elif block is not None:
            yield self._scalar(self._block(block[1], block[2]), line, anchor)
        elif content[0] in "\"'":
            yield self._scalar(self._quoted(content), line, anchor)
        elif content[0] in _NOT_FIRST:
            self._skip(f"a text without quotes cannot begin with {content[0]}")
            yield self._scalar("", line, anchor)
        else:
            yield self._scalar(self._plain(content), line, anchor)

    @property
    def _indent(self) -> int:
        """The indent of the innermost collection; its values stand further right."""
        return self._stack[-1].indent if self._stack else -1

    def _plain(self, content: str) -> str:
        words = [COMMENT.sub("", content).strip()]
        ended, breaks = words[0] != content.strip(), 0
        while (line := self._peek()) is not None and not ended:
            text = line.strip()
            right = len(line) - len(line.lstrip(" ")) > self._indent
            if text and (not right or text[0] == "#" or _is_marker(line)):
                break
            self._next()
            if text and split_key(text):
                self._skip("its indentation is wrong")
            elif text:
                shown = COMMENT.sub("", text).strip()
                ended = shown != text
                words += ["\n" * breaks or " ", shown]
            breaks = 0 if text else breaks + 1
        return "".join(words)

    def _block(self, style: str, indicators: str) -> str:
        """The text after ``|`` or ``>``."""
        lines: list[str] = []
        digit = indicators.strip("-+")
        least = max(self._indent, 0) + int(digit) if digit else 0
        while (line := self._peek()) is not None:
            indent = len(line) - len(line.lstrip(" "))
            if line.strip():
                least = least or max(indent, self._indent + 1)
                if indent < least or (not least and _is_marker(line)):
                    break
            lines.append(line[least:] if least else line.strip(" ") and line)
            self._next()
        while lines and not lines[-1].strip():
            lines.pop()
        text = _folded(lines) if style == ">" else "\n".join(lines)
        return text + "\n" if text and "-" not in indicators else text

    def _quoted(self, content: str) -> str:
        """The text in quotes, which may end in a later line; "" without an end."""
        start = self._end - len(content)
        double = content[0] == '"'
        match = (_DOUBLE if double else _SINGLE).match(self._text, start)
        if match is None:
            self._skip("the quote does not end")
            return ""
        self._move(match.end())
        return unquoted(match[0])

    def _flow(self, content: str, anchor: str | None) -> Iterator[Event]:
        """A collection in brackets, which may end in a later line."""
        flow = _Flow(self._text, self._end - len(content), self._line)
        anchor = anchor or self._take_anchor()
        for event in flow.events():
            yield event._replace(anchor=anchor) if anchor else event
            anchor = None
        self._fill()
        if flow.problem:
            self._skipped(flow.line, flow.problem)
        self._move(flow.position)

    def _move(self, position: int) -> None:
        """Make the line that *position* is in the current one."""
        if position > self._end:
            self._line += self._text.count("\n", self._end, position)
            end = self._text.find("\n", position)
            self._end = end if end >= 0 else len(self._text)
            self._at = self._end + 1
        rest = self._text[position : self._end]
        if COMMENT.sub("", rest).strip():
            self._skip("something follows the end of a value")

    def _skip(self, why: str) -> None:
        self._skipped(self._line, why)


def split_key(content: str) -> tuple[str, str] | None:
    """The key that *content* begins with, and what follows; None without a key."""
    if content[:1] in ('"', "'"):
        match = (_DOUBLE if content[0] == '"' else _SINGLE).match(content)
        if match is None:
            return None
        rest = content[match.end() :].lstrip()
        colon = _COLON.match(rest)
        return (unquoted(match[0]), rest[1:].strip()) if colon else None
    colon = _COLON.search(content)
    if colon is None or content[0] in _NOT_FIRST:
        return None
    key = content[: colon.start()].rstrip()
    if COMMENT.search(key):
        return None
    return key, content[colon.end() :].strip()


def _is_marker(line: str) -> bool:
    """True for the line between two documents."""
    return line[:3] in ("---", "...") and not line[3:4].strip()


def _properties(content: str) -> tuple[str | None, str]:
    """The anchor before a value, and *content* without anchor and tag."""
    anchor = None
    while match := _PROPERTY.match(content):
        anchor = match[1] or anchor
        content = content[match.end() :]
    return anchor, content


def unquoted(text: str) -> str:
    """*text* without its quotes, its lines folded."""
    if text[0] == "'":
        return _BREAK.sub(_break, text[1:-1]).replace("''", "'")
    return _ESCAPE.sub(_unescaped, text[1:-1])


def _break(match: re.Match[str]) -> str:
    return "\n" * (match[0].count("\n") - 1) or " "


def _unescaped(match: re.Match[str]) -> str:
    if match[0][0] != "\\":
        return _break(match)
    number = match[1] or match[2] or match[3]
    if number is None:
        return _ESCAPED.get(match[4], match[4]) if match[4] else ""
    code = int(number, 16)
    return chr(code) if code <= 0x10FFFF and not 0xD800 <= code < 0xE000 else "\ufffd"


def _folded(lines: list[str]) -> str:
    """The *lines* of a text after ``>``, those of one paragraph joined."""
    parts: list[str] = []
    breaks, was_deep = 0, True
    for line in lines:
        if not line:
            breaks += 1
            continue
        deep = line[0] in " \t"
        if parts and (deep or was_deep):
            breaks += 1
        if parts or breaks:
            parts.append("\n" * breaks or " ")
        parts.append(line)
        breaks, was_deep = 0, deep
    return "".join(parts)


_TOKEN = expression(
    r"(?P<space>[ \t\n]+|(?<=[ \t\n])\#[^\n]*)|(?P<open>[\[{])|(?P<close>[\]}])"
    r"|(?P<comma>,)|(?P<colon>:(?=[\s,\[\]{}]|$|(?<=[\"'}\]]:)))"
    r"|&(?P<anchor>[^\s,\[\]{}]+)|\*(?P<alias>[^\s,\[\]{}]+)|(?P<tag>![^\s,\[\]{}]*|\?(?=\s))"
    r"|(?P<double>\"[^\"\\]*(?:\\.[^\"\\]*)*\")|(?P<single>'[^']*(?:''[^']*)*')"
    r"|(?P<plain>(?:[^\s,\[\]{}:\"'&*!|>%@`#]|:(?![\s,\[\]{}]|$))"
    r"(?:[^\n,\[\]{}:#]+|:(?![\s,\[\]{}]|$)|(?<![ \t])\#)*)",
    re.DOTALL | re.VERBOSE,
)
_CLOSES = {"[": "]", "{": "}"}
KEY, COLON, VALUE, COMMA = "key", "colon", "value", "comma"


class _Flow:
    """A collection in brackets at *position* of *text*, which is in line *line*.

    *position* and *line* go along; *problem* says why the end was not reached.
    """

    def __init__(self, text: str, position: int, line: int) -> None:
        self.position = position
        self.line = line
        self.problem = ""
        self._text = text
        self._stack: list[str] = []
        self._wants = [VALUE]  # what may come in each collection, the outermost first
        self._anchor: str | None = None

    def events(self) -> Iterator[Event]:
        """Everything; each collection ends, also after a problem."""
        while not self.problem and (self._stack or self._wants[-1] == VALUE):
            match = _TOKEN.match(self._text, self.position)
            if match is None or match.lastgroup is None:
                self.problem = "a collection in brackets is not understood from here on"
                break
            yield from self._take(match.lastgroup, match[match.lastgroup])
            self.line += match[0].count("\n")
            self.position = match.end()
        while self._stack:
            yield from self._ended()

    def _take(self, kind: str, text: str) -> Iterator[Event]:
        if kind in ("space", "tag"):
            return
        if kind == "anchor":
            self._anchor = text
        elif kind in ("colon", "comma", "close"):
            yield from self._sign(kind, text)
        elif self._wants[-1] not in (KEY, VALUE):
            self.problem = "a comma or a colon is missing in a collection in brackets"
        elif kind == "open":
            self._advance()
            self._stack.append(text)
            self._wants.append(KEY if text == "{" else VALUE)
            event = Event(MAPPING if text == "{" else SEQUENCE, self.line)
            yield self._with_anchor(event)
            if len(self._stack) > DEEPEST:
                self.problem = "it is nested too deep"
        elif kind == "alias":
            self._advance()
            yield Event(ALIAS, self.line, text)
        else:
            self._advance()
            text = text.strip() if kind == "plain" else unquoted(text)
            yield self._with_anchor(Event(SCALAR, self.line, text))

    def _sign(self, kind: str, text: str) -> Iterator[Event]:
        opened, wants = self._stack[-1] if self._stack else "", self._wants[-1]
        if kind == "close" and text == _CLOSES.get(opened):
            yield from self._ended()
        elif kind == "colon" and opened == "{" and wants in (KEY, COLON):
            if wants == KEY:
                yield Event(SCALAR, self.line)
            self._wants[-1] = VALUE
        elif kind == "comma" and opened and wants != KEY:
            if opened == "{" and wants != COMMA:
                yield Event(SCALAR, self.line)
            if opened == "[" and wants == VALUE:
                self.problem = "a comma without a value before it"
            self._wants[-1] = KEY if opened == "{" else VALUE
        else:
            self.problem = f"{text} is out of place in a collection in brackets"

    def _ended(self) -> Iterator[Event]:
        if self._stack.pop() == "{" and self._wants[-1] in (COLON, VALUE):
            yield Event(SCALAR, self.line)
        self._wants.pop()
        yield Event(END, self.line)

    def _advance(self) -> None:
        """A key or a value came."""
        self._wants[-1] = COLON if self._wants[-1] == KEY else COMMA

    def _with_anchor(self, event: Event) -> Event:
        anchor, self._anchor = self._anchor, None
        return event._replace(anchor=anchor)
