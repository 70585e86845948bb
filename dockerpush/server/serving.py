"""The registry on a port: accepting connections, TLS, starting and stopping.

Every connection has a thread; all of them end, and are joined, when the server stops,
which cuts what is still open. A cut upload can be resumed, and a cut download has fewer
bytes than it announced.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import threading
import time
from http.server import ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from types import TracebackType
from typing import Any, Callable, Iterator

from .dispatch import Api
from .embedded import Registry
from .handler import Handler, Served
from .htpasswd import read_htpasswd
from .protocol_errors import ServerError, UserFileError
from .userfile import read_users
from .users import PasswordFile

log = logging.getLogger(__name__)

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
