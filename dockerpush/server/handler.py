"""One connection: HTTP/1.1 framing and nothing else.

A request is read, given to the `Api` as data, and its response is written. A body that
nobody wanted is read and thrown away for a moment, so that the client gets to see the
answer and the connection can be used again; when it continues for too long, the
connection ends.
"""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import socket
import ssl
import time
from email.utils import formatdate
from http import HTTPStatus
from typing import Callable

from ..errors import STATUS_PHRASES
from ..values import value
from .dispatch import Api
from .http_request import (
    BUFFER,
    MINIMUM_RATE,
    ChunkedBody,
    ConnectionReader,
    FixedBody,
    Head,
    HeadTooLarge,
    open_body,
    read_head,
)
from .logins import parse_basic
from .messages import (
    STORAGE_FULL,
    UNKNOWN,
    UNSUPPORTED,
    Disconnected,
    Headers,
    OpenBlob,
    ProtocolError,
    Request,
    Response,
    SlowClient,
    error_response,
)
from .records import Access
from .routes import split_target
from .slots import Slot

log = logging.getLogger(__name__)

DRAIN_BYTES = 64 * 1024 * 1024
"""Bytes of an unwanted body that are read and thrown away, and"""

DRAIN_SECONDS = 5.0
"""for how long at most."""

PIECE = 256 * 1024
"""Bytes that are sent between two looks at the clock, and"""

SLOW_PIECE = 16 * 1024
"""when the last ones took more than a second, or under TLS, where it is a record."""

UNSENT = 32 * 1024
"""Bytes that the system may hold back for a slow reader, where it can be known."""

LINGER_SECONDS = 1.0
"""How long a connection that ends with an error waits for the client to read it."""

CLIENT_GONE = 499
"""The status of a request whose client was gone before the answer, in the log."""


@value
class Served:
    """A request that was answered, for whoever watches.

    *path* is the target as it was sent, with its query; *received* counts the bytes of
    the body that were read. *status* is 0 when the client was gone before the answer.
    """

    method: str
    path: str
    status: int
    received: int
    headers: Headers


@value
class Watch:
    """Who is called for a request: *served* before its answer, *access* after it."""

    served: Callable[[Served], None]
    access: Callable[[Access], None]


class CountedBody:
    """A body that asks for its first byte by *before*, and counts."""

    def __init__(
        self, body: FixedBody | ChunkedBody, before: Callable[[], None]
    ) -> None:
        self.length = body.length
        self.received = 0
        self._body = body
        self._before = before

    def readinto(self, buffer: memoryview) -> int:
        """See Incoming."""
        self._before()
        count = self._body.readinto(buffer)
        self.received += count
        return count

    @property
    def finished(self) -> bool:
        """True when nothing of it is left in the socket."""
        if isinstance(self._body, FixedBody):
            return self._body.remaining == 0
        return self._body.finished


class ConnectionWriter:
    """The sending side of a socket, which gives up on a reader below `MINIMUM_RATE`.

    A reader that takes nothing for the socket's timeout is given up, too.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._timeout = connection.gettimeout() or 0.0
        self._started = self._last = time.monotonic()
        self._piece = SLOW_PIECE if isinstance(connection, ssl.SSLSocket) else PIECE
        self.sent = 0
        with contextlib.suppress(OSError):  # Linux and macOS; others hold more back
            option = getattr(socket, "TCP_NOTSENT_LOWAT", 25)
            connection.setsockopt(socket.IPPROTO_TCP, option, UNSENT)

    def begin(self) -> None:
        """A new response; its time starts now."""
        self._started = self._last = time.monotonic()
        self.sent = 0

    def write(self, content: bytes | memoryview) -> None:
        """Send all of *content*. Raises OSError, Disconnected."""
        rest = memoryview(content)
        while rest:
            rest = rest[self._moved(self._socket.send(rest[: self._piece])) :]

    def send_file(self, file: io.FileIO, count: int) -> None:
        """Send *count* bytes of *file* from where it stands, without copying them."""
        step = PIECE
        while count:
            began = time.monotonic()
            sent = self._socket.sendfile(file, file.tell(), min(count, step))
            if not sent:
                raise Disconnected(f"a file ended {count} bytes early")
            count -= self._moved(sent)
            step = SLOW_PIECE if self._last - began > 1 else PIECE

    def _moved(self, count: int) -> int:
        self.sent += count
        self._last = time.monotonic()
        if self._last - self._started > self._timeout + self.sent / MINIMUM_RATE:
            raise Disconnected(f"less than {MINIMUM_RATE} bytes per second taken")
        return count


class Handler:
    """Serves the connection of *slot*, which came from *address*, to its end."""

    def __init__(self, slot: Slot, address: str, api: Api, watch: Watch) -> None:
        self._slot = slot
        self._address = address
        self._api = api
        self._watch = watch
        self._connection = slot.connection
        self._timeout = slot.connection.gettimeout() or 0.0
        self._reader = ConnectionReader(slot.connection)
        self._stream = io.BufferedReader(self._reader, BUFFER)
        self._writer = ConnectionWriter(slot.connection)
        self._closing = False
        self._head: Head | None = None

    def handle(self) -> None:
        """Requests, one after the other, until one side ends the connection."""
        try:
            while not self._closing:
                self._handle_one()
        except (Disconnected, OSError) as error:
            log.debug("%s: %s", self._address, error)

    def _handle_one(self) -> None:
        """One request. A connection on which nothing comes is closed without a word."""
        self._begin()
        try:
            head = self._head = read_head(self._stream)
            if head is not None:
                self._serve(head)
        except SlowClient as error:
            if self._reader.started:
                self._refuse(ProtocolError(408, UNSUPPORTED, str(error)))
        except HeadTooLarge as error:
            self._refuse(ProtocolError(431, UNSUPPORTED, str(error)))
        except ProtocolError as error:
            self._refuse(error)
        except (Disconnected, OSError) as error:
            if self._head is not None and not self._is_reported:
                self._report(CLIENT_GONE, 0, str(error))
            raise

    def _begin(self) -> None:
        self._reader.begin_head()
        self._slot.begin_wait()
        self._closing = True
        self._expecting = False
        self._head = None
        self._body: CountedBody | None = None
        self._began = time.monotonic()
        self._is_reported = False

    def _serve(self, head: Head) -> None:
        self._slot.begin_request()
        self._began = time.monotonic()
        self._reader.begin_body()
        self._closing = not head.keeps_alive
        self._expecting = head.expects_continue
        body = CountedBody(open_body(head.headers, self._stream), self._send_continue)
        self._body = body
        path, query = split_target(head.target)
        status = 0
        try:
            request = Request(
                head.method, path, query, head.headers, body, self._address
            )
            response = self._answer(request)
            status = response.status
        finally:
            self._watch.served(
                Served(head.method, head.target, status, body.received, head.headers)
            )
        self._finish(response, body)

    def _answer(self, request: Request) -> Response:
        try:
            return self._api(request)
        except OSError as error:  # of the storage: those of the socket are Disconnected
            log.error("%s %s: %s", request.method, request.path, error)
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            message = f"the registry cannot store or read: {error.strerror}"
            status = STORAGE_FULL if full else 500
            return error_response(ProtocolError(status, UNKNOWN, message))

    def _send_continue(self) -> None:
        """Ask a client that waits for this to send its body."""
        if self._expecting:
            self._expecting = False
            try:
                self._writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            except OSError as error:
                raise Disconnected(str(error)) from error

    def _finish(self, response: Response, body: CountedBody) -> None:
        """Send the response, and get rid of a body that nobody wanted."""
        too_long = body.length is not None and body.length > DRAIN_BYTES
        if not body.finished and (too_long or self._expecting):
            self._closing = True
        if response.headers.get("Connection") == "close":
            self._closing = True
        self._send(response)
        if not body.finished and not self._closing and not self._drain(body):
            self._closing = True
        if not body.finished:
            self._linger()

    def _refuse(self, error: ProtocolError) -> None:
        """Answer what was not understood; nothing after it can be either."""
        self._closing = True
        log.debug("%s: refused: %s", self._address, error)
        with contextlib.suppress(OSError):
            self._send(error_response(error))
            self._linger()

    def _drain(self, body: CountedBody) -> bool:
        """Read *body* to its end; false when it has none in reasonable time."""
        until, start = time.monotonic() + DRAIN_SECONDS, body.received
        buffer = memoryview(bytearray(PIECE))
        self._connection.settimeout(DRAIN_SECONDS)
        try:
            while body.readinto(buffer):
                if time.monotonic() > until or body.received - start > DRAIN_BYTES:
                    return False
        except (ProtocolError, SlowClient):
            return False
        self._connection.settimeout(self._timeout)
        return True

    def _linger(self) -> None:
        """Let the client read the answer before the connection is reset."""
        until = time.monotonic() + LINGER_SECONDS
        raw = socket.socket  # below TLS: what comes in is thrown away
        with contextlib.suppress(OSError):
            raw.shutdown(self._connection, socket.SHUT_WR)
            self._connection.settimeout(LINGER_SECONDS)
            while raw.recv(self._connection, BUFFER) and time.monotonic() < until:
                pass

    def _send(self, response: Response) -> None:
        self._writer.begin()
        head = self._head_of(response)
        try:
            self._send_content(head, response)
        finally:
            sent = max(self._writer.sent - len(head), 0)
            self._report(response.status, sent, response.why)

    def _send_content(self, head: bytes, response: Response) -> None:
        content = response.content
        wanted = self._head is None or self._head.method != "HEAD"
        if isinstance(content, bytes):
            small = len(content) < BUFFER and wanted
            self._writer.write(head + content if small else head)
            if wanted and not small:
                self._writer.write(content)
            return
        with contextlib.closing(content.content) as readable:
            self._writer.write(head)
            if wanted:
                self._send_span(readable, content.count)

    def _report(self, status: int, sent: int, why: str) -> None:
        head, body = self._head, self._body
        self._is_reported = True
        self._watch.access(
            Access(
                self._address,
                "" if head is None else user_of(head.headers),
                "" if head is None else head.method,
                "" if head is None else head.target,
                status,
                0 if body is None else body.received,
                sent,
                time.monotonic() - self._began,
                why,
            )
        )

    def _head_of(self, response: Response) -> bytes:
        lines = [
            f"HTTP/1.1 {response.status} {STATUS_PHRASES.get(response.status, '')}",
            f"Date: {formatdate(usegmt=True)}",
            "X-Content-Type-Options: nosniff",
            *(f"{name}: {value}" for name, value in response.headers.items()),
        ]
        if response.status != HTTPStatus.NO_CONTENT:
            lines.append(f"Content-Length: {response.size}")
        if "Connection" not in response.headers:
            lines.append(f"Connection: {'close' if self._closing else 'keep-alive'}")
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    def _send_span(self, readable: OpenBlob, count: int) -> None:
        """*count* bytes of *readable*; the connection ends when it has fewer."""
        plain = not isinstance(self._connection, ssl.SSLSocket)
        if isinstance(readable, io.FileIO) and plain:
            self._writer.send_file(readable, count)
            return
        buffer = memoryview(bytearray(min(count, PIECE)))
        while count:
            size = readable.readinto(buffer[: min(count, PIECE)])
            if not size:
                raise Disconnected(f"a blob ended {count} bytes early")
            self._writer.write(buffer[:size])
            count -= size


def user_of(headers: Headers) -> str:
    """The user that a request says it comes from, proven or not."""
    credentials = parse_basic(headers.first("Authorization"))
    return "" if credentials is None else credentials[0]
