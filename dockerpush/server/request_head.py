"""The head of a request, read as strictly as RFC 9112 allows.

A proxy in front of us and we ourselves must agree where a request ends. So whatever two
readers could understand differently is refused: a line that ends without CR, a folded
line, a field without a name, a control character, white space other than SP and HTAB
around a value, two hosts.
"""

from __future__ import annotations

import io

from ..expressions import expression
from ..values import value
from .body import HEAD_LIMIT
from .messages import UNSUPPORTED, Disconnected, Headers, ProtocolError

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")

MOST_FIELDS = 100

_LINE = expression(
    rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([\x21-\x7e\x80-\xff]+) HTTP/([0-9])\.([0-9])"
)
_TOKEN = expression(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROL = expression(rb"[\x00-\x08\x0a-\x1f\x7f]")


@value
class Head:
    """A request without its body; *target* is as it was sent, in ISO-8859-1."""

    method: str
    target: str
    minor: int
    headers: Headers

    @property
    def keeps_alive(self) -> bool:
        """True when the client wants to use the connection again."""
        options = ",".join(self.headers.values("Connection")).lower().split(",")
        stated = {option.strip() for option in options}
        return "close" not in stated and (self.minor > 0 or "keep-alive" in stated)

    @property
    def expects_continue(self) -> bool:
        """True when the client waits for ``100 Continue`` (RFC 9110, 10.1.1)."""
        expected = (self.headers.first("Expect") or "").lower()
        return self.minor > 0 and expected == "100-continue"


def read_head(stream: io.BufferedIOBase) -> Head | None:
    """The next request of a connection; None when the client ended it.

    Raises ProtocolError (400, 414, 431, 501, 505), after which nothing that follows can
    be understood.
    """
    line = stream.readline(HEAD_LIMIT + 1)
    if line == b"\r\n":  # RFC 9112, 2.2: one is forgiven
        line = stream.readline(HEAD_LIMIT + 1)
    if not line:
        return None
    match = _LINE.fullmatch(_ended(line, 414))
    if match is None:
        raise bad_request("not a request line of HTTP/1.1")
    if match[3] != b"1":
        raise ProtocolError(505, UNSUPPORTED, "this server supports HTTP/1.1 only")
    method, target = match[1].decode(), match[2].decode("latin-1")
    headers = Headers(tuple(_read_fields(stream)))
    if method not in METHODS:
        raise ProtocolError(501, UNSUPPORTED, f"unknown method {method[:40]!r}")
    head = Head(method, target, int(match[4]), headers)
    _check_ambiguity(head)
    return head


def bad_request(why: str) -> ProtocolError:
    """A request that cannot be understood, nor can what follows it."""
    close = {"Connection": "close"}
    return ProtocolError(400, UNSUPPORTED, f"bad request: {why}", headers=close)


def parse_field(line: bytes) -> tuple[str, str]:
    """Name and value of a header field. Raises ProtocolError (400)."""
    name, colon, rest = line.partition(b":")
    if not colon or _TOKEN.fullmatch(name) is None:
        raise bad_request(f"not a header field: {line[:40]!r}")
    field = rest.strip(b" \t").decode("latin-1")
    if _CONTROL.search(rest.strip(b" \t")) or field != field.strip():
        raise bad_request(f"a character that has no place in {name[:40].decode()}")
    return name.decode(), field


def _read_fields(stream: io.BufferedIOBase) -> list[tuple[str, str]]:
    fields: list[tuple[str, str]] = []
    while True:
        line = stream.readline(HEAD_LIMIT + 1)
        if not line:
            raise Disconnected("the request ends within its headers")
        line = _ended(line, 431)
        if not line:
            return fields
        if len(fields) == MOST_FIELDS:
            raise ProtocolError(431, UNSUPPORTED, f"more than {MOST_FIELDS} headers")
        fields.append(parse_field(line))


def _ended(line: bytes, too_long: int) -> bytes:
    """*line* without its CRLF. Raises ProtocolError: 400, or *too_long*."""
    if len(line) > HEAD_LIMIT:
        message = f"a line of more than {HEAD_LIMIT} bytes"
        raise ProtocolError(too_long, UNSUPPORTED, message)
    if not line.endswith(b"\r\n"):
        raise bad_request("a line does not end with CR and LF")
    return line[:-2]


def _check_ambiguity(head: Head) -> None:
    if len(head.headers.values("Host")) > 1:
        raise bad_request("two Host headers")
    if head.minor == 0 and head.headers.values("Transfer-Encoding"):
        raise bad_request("Transfer-Encoding in HTTP/1.0")
