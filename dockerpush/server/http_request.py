"""A request as a client's socket gives it: its head, and the body that this announces.

The head is read as strictly as RFC 9112 allows. A proxy in front of us and we ourselves
must agree where a request ends. So whatever two readers could understand differently is
refused: a line that ends without CR, a folded line, a field without a name, a control
character, white space other than SP and HTAB around a value, two hosts.

`ConnectionReader` is the raw stream under the handler's buffered reader. It gives up on
a client that is silent for *timeout* seconds, or slower than `MINIMUM_RATE` over a
whole request, so that nobody holds a thread by sending a byte a minute.
"""

from __future__ import annotations

import io
import socket
import time
from typing import Iterator

from ..expressions import expression
from ..system.streams import RawReader
from ..values import value
from .messages import (
    SIZE_INVALID,
    UNSUPPORTED,
    Disconnected,
    Headers,
    Incoming,
    ProtocolError,
    SlowClient,
)

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


MINIMUM_RATE = 1024
"""Bytes per second that a request must move, after the first *timeout* seconds."""

HEAD_LIMIT = 64 * 1024
"""Bytes of a request line with its headers."""

BUFFER = 64 * 1024
"""Bytes that are read ahead; larger reads go past the buffer."""

_LENGTH = expression(r"[0-9]{1,18}")
_CHUNK_SIZE = expression(rb"([0-9a-fA-F]{1,15})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?\r\n")
_TRAILER = expression(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*\r\n")
_LINE_LIMIT = 4096


class HeadTooLarge(Disconnected):
    """The request line and the headers continue for more than `HEAD_LIMIT` bytes."""


class ConnectionReader(RawReader):
    """The receiving side of a socket, with the rules of this module."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__()
        self._socket = sock
        self._timeout = sock.gettimeout() or 0.0
        self.begin_head()

    def begin_head(self) -> None:
        """A new request is awaited; its time starts with its first byte."""
        self._in_head = True
        self._received = 0
        self._started: float | None = None

    def begin_body(self) -> None:
        """The head was read; what follows is a body of any size."""
        self._in_head = False

    @property
    def started(self) -> bool:
        """True once a byte of the request is there."""
        return self._started is not None

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Raises SlowClient, HeadTooLarge, or Disconnected when the line breaks."""
        try:
            count = self._socket.recv_into(buffer)
        except socket.timeout as error:
            raise SlowClient(f"nothing received for {self._timeout:g} s") from error
        except OSError as error:
            raise Disconnected(str(error)) from error
        if count:
            self._received += count
            self._check()
        return count

    def _check(self) -> None:
        now = time.monotonic()
        if self._started is None:
            self._started = now
        if self._in_head and self._received > HEAD_LIMIT + BUFFER:
            raise HeadTooLarge(f"more than {HEAD_LIMIT} bytes of headers")
        if now - self._started > self._timeout + self._received / MINIMUM_RATE:
            raise SlowClient(f"less than {MINIMUM_RATE} bytes per second received")


class FixedBody:
    """A body of *length* bytes (RFC 9112, 6.2)."""

    def __init__(self, stream: io.BufferedIOBase, length: int) -> None:
        self.length: int | None = length
        self.remaining = length
        self._stream = stream
        self._limit = BUFFER  # until what was read ahead is used up

    def readinto(self, buffer: memoryview) -> int:
        """See Incoming."""
        if not self.remaining:
            return 0
        count = self._stream.readinto1(buffer[: min(self.remaining, self._limit)])
        if not count:
            raise Disconnected(f"the body ends {self.remaining} bytes early")
        self._limit = self.remaining
        self.remaining -= count
        return count


class ChunkedBody:
    """A body with ``Transfer-Encoding: chunked`` (RFC 9112, 7.1)."""

    length: int | None = None

    def __init__(self, stream: io.BufferedIOBase) -> None:
        self._stream = stream
        self._chunk = 0
        self.finished = False

    def readinto(self, buffer: memoryview) -> int:
        """See Incoming."""
        if not self._chunk and not self.finished:
            self._begin_chunk()
        if self.finished:
            return 0
        count = self._stream.readinto1(buffer[: min(self._chunk, BUFFER)])
        if not count:
            raise Disconnected("the body ends within a chunk")
        self._chunk -= count
        if not self._chunk and self._line() != b"\r\n":
            raise _malformed("a chunk is longer than its size")
        return count

    def _begin_chunk(self) -> None:
        line = self._line()
        match = _CHUNK_SIZE.fullmatch(line)
        if match is None:
            raise _malformed(f"not a chunk size: {line[:40]!r}")
        self._chunk = int(match[1], 16)
        if not self._chunk:
            self._skip_trailers()
            self.finished = True

    def _skip_trailers(self) -> None:
        for _ in range(16):
            line = self._line()
            if line == b"\r\n":
                return
            if _TRAILER.fullmatch(line) is None:
                raise _malformed(f"not a trailer: {line[:40]!r}")
        raise _malformed("too many trailers")

    def _line(self) -> bytes:
        line = self._stream.readline(_LINE_LIMIT)
        if not line:
            raise Disconnected("the body ends between two chunks")
        if not line.endswith(b"\n"):
            raise _malformed("an endless line")
        return line


def _malformed(why: str) -> ProtocolError:
    """A body whose framing is broken: nothing after it can be trusted."""
    message = f"malformed chunked body: {why}"
    return ProtocolError(400, SIZE_INVALID, message, headers={"Connection": "close"})


def open_body(headers: Headers, stream: io.BufferedIOBase) -> FixedBody | ChunkedBody:
    """The body that *headers* announce, empty when they announce none.

    Raises ProtocolError for a bad or an ambiguous announcement (RFC 9112, 6.3).
    """
    encodings = headers.values("Transfer-Encoding")
    lengths = set(headers.values("Content-Length"))
    close = {"Connection": "close"}
    if encodings:
        if lengths:
            message = "both Content-Length and Transfer-Encoding"
            raise ProtocolError(400, SIZE_INVALID, message, headers=close)
        if [encoding.lower() for encoding in encodings] != ["chunked"]:
            message = f"Transfer-Encoding {', '.join(encodings)[:40]!r}"
            raise ProtocolError(501, UNSUPPORTED, message, headers=close)
        return ChunkedBody(stream)
    if len(lengths) > 1 or any(not _LENGTH.fullmatch(length) for length in lengths):
        message = f"bad Content-Length: {', '.join(sorted(lengths))[:80]!r}"
        raise ProtocolError(400, SIZE_INVALID, message, headers=close)
    return FixedBody(stream, int(lengths.pop()) if lengths else 0)


def pieces(body: Incoming) -> Iterator[memoryview]:
    """The whole of *body*; each piece is good until the next one is asked for."""
    buffer = memoryview(bytearray(BUFFER))
    while count := body.readinto(buffer):
        yield buffer[:count]
