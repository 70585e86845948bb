"""Connections that can be cancelled at any moment, and that say what went wrong.

Rules:
- A socket is known to the Cancellation from its first moment to its real end, also
  through the TLS handshake, so that cancelling wakes whoever waits on it.
- Connecting is short. While a request is sent, the socket's time-out counts for one
  piece of the body; while its answer is awaited, urllib3 sets the time that the caller
  allows; while the answer's body is read, it is the time for one piece again.
- A peer may answer before it has the whole body (413, 401), and close. So we look for
  an answer between pieces, and still ask for one after the connection broke. Such a
  connection is never used again.
- An interim answer (1xx) may come at any time and is no answer: it is read, and
  skipped.
- Works over urllib3 1.26 and 2: only hooks that both have are overridden.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import os
import selectors
import socket
import ssl
import time
from typing import Any, Callable, Iterable, Iterator, Union

import urllib3
import urllib3.connection
from urllib3.util.ssltransport import SSLTransport
from urllib3.util.wait import wait_for_read

from ..errors import ArchiveError, reason_of
from ..expressions import expression
from ..system.cancellation import Cancellation
from ..system.workers import run_detached
from ..values import value
from .failures import (
    broke_while_sending,
    cannot_connect,
    cannot_resolve,
    proxy_failure,
    tls_failure,
)
from .locations import Address, Resolver
from .meter import Meter, MeteredReader, Pace

Piece = Union[bytes, bytearray, memoryview]
"""A part of a body; small enough for a slow link to take in one time-out."""

POLL = 0.1
"""Seconds between two looks at the cancellation while a connection is being made."""
SWITCHING_PROTOCOLS = 101
MOST_INTERIM, MOST_LINES, MOST_BYTES = 1000, 200, 65536
"""Interim answers to one request, their header lines, and bytes of each read."""
_INTERIM = expression(rb"HTTP/1\.[01] 1(?!01)")
LATE_ANSWER = 5.0
"""Seconds to wait for an answer after a peer stopped taking the body."""


def _is_literal(host: str) -> bool:
    """True for an address, such as 127.0.0.1 or ::1, which needs no look-up."""
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError, ValueError):
            socket.inet_pton(family, host)
            return True
    return False


@value
class Dialer:
    """How to open sockets: all that a connection needs beyond host and port.

    *timeout* is seconds for the handshakes and for one piece, *connect_timeout* for one
    address. *admit* raises NetworkError for an address that we may not go to.
    *min_rate* is bytes a second.
    """

    cancellation: Cancellation
    resolve: Resolver
    timeout: float
    connect_timeout: float
    admit: Callable[[str, Address], None]
    min_rate: float = 0.0

    def dial(self, host: str, port: int) -> socket.socket:
        """A connected socket to the first address of *host* that answers.

        Raises NetworkError, TransientError or Cancelled.
        """
        failure: OSError | None = None
        for address in self._addresses(host, port):
            self.admit(host, address)
            try:
                return self._connected(address)
            except OSError as error:
                failure = error
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        raise cannot_connect(where, failure) from failure

    def _addresses(self, host: str, port: int) -> list[Address]:
        def look_up() -> list[Address] | OSError:
            try:
                return self.resolve(host, port)
            except OSError as error:
                return error
            except UnicodeError as error:
                return OSError(str(error))

        self.cancellation.check()
        if _is_literal(host):  # nobody is asked, so nothing can hang
            found = look_up()
        else:
            found = run_detached(look_up, self.cancellation, f"look-up of {host}")
        if isinstance(found, OSError):
            raise cannot_resolve(host, found) from found
        return found

    def _connected(self, address: Address) -> socket.socket:
        sock = WatchedSocket(
            address.family, socket.SOCK_STREAM, cancellation=self.cancellation
        )
        try:
            sock.settimeout(0)
            with contextlib.suppress(BlockingIOError):
                sock.connect(address.target)
            self._await_connection(sock)
            sock.settimeout(self.timeout)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        except BaseException:
            sock.close()
            raise
        return sock

    def _await_connection(self, sock: socket.socket) -> None:
        deadline = time.monotonic() + self.connect_timeout
        with selectors.DefaultSelector() as selector:
            selector.register(sock, selectors.EVENT_WRITE)
            while not selector.select(POLL):
                self.cancellation.check()
                if time.monotonic() >= deadline:
                    raise socket.timeout("timed out")
        self.cancellation.check()
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))


class WatchedSocket(socket.socket):
    """A socket that is known to a Cancellation for as long as it is open."""

    def __init__(self, family: int, kind: int, *, cancellation: Cancellation) -> None:
        super().__init__(family, kind)
        self._cancellation = cancellation
        cancellation.add_socket(self)

    def detach(self) -> int:
        """The descriptor, which somebody else owns (and watches) from now on."""
        self._cancellation.remove_socket(self)
        return super().detach()

    def _real_close(self, *arguments: Any) -> None:
        self._cancellation.remove_socket(self)
        super()._real_close(*arguments)  # type: ignore[misc]


def watch_tls(context: ssl.SSLContext, cancellation: Cancellation) -> None:
    """Make the sockets of *context* known to *cancellation*, handshake included."""

    class WatchedTLSSocket(ssl.SSLSocket):
        def do_handshake(self, block: bool = False) -> None:  # noqa: FBT001, FBT002
            cancellation.add_socket(self)
            super().do_handshake(block)

        def _real_close(self) -> None:
            cancellation.remove_socket(self)
            super()._real_close()  # type: ignore[misc]

    context.sslsocket_class = WatchedTLSSocket


class FinalResponse(http.client.HTTPResponse):
    """The answer after all interim ones; *reader* has read some of those already."""

    def __init__(
        self,
        sock: Any,
        *arguments: Any,
        reader: Callable[[Any], MeteredReader],
        **options: Any,
    ) -> None:
        """*reader* gives what reads from a raw stream of *sock*."""
        super().__init__(sock, *arguments, **options)
        self.fp = reader(self.fp.detach())
        self.meter = self.fp.meter

    def begin(self) -> None:
        """Read the head."""
        super().begin()
        self.meter.begin_body()

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill *buffer* as far as the next bytes of the body go."""
        self.meter.allow(len(buffer))
        return super().readinto(buffer)

    def _read_status(self) -> tuple[str, int, str]:
        for _ in range(MOST_INTERIM):
            self.meter.await_head()
            status: tuple[str, int, str] = super()._read_status()  # type: ignore[misc]
            if not 100 <= status[1] < 200 or status[1] == SWITCHING_PROTOCOLS:
                return status
            skip_head(self.fp)
        raise http.client.BadStatusLine("interim answers without end")


def skip_head(reader: Any) -> None:
    """Read the header lines of an interim answer from *reader*, to the empty one."""
    for _ in range(MOST_LINES):
        line = reader.readline(MOST_BYTES)
        if line in (b"\r\n", b"\n", b""):
            return
    raise http.client.HTTPException("an interim answer with too many headers")


class WatchedConnection(urllib3.connection.HTTPConnection):
    """An HTTP connection by the rules of this module."""

    def __init__(self, *arguments: Any, dialer: Dialer, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._dialer = dialer
        self._size = 0
        self._sent = 0
        self._sending = False
        self._answers = 0
        self._cut: BaseException | None = None  # why the body was not sent to its end
        # of an answer that came before the end of the body
        self._reader: MeteredReader | None = None

    def _new_conn(self) -> socket.socket:
        self._answers = 0
        return self._dialer.dial(self.host, self.port)

    def connect(self) -> None:
        """Connect, through a proxy's tunnel and TLS where they are needed."""
        sock = self._new_conn()
        try:
            self.sock = sock
            if self._tunnel_host:
                self._open_tunnel()
            self._start_tls()
        except BaseException:
            self.close()
            # a refused tunnel leaves a reader behind, which keeps the socket open
            descriptor = sock.detach()
            if descriptor >= 0:
                socket.close(descriptor)
            raise

    def _open_tunnel(self) -> None:
        proxy = f"{self.host}:{self.port}"
        if getattr(self.proxy, "scheme", None) == "https":
            context = getattr(self.proxy_config, "ssl_context", None)
            self.sock = self._encrypted(context, self.host, proxy)
        try:
            self._tunnel()
        except OSError as error:
            self._dialer.cancellation.check()
            raise proxy_failure(proxy, error) from error

    def _start_tls(self) -> None:
        """Nothing to do for plain HTTP."""

    def _encrypted(self, context: Any, name: str, peer: str) -> Any:
        """The connection's socket with TLS of *context* around it, for host *name*."""
        wrap = context.wrap_socket
        if isinstance(self.sock, ssl.SSLSocket):  # TLS inside the TLS of a proxy
            wrap = functools.partial(SSLTransport, ssl_context=context)
        try:
            return wrap(self.sock, server_hostname=name)
        except ssl.SSLError as error:
            self._dialer.cancellation.check()
            raise tls_failure(peer, error) from error
        except OSError as error:
            self._dialer.cancellation.check()
            raise cannot_connect(peer, error) from error

    def _peer(self) -> str:
        host, port = self._tunnel_host or self.host, self._tunnel_port or self.port
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def request(  # type: ignore[override]
        self,
        method: str,
        url: str,
        body: Iterable[Piece] | None = None,
        headers: Any = None,
        **options: Any,
    ) -> None:
        """Send a request; an answer that comes early, or a break, ends the body."""
        self._cut, self._sent, self._sending = None, 0, False
        self._reader = None
        self.response_class = functools.partial(FinalResponse, reader=self._take_reader)  # type: ignore[assignment]
        if self.sock is None:
            self.connect()
        self._wait_at_most(self._dialer.timeout)
        self._size = int((headers or {}).get("Content-Length", 0))
        pieces = None if body is None else self._pieces(body)
        super().request(method, url, body=pieces, headers=headers, **options)  # type: ignore[arg-type]

    def _pieces(self, body: Iterable[Piece]) -> Iterator[Piece]:
        self._sending = True
        pace = Pace(self._peer(), self._dialer.min_rate)
        for piece in _readable(body):
            self._dialer.cancellation.check()
            if self._answered_early():
                self._cut = self._cut or BrokenPipeError("answered early")
            if self._cut is not None:
                return
            began = time.monotonic()
            yield piece
            self._sent += len(piece)
            pace.took(len(piece), time.monotonic() - began)

    def send(self, data: Any) -> None:
        """Send *data*; a break inside a body is kept for `getresponse`."""
        if self._cut is not None:
            return
        try:
            super().send(data)
        except OSError as error:
            self._dialer.cancellation.check()
            if not self._sending:
                raise
            self._cut = error

    def _answered_early(self) -> bool:
        # before its first answer, TLS 1.3 has session tickets to read
        if isinstance(self.sock, ssl.SSLSocket) and not self._answers:
            return False
        if self.sock is None or not wait_for_read(self.sock, timeout=0):
            return False
        return not self._skip_interim()

    def _skip_interim(self) -> bool:
        """Read what can be read now; True when it was interim answers and no more."""
        if self._reader is None:
            self._reader = self._new_reader(self.sock.makefile("rb").detach())
        try:
            found = self._peek(self._reader)
            while _INTERIM.match(found):
                self._reader.meter.await_head()
                skip_head(self._reader)
                found = self._peek(self._reader)
                if not found:
                    return True
        except (OSError, http.client.HTTPException) as error:
            self._cut = error
        return False

    def _new_reader(self, raw: Any) -> MeteredReader:
        seconds, rate = self._dialer.timeout, self._dialer.min_rate
        meter = Meter(self._peer(), seconds, rate)
        return MeteredReader(raw, meter)

    def _take_reader(self, raw: Any) -> MeteredReader:
        """What has read ahead, else a reader of *raw*; the answer's own now."""
        reader, self._reader = self._reader, None
        if reader is None:
            return self._new_reader(raw)
        raw.close()
        return reader

    def _peek(self, reader: MeteredReader) -> bytes:
        """The next bytes of an answer; b"" when there are none now, or at the end."""
        seconds = self.sock.gettimeout()
        self.sock.settimeout(0)
        try:
            return bytes(reader.peek(1))
        except (BlockingIOError, ssl.SSLWantReadError):
            return b""
        finally:
            self.sock.settimeout(seconds)

    def close(self) -> None:
        """Close the connection, also what was read ahead."""
        if self._reader is not None:
            self._reader.close()  # it would keep the socket open
            self._reader = None
        super().close()

    def getresponse(self) -> Any:
        """The answer. Raises TransientError when the body broke and none is there."""
        sock, cut = self.sock, self._cut
        reader = self._reader
        if cut is not None:
            self._wait_at_most(min(LATE_ANSWER, self._dialer.timeout))
        try:
            answer = super().getresponse()
        except (OSError, http.client.HTTPException) as error:
            if reader is not None:
                reader.close()
            self._dialer.cancellation.check()
            if cut is None and not (self._size and _is_break(error)):
                raise
            raise broke_while_sending(self._peer(), self._sent, self._size, cut) from (
                cut or error
            )
        self._answers += 1
        self._read_on(sock)
        return answer

    def _read_on(self, sock: socket.socket | None) -> None:
        """Prepare for reading the answer's body from *sock*."""
        with contextlib.suppress(OSError):
            if sock is not None:
                sock.settimeout(self._dialer.timeout)
        if self.sock is not None and (self._cut is not None or self._is_forwarded()):
            self.sock.close()  # for real when the answer was read
            self.sock = None

    def _is_forwarded(self) -> bool:
        """True for plain HTTP through a proxy: tinyproxy hangs up and does not say."""
        return self.proxy is not None and not self._tunnel_host

    def _wait_at_most(self, seconds: float) -> None:
        self.timeout = seconds
        if self.sock is not None:
            self.sock.settimeout(seconds)


def _readable(body: Iterable[Piece]) -> Iterator[Piece]:
    """*body*, whose own failures must not look like those of the network."""
    try:
        yield from body
    except OSError as error:
        raise ArchiveError(
            f"cannot read what is to be sent: {reason_of(error)}"
        ) from error


def _is_break(error: BaseException) -> bool:
    return isinstance(error, (ConnectionError, ssl.SSLEOFError))


class WatchedTLSConnection(WatchedConnection, urllib3.connection.HTTPSConnection):
    """An HTTPS connection by the rules of this module."""

    def _start_tls(self) -> None:
        name = self._tunnel_host or self.host
        self.sock = self._encrypted(self.ssl_context, name, self._peer())
        # whether certificates count was decided with the context, and urllib3's
        # warning about it is not for our users
        self.is_verified = True


class WatchedPool(urllib3.HTTPConnectionPool):
    """A pool of WatchedConnection."""

    ConnectionCls = WatchedConnection  # type: ignore[assignment]


class WatchedTLSPool(urllib3.HTTPSConnectionPool):
    """A pool of WatchedTLSConnection."""

    ConnectionCls = WatchedTLSConnection  # type: ignore[assignment]
