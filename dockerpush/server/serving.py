"""The registry on a port: connections, HTTP/1.1 framing, TLS, start and stop.

Every connection has a thread; all of them end, and are joined, when the server stops,
which cuts what is still open. A cut upload can be resumed, and a cut download has fewer
bytes than it announced.

One connection: HTTP/1.1 framing and nothing else.

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
import threading
import time
from http import HTTPStatus
from http.client import responses
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from types import TracebackType
from typing import Any, Callable, Iterator

from ..values import value
from .body import (
    BUFFER,
    ChunkedBody,
    ConnectionReader,
    FixedBody,
    HeadTooLarge,
    open_body,
)
from .dispatch import Api, split_target
from .embedded import Registry
from .messages import (
    UNKNOWN,
    UNSUPPORTED,
    Disconnected,
    Headers,
    ProtocolError,
    Readable,
    Request,
    Response,
    ServerError,
    SlowClient,
    UserFileError,
    error_response,
)
from .users import PasswordFile, read_htpasswd, read_users

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


CLIENT_TIMEOUT = 60.0
"""Seconds that a client may be silent within a request, or idle between two."""

CONNECTIONS = 512
"""Connections at one time; a further one is told to come back."""

OnRequest = Callable[[Served], None]

_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\n"
    b"Content-Length: 0\r\n\r\n"
)
_NO_TLS = (
    b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: text/plain\r\n"
    b"\r\nClient sent an HTTP request to an HTTPS server.\n"
)
_TLS_RECORD = b"\x16"


class Listener(ThreadingHTTPServer):
    """The accepting socket, and the sockets of the connections that are open."""

    daemon_threads = False  # so that they are joined
    request_queue_size = 128

    def __init__(
        self,
        address: tuple[str, int],
        api: Api,
        *,
        on_request: OnRequest,
        client_timeout: float,
        context: ssl.SSLContext | None,
    ) -> None:
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        self.api = api
        self.on_request = on_request
        self.client_timeout = client_timeout
        self._context = context
        self._places = threading.BoundedSemaphore(CONNECTIONS)
        self._open: set[socket.socket] = set()
        self._cut = False
        self._lock = threading.Lock()  # guards _open and _cut
        super().__init__(address, Handler)

    def server_bind(self) -> None:
        """Bind, without asking the name service who we are."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept; a system out of descriptors is not asked in a busy loop."""
        try:
            return super().get_request()
        except OSError:
            time.sleep(0.01)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give the connection a thread, or turn it away."""
        if not self._places.acquire(blocking=False):
            with contextlib.suppress(OSError):
                request.sendall(_FULL)
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no thread can be started
            self._places.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve the connection to its end."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Serve the connection, over TLS where there is a certificate."""
        try:
            request.settimeout(self.client_timeout)
            with self._secured(request) as connection, self._tracked(connection):
                Handler(connection, client_address, self)
        except OSError as error:
            log.debug("%s: %s", client_address[0], error)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log a bug of ours; the connection ends."""
        log.error("while serving %s", client_address[0], exc_info=True)

    def shutdown(self) -> None:
        """Accept no more, and at once where the system lets us wake the thread."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        super().shutdown()

    def cut(self) -> None:
        """Shut every connection down, and those that come late."""
        with self._lock:
            self._cut = True
            connections = tuple(self._open)
        for connection in connections:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(connection, socket.SHUT_RDWR)

    @contextlib.contextmanager
    def _tracked(self, connection: socket.socket) -> Iterator[None]:
        with self._lock:
            if self._cut:
                raise OSError("the server stops")
            self._open.add(connection)
        try:
            yield
        finally:
            with self._lock:
                self._open.discard(connection)

    def _secured(self, request: socket.socket) -> socket.socket:
        if self._context is None:
            return request
        first = request.recv(1, socket.MSG_PEEK)
        if first and first != _TLS_RECORD:
            request.sendall(_NO_TLS)
            raise OSError("a client speaks HTTP where HTTPS is served")
        return self._context.wrap_socket(request, server_side=True)


class RegistryServer:
    """*registry* on ``http://address:port``, or https with *tls* (certificate, key).

    Port 0 takes a free one. *htpasswd* (bcrypt) or *users* (our own, see `userfile`) is
    a file of users and passwords; only with neither is everybody welcome. *on_request*
    is told of every answer, from any thread, right before it is sent.
    Raises ServerError when a file cannot be used.
    """

    def __init__(
        self,
        registry: Registry,
        address: str = "127.0.0.1",
        port: int = 0,
        *,
        htpasswd: Path | None = None,
        users: Path | None = None,
        tls: tuple[Path, Path] | None = None,
        on_request: OnRequest | None = None,
        client_timeout: float = CLIENT_TIMEOUT,
    ) -> None:
        self._registry = registry
        self._address = (address, port)
        self._api = Api(registry, _password_file(htpasswd, users))
        self._context = None if tls is None else _tls_context(*tls)
        self._on_request = on_request or _ignore
        self._client_timeout = client_timeout
        self._listener: Listener | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> RegistryServer:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def port(self) -> int:
        """The port that it listens on, once started."""
        return self._address[1]

    @property
    def host(self) -> str:
        """``address:port``, as it stands in an image reference."""
        address, port = self._address
        return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"

    @property
    def url(self) -> str:
        """``http://address:port``, or with https."""
        return f"{'http' if self._context is None else 'https'}://{self.host}"

    def start(self) -> None:
        """Accept connections in a thread until `stop`.

        Raises ServerError when the directory or the port is taken.
        """
        self._registry.open()
        try:
            listener = Listener(
                self._address,
                self._api,
                on_request=self._on_request,
                client_timeout=self._client_timeout,
                context=self._context,
            )
        except OSError as error:
            self._registry.close()
            reason = error.strerror or str(error)
            raise ServerError(f"cannot listen on {self.host}: {reason}") from error
        self._listener = listener
        self._address = (self._address[0], listener.server_port)
        self._thread = threading.Thread(
            target=listener.serve_forever, args=(0.1,), name="serve-accept"
        )
        self._thread.start()

    def stop(self) -> None:
        """Cut every connection, join every thread, give the directory back."""
        if self._listener is None or self._thread is None:
            return
        self._listener.shutdown()
        self._listener.cut()
        self._listener.server_close()
        self._thread.join()
        self._listener = self._thread = None
        self._registry.close()


def _password_file(htpasswd: Path | None, users: Path | None) -> PasswordFile | None:
    """None when nobody asked for passwords. Raises ServerError."""
    if htpasswd is not None and users is not None:
        raise UserFileError(f"{htpasswd} and {users} are two password files; give one")
    if htpasswd is not None:
        return read_htpasswd(Path(htpasswd))
    return None if users is None else read_users(Path(users))


def _tls_context(certificate: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key, password="")  # never asks for one
    except (OSError, ValueError) as error:
        message = (
            f"cannot use the certificate {certificate} with the key {key}: {error}"
        )
        raise ServerError(message) from error
    return context


def _ignore(served: Served) -> None:
    """For whoever does not watch."""
