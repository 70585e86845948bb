"""One connection: HTTP/1.1 framing and nothing else.

A request is read, given to the `Api` as data, and its response is written. A body that
nobody wanted is read and thrown away for a moment, so that the client gets to see the
answer and the connection can be used again; when it goes on for too long, the
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
from http import HTTPStatus
from http.client import responses
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any

from ..values import value
from .body import (
    BUFFER,
    ChunkedBody,
    ConnectionReader,
    FixedBody,
    HeadTooLarge,
    open_body,
)
from .messages import Headers, Readable, Request, Response, error_response
from .protocol_errors import (
    UNKNOWN,
    UNSUPPORTED,
    Disconnected,
    ProtocolError,
    SlowClient,
)
from .routes import split_target

if TYPE_CHECKING:
    from .serving import Listener

log = logging.getLogger(__name__)

DRAIN_BYTES = 64 * 1024 * 1024
"""Bytes of an unwanted body that are read and thrown away, and"""

DRAIN_SECONDS = 5.0
"""for how long at most."""

PIECE = 256 * 1024
"""Bytes that one send may have; a link of 20 KB/s moves them before it times out."""

LINGER_SECONDS = 1.0
"""How long a connection that ends with an error waits for the client to read it."""

STORAGE_FULL = 507


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


class _CountedBody:
    """A body that says ``100 Continue`` before its first byte, and counts."""

    def __init__(self, body: FixedBody | ChunkedBody, handler: Handler) -> None:
        self.length = body.length
        self.received = 0
        self._body = body
        self._handler = handler

    def readinto(self, buffer: memoryview) -> int:
        """See Incoming."""
        self._handler.send_continue()
        count = self._body.readinto(buffer)
        self.received += count
        return count

    @property
    def finished(self) -> bool:
        """True when nothing of it is left in the socket."""
        if isinstance(self._body, FixedBody):
            return self._body.remaining == 0
        return self._body.finished


class Handler(BaseHTTPRequestHandler):
    """Serves one connection in a thread of its own."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Listener

    def setup(self) -> None:
        """Read through a ConnectionReader."""
        super().setup()
        self.rfile.close()
        self._reader = ConnectionReader(self.connection)
        self.rfile = io.BufferedReader(self._reader, BUFFER)

    def handle(self) -> None:
        """Requests, one after the other, until one side has had enough."""
        try:
            super().handle()
        except (Disconnected, OSError) as error:
            log.debug("%s: %s", self.client_address[0], error)

    def handle_one_request(self) -> None:
        """One request. A connection on which nothing comes is closed without a word."""
        self._reader.begin_head()
        self._expecting = False
        self.command = ""
        self.close_connection = True
        try:
            super().handle_one_request()
        except SlowClient as error:
            if self._reader.started:
                self._refuse(ProtocolError(408, UNSUPPORTED, str(error)))
        except HeadTooLarge as error:
            self._refuse(ProtocolError(431, UNSUPPORTED, str(error)))

    def handle_expect_100(self) -> bool:
        """Wait with ``100 Continue`` until somebody wants the body."""
        self._expecting = True
        return True

    def send_continue(self) -> None:
        """Tell a client that waits for it to send its body."""
        if self._expecting:
            self._expecting = False
            try:
                self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            except OSError as error:
                raise Disconnected(str(error)) from error

    def send_error(
        self, code: int, message: str | None = None, explain: str | None = None
    ) -> None:
        """What the base class refuses, in the form of the specification."""
        self._refuse(ProtocolError(code, UNSUPPORTED, message or "bad request"))

    def log_message(self, format: str, *args: Any) -> None:
        """To the log, for whoever wants to read it."""
        log.debug("%s: " + format, self.client_address[0], *args)

    def _serve(self) -> None:
        self._reader.begin_body()
        headers = Headers(tuple(self.headers.items()))
        try:
            body = _CountedBody(open_body(headers, self.rfile), self)
            path, query = split_target(self.path)
        except ProtocolError as error:
            self._refuse(error)
            return
        status = 0
        try:
            request = Request(self.command, path, query, headers, body)
            response = self._answer(request)
            status = response.status
        finally:
            served = Served(self.command, self.path, status, body.received, headers)
            self.server.on_request(served)
        self._finish(response, body)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _serve

    def _answer(self, request: Request) -> Response:
        try:
            return self.server.api(request)
        except OSError as error:  # of the storage: those of the socket are Disconnected
            log.error("%s %s: %s", request.method, request.path, error)
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            message = f"the registry cannot store or read: {error.strerror}"
            status = STORAGE_FULL if full else 500
            return error_response(ProtocolError(status, UNKNOWN, message))

    def _finish(self, response: Response, body: _CountedBody) -> None:
        """Send the response, and get rid of a body that nobody wanted."""
        too_long = body.length is not None and body.length > DRAIN_BYTES
        if not body.finished and (too_long or self._expecting):
            self.close_connection = True
        if response.headers.get("Connection") == "close":
            self.close_connection = True
        self._send(response)
        if not body.finished and not self.close_connection and not self._drain(body):
            self.close_connection = True
        if not body.finished:
            self._linger()

    def _refuse(self, error: ProtocolError) -> None:
        """Answer what was not understood; nothing after it can be either."""
        self.close_connection = True
        log.debug("%s: refused: %s", self.client_address[0], error)
        with contextlib.suppress(OSError):
            self._send(error_response(error))
            self._linger()

    def _drain(self, body: _CountedBody) -> bool:
        """Read *body* to its end; false when it has none in reasonable time."""
        until, start = time.monotonic() + DRAIN_SECONDS, body.received
        buffer = memoryview(bytearray(PIECE))
        self.connection.settimeout(DRAIN_SECONDS)
        try:
            while body.readinto(buffer):
                if time.monotonic() > until or body.received - start > DRAIN_BYTES:
                    return False
        except (ProtocolError, SlowClient):
            return False
        self.connection.settimeout(self.server.client_timeout)
        return True

    def _linger(self) -> None:
        """Let the client read the answer before the connection is reset."""
        until = time.monotonic() + LINGER_SECONDS
        raw = socket.socket  # below TLS: what comes in is thrown away
        with contextlib.suppress(OSError):
            raw.shutdown(self.connection, socket.SHUT_WR)
            self.connection.settimeout(LINGER_SECONDS)
            while raw.recv(self.connection, BUFFER) and time.monotonic() < until:
                pass

    def _send(self, response: Response) -> None:
        head = self._head(response)
        content = response.content
        if isinstance(content, bytes):
            self.wfile.write(head if self.command == "HEAD" else head + content)
            return
        with contextlib.closing(content.content) as readable:
            self.wfile.write(head)
            self._send_span(readable, content.count)

    def _head(self, response: Response) -> bytes:
        reason = responses.get(response.status, "")
        lines = [
            f"HTTP/1.1 {response.status} {reason}",
            f"Date: {self.date_time_string()}",
            *(f"{name}: {value}" for name, value in response.headers.items()),
        ]
        if response.status != HTTPStatus.NO_CONTENT:
            lines.append(f"Content-Length: {response.size}")
        if "Connection" not in response.headers:
            state = "close" if self.close_connection else "keep-alive"
            lines.append(f"Connection: {state}")
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    def _send_span(self, readable: Readable, count: int) -> None:
        """*count* bytes of *readable*; the connection ends when it has fewer."""
        plain = not isinstance(self.connection, ssl.SSLSocket)
        if isinstance(readable, io.FileIO) and plain and count:
            sent = self.connection.sendfile(readable, readable.tell(), count)
            if sent != count:
                raise Disconnected(f"a file ended {count - sent} bytes early")
            return
        buffer = memoryview(bytearray(min(count, PIECE)))
        while count:
            size = readable.readinto(buffer[: min(count, PIECE)])
            if not size:
                raise Disconnected(f"a blob ended {count} bytes early")
            self.connection.sendall(buffer[:size])
            count -= size
