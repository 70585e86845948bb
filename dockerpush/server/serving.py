"""The registry on a port: connections, TLS, start and stop.

Every connection has a thread; all of them end, and are joined, when the server stops,
which cuts what is still open. A cut upload can be resumed, and a cut download has fewer
bytes than it announced.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
import ssl
import threading
import time
from pathlib import Path
from socketserver import TCPServer, ThreadingMixIn
from types import TracebackType
from typing import Any, Callable, Sequence

from ..errors import reason_of
from ..system.processes import raise_file_limit
from .browsers import is_for_people
from .certificate import Certificate
from .dispatch import Api
from .embedded import Registry
from .handler import Handler, Served, Watch
from .logins import PasswordFile
from .messages import Request, Response, ServerError, UserFileError
from .records import Access, Metrics
from .slots import Slot, Slots
from .users import read_htpasswd, read_users

log = logging.getLogger(__name__)

CLIENT_TIMEOUT = 60.0
"""Seconds that a client may be silent within a request, or idle between two."""

CONNECTIONS = 1024
"""Connections at one time, where the system gives enough file descriptors."""

SETTLE_SECONDS = 1.5
"""How long a check of a password may take when the server stops."""

FILES_PER_CONNECTION = 3
"""A socket, a blob or an upload session, and a file that is being written."""

OnRequest = Callable[[Served], None]

_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\n"
    b"Content-Length: 0\r\n\r\n"
)
_NO_TLS = (
    b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: text/plain\r\n"
    b"X-Content-Type-Options: nosniff\r\n"
    b"\r\nClient sent an HTTP request to an HTTPS server.\n"
)
_TLS_RECORD = b"\x16"


class Listener(ThreadingMixIn, TCPServer):
    """The accepting socket, and the sockets of the connections that are open."""

    allow_reuse_address = True
    daemon_threads = False  # so that they are joined
    request_queue_size = CONNECTIONS  # a client that finds it full waits for a second

    def __init__(
        self,
        address: tuple[str, int],
        api: Api,
        *,
        watch: Watch,
        client_timeout: float,
        context: Callable[[], ssl.SSLContext | None],
    ) -> None:
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        self._api = api
        self._watch = watch
        self._client_timeout = client_timeout
        self._context = context
        self.slots = Slots(connection_limit(raise_file_limit()))
        super().__init__(address, Handler)  # type: ignore[arg-type]

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept; a system out of descriptors is not asked in a busy loop."""
        try:
            return super().get_request()
        except OSError:
            time.sleep(0.01)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give the connection a thread, or turn it away."""
        slot = self.slots.take(request, client_address[0])
        if slot is None:
            self._turn_away(request, client_address[0])
            return
        try:
            super().process_request(slot, client_address)  # type: ignore[arg-type]
        except RuntimeError:  # no thread can be started
            self.slots.release(slot)
            raise

    def _turn_away(self, request: socket.socket, address: str) -> None:
        with contextlib.suppress(OSError):
            request.sendall(_FULL)
        self.shutdown_request(request)
        why = "every connection is in use"
        self._watch.access(Access(address, "", "", "", 503, 0, 0, 0.0, why))

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve the connection of the slot *request* to its end."""
        try:
            self.finish_request(request, client_address)
        except OSError as error:
            log.debug("%s: %s", client_address[0], error)
        except Exception:
            log.error("while serving %s", client_address[0], exc_info=True)
        finally:
            self.slots.release(request)
            self.shutdown_request(request.connection)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Serve the connection, over TLS where there is a certificate."""
        request.connection.settimeout(self._client_timeout)
        request.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._secure(request)
        Handler(request, client_address[0], self._api, self._watch).handle()

    def shutdown(self) -> None:
        """Accept no more, and at once where the system lets us wake the thread."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        super().shutdown()

    def _secure(self, slot: Slot) -> None:
        context = self._context()
        if context is None:
            return
        first = slot.connection.recv(1, socket.MSG_PEEK)
        if first and first != _TLS_RECORD:
            slot.connection.sendall(_NO_TLS)
            raise OSError("a client speaks HTTP where HTTPS is served")

        def wrap(connection: socket.socket) -> ssl.SSLSocket:
            return context.wrap_socket(
                connection, server_side=True, do_handshake_on_connect=False
            )

        self.slots.secure(slot, wrap).do_handshake()


def connection_limit(files: int | None) -> int:
    """How many connections there may be with *files* descriptors; None: any number."""
    if files is None:
        return CONNECTIONS
    return min(CONNECTIONS, max((files - 64) // FILES_PER_CONNECTION, 8))


class RegistryServer:
    """*registry* on ``http://address:port``, or https with *tls* (certificate, key).

    Port 0 takes a free one. *htpasswd* (bcrypt) or *users* (our own, see `userfile`) is
    a file of users and passwords; only with neither is everybody welcome. *on_request*
    is called for every answer, from any thread, right before it is sent, and
    *on_access* when it was sent. Once stopped, *settled* is false when a check of a
    password still runs: it cannot be interrupted, and some libraries abort a process
    that ends then. *names* are further ones under which browsers find it;
    *metrics_public* shows ``/metrics`` to everybody; *page* serves pages for people.
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
        on_access: Callable[[Access], None] | None = None,
        names: Sequence[str] = (),
        metrics_public: bool = False,
        page: bool = True,
        client_timeout: float = CLIENT_TIMEOUT,
    ) -> None:
        self.registry = registry
        self._address = (address, port)
        self._certificate = None if tls is None else Certificate(*tls)
        self._metrics = Metrics()
        known = [] if self._certificate is None else self._certificate.names
        self._api = Api(
            registry,
            _password_file(htpasswd, users),
            names=[address, *names, *known],
            metrics=self._metrics,
            metrics_public=metrics_public,
            page=self._page if page else _ignore,
        )
        self._on_access = on_access or _ignore
        self._watch = Watch(on_request or _ignore, self._count)
        self._client_timeout = client_timeout
        self.settled = True
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
        return f"{'http' if self._certificate is None else 'https'}://{self.host}"

    def reload(self) -> None:
        """Read the certificate again. Raises ServerError, and the old one stays."""
        if self._certificate is not None:
            self._certificate.load()

    def start(self) -> None:
        """Accept connections in a thread until `stop`.

        Raises ServerError when the directory or the port is taken.
        """
        self.registry.open()
        try:
            listener = Listener(
                self._address,
                self._api,
                watch=self._watch,
                client_timeout=self._client_timeout,
                context=self._context,
            )
        except OSError as error:
            self.registry.close()
            reason = reason_of(error)
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                reason += "; choose another port"
            raise ServerError(f"cannot listen on {self.host}: {reason}") from error
        self._listener = listener
        self._measure(listener.slots)
        self._address = (self._address[0], listener.server_address[1])
        self._thread = threading.Thread(
            target=listener.serve_forever, args=(0.1,), name="serve-accept"
        )
        self._thread.start()

    def stop(self) -> None:
        """Cut every connection, join every thread, give the directory back."""
        if self._listener is None or self._thread is None:
            return
        self._listener.shutdown()
        self._api.close()
        self._listener.slots.close()
        self._listener.server_close()
        self._thread.join()
        self._listener = self._thread = None
        self.registry.close()
        self.settled = self._api.settle(SETTLE_SECONDS)

    def _context(self) -> ssl.SSLContext | None:
        return None if self._certificate is None else self._certificate.context

    def _page(self, request: Request) -> Response | None:
        """The page that a person asked for, None for what is of an endpoint."""
        if not is_for_people(request):
            return None
        from .page import Pages  # most registries never show one

        secure = self._certificate is not None
        return Pages(self.registry, request, self.host, secure=secure).respond()

    def _count(self, access: Access) -> None:
        self._metrics(access)
        self._on_access(access)

    def _measure(self, slots: Slots) -> None:
        add, space = self._metrics.add, self.registry.space
        add("connections", "Open connections.", slots.__len__)
        add("upload_sessions", "Open upload sessions.", self.registry.upload_count)
        add("store_bytes", "Bytes of blobs and manifests.", lambda: space.stored)
        add("upload_bytes", "Bytes of unfinished uploads.", lambda: space.received)
        add("failed_logins_total", "Wrong logins.", self._api.rejected_logins)


def _password_file(htpasswd: Path | None, users: Path | None) -> PasswordFile | None:
    """None when nobody asked for passwords. Raises ServerError."""
    if htpasswd is not None and users is not None:
        raise UserFileError(f"{htpasswd} and {users} are two password files; give one")
    if htpasswd is not None:
        return read_htpasswd(Path(htpasswd))
    return None if users is None else read_users(Path(users))


def _ignore(_: object) -> None:
    """For whoever does not watch."""
