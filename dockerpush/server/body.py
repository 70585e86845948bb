"""Bytes from a client's socket: bounded in time and in size, framed by HTTP/1.1.

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
from .messages import (
    SIZE_INVALID,
    UNSUPPORTED,
    Disconnected,
    Headers,
    Incoming,
    ProtocolError,
    SlowClient,
)

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


class ConnectionReader(io.RawIOBase):
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

    def readable(self) -> bool:
        """True."""
        return True

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
