"""A proxy of the tests' own that passes HTTP on, except where a fault says otherwise.

It listens on loopback, over TLS when given a certificate, and speaks plain HTTP/1.1 to
one upstream. Bodies stream through in both directions, so a fault can bite after any
byte of them. The Host header is passed on as it is: a registry that builds a Location
from it leads back here. Each request is counted by method and kind of path, and a fault
picks the nth that matches.
"""

from __future__ import annotations

import contextlib
import enum
import random
import re
import select
import socket
import ssl
import struct
import threading
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Iterator, Mapping, Sequence

from httpstream import PIECE, Broken, Head, body_pieces, read_head

PATIENCE = 30.0
"""Seconds without a byte after which a connection is given up."""

PATHS = (
    ("upload", re.compile(r"/v2/.+/blobs/uploads/")),
    ("blob", re.compile(r"/v2/.+/blobs/[^/]+$")),
    ("manifest", re.compile(r"/v2/.+/manifests/[^/]+$")),
    ("tags", re.compile(r"/v2/.+/tags/list")),
    ("base", re.compile(r"/v2/?$")),
)
"""The kinds of path; anything else is ``other``."""


class Effect(enum.Enum):
    """What a fault does."""

    CUT_REQUEST = "the connection breaks after so many bytes of the request's body"
    CUT_ANSWER = "the connection breaks after so many bytes of the answer's body"
    LOSE_ANSWER = "the upstream does it, and the connection breaks before the answer"
    DELAY = "the request waits before it is passed on"
    DELAY_ANSWER = "the answer waits before it is passed on"
    THROTTLE = "both bodies move at a rate"
    REPLACE_REQUEST = "an answer of our own, without asking the upstream"
    REPLACE_ANSWER = "the upstream does it, and an answer of our own is heard"
    CORRUPT_ANSWER = "one byte of the answer's body is another one"
    KILL = "every connection breaks after so many bytes of the request's body"


@dataclass(frozen=True)
class Fault:
    """What happens to the *nth* request (from 1) that matches, and *times* - 1 more.

    *method* and *path* (one of PATHS) match any request when empty. *after* is bytes of
    a body, *seconds* a delay, *rate* bytes a second; *reset* breaks a connection by RST
    instead of FIN; *status*, *headers* and *body* are an answer of our own.
    """

    effect: Effect
    method: str = ""
    path: str = ""
    nth: int = 1
    times: int = 1
    after: int = 0
    seconds: float = 0.0
    rate: int = 0
    reset: bool = True
    status: int = 503
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    def matches(self, exchange: Exchange) -> bool:
        """Whether *exchange* is of the kind that this fault counts."""
        return (self.method or exchange.method) == exchange.method and (
            self.path or exchange.kind
        ) == exchange.kind


@dataclass
class Exchange:
    """One request as it went: *sent* and *received* are bytes of the bodies passed on.

    *status* is what the client was told, 0 for nothing; *effects* what it met.
    """

    method: str
    target: str
    sent: int = 0
    received: int = 0
    status: int = 0
    effects: tuple[Effect, ...] = ()

    @property
    def kind(self) -> str:
        """What kind of path this is."""
        path = self.target.partition("?")[0]
        return next((name for name, form in PATHS if form.search(path)), "other")


class FaultProxy:
    """Passes what comes to *host* on to *upstream* (``host:port``) for the ``with``.

    *log* has every exchange, in the order in which they began.
    """

    def __init__(
        self,
        upstream: str,
        faults: Sequence[Fault] = (),
        tls: tuple[Path, Path] | None = None,
    ) -> None:
        """*tls* is the PEM files of certificate and key."""
        self.log: list[Exchange] = []
        self._upstream = upstream.rpartition(":")[::2]
        self._faults = tuple(faults)
        self._seen = [0] * len(self._faults)
        self._context = None
        if tls is not None:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(*tls)
        self._lock = threading.Lock()  # guards log, _seen, _open
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._over = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> FaultProxy:
        self._start(self._accept)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        shut(self._listener)
        self.break_all(reset=False)
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def exchanges(self, method: str = "", path: str = "") -> list[Exchange]:
        """What matches, so far."""
        wanted = Fault(Effect.DELAY, method, path)
        with self._lock:
            return [exchange for exchange in self.log if wanted.matches(exchange)]

    def sent(self, path: str = "") -> int:
        """Bytes of request bodies that were passed on to the upstream."""
        return sum(exchange.sent for exchange in self.exchanges(path=path))

    def break_all(self, *, reset: bool) -> None:
        """Break every connection there is."""
        with self._lock:
            connections = tuple(self._open)
        for connection in connections:
            if reset:
                _reset_when_closed(connection)
            shut(connection)

    def pause(self, seconds: float) -> None:
        """Sleep, but not beyond the proxy's end."""
        if seconds > 0 and self._over.wait(seconds):
            raise Broken(reset=False)

    def met_by(self, exchange: Exchange) -> list[Fault]:
        """The faults that *exchange* meets; counts and logs it."""
        met = []
        with self._lock:
            self.log.append(exchange)
            for number, fault in enumerate(self._faults):
                if fault.matches(exchange):
                    self._seen[number] += 1
                    if 0 <= self._seen[number] - fault.nth < fault.times:
                        met.append(fault)
        exchange.effects = tuple(fault.effect for fault in met)
        return met

    def _start(self, work: object, *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, name="fault proxy")
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._over.is_set():
            with contextlib.suppress(OSError):
                connection, _ = self._listener.accept()
                self._threads = [one for one in self._threads if one.is_alive()]
                self._start(self._serve, connection)

    def _serve(self, plain: socket.socket) -> None:
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError, Broken):
            plain.settimeout(PATIENCE)
            client = plain
            stack.callback(plain.close)
            if self._context is not None:
                client = self._context.wrap_socket(plain, server_side=True)
            server = socket.create_connection(self._upstream, PATIENCE)
            for connection in (client, server):
                stack.callback(connection.close)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._kept_open(client, server):
                readers = [
                    stack.enter_context(one.makefile("rb")) for one in (client, server)
                ]
                while self._exchange(client, server, *readers):
                    pass

    @contextlib.contextmanager
    def _kept_open(self, *connections: socket.socket) -> Iterator[None]:
        """Known as open; broken as `Broken` says."""
        with self._lock:
            self._open.update(connections)
        try:
            if self._over.is_set():
                return
            yield
        except Broken as error:
            for connection in connections:
                if error.reset:
                    _reset_when_closed(connection)
            raise
        finally:
            with self._lock:
                self._open.difference_update(connections)

    def _exchange(
        self,
        client: socket.socket,
        server: socket.socket,
        from_client: BinaryIO,
        from_server: BinaryIO,
    ) -> bool:
        """Serve one request; False when the connection is over."""
        head = read_head(from_client)
        if head is None:
            return False
        exchange = Exchange(*head.line.split(" ")[:2])
        faults = self.met_by(exchange)
        relay = Relay(self, exchange, {fault.effect: fault for fault in faults})
        if head.get("Expect"):
            client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        if relay.is_answered_here(client, from_client, head):
            return True
        scheme = {"X_Forwarded_Proto": "https"} if self._context else {}
        server.sendall(head.to_bytes("expect", **scheme))
        whole = relay.request_body(server, from_client, head)
        goes_on = relay.answer(client, from_server)
        if not whole:
            _drain(client, from_client)
        return goes_on and whole


class Relay:
    """One exchange under way, and the faults that it meets."""

    def __init__(
        self, proxy: FaultProxy, exchange: Exchange, faults: Mapping[Effect, Fault]
    ) -> None:
        self._proxy = proxy
        self._exchange = exchange
        self._faults = faults

    def is_answered_here(
        self, client: socket.socket, reader: BinaryIO, head: Head
    ) -> bool:
        """Answer without the upstream if a fault says so; wait if one says so."""
        if delay := self._faults.get(Effect.DELAY):
            self._proxy.pause(delay.seconds)
        fault = self._faults.get(Effect.REPLACE_REQUEST)
        if fault is None:
            return False
        for _ in body_pieces(reader, head):
            pass
        self._say(client, fault)
        return True

    def request_body(self, server: socket.socket, reader: BinaryIO, head: Head) -> bool:
        """Pass the body on; False when the upstream answered before it had it all."""
        cut = self._faults.get(Effect.CUT_REQUEST) or self._faults.get(Effect.KILL)
        for piece in body_pieces(reader, head):
            left = len(piece) if cut is None else cut.after - self._exchange.sent
            if select.select([server], [], [], 0)[0]:
                return False
            if left > 0:
                self._exchange.sent += min(left, len(piece))
                server.sendall(piece[:left])
            if cut is not None and self._exchange.sent >= cut.after:
                self._break(cut)
            self._slow_down(len(piece))
        if cut is not None:
            self._break(cut)
        return True

    def answer(self, client: socket.socket, reader: BinaryIO) -> bool:
        """Pass the answer on, or what a fault makes of it; False at its end by EOF."""
        head = read_head(reader)
        while head is not None and head.line.split(" ")[1].startswith("1"):
            head = read_head(reader)
        if head is None:
            raise Broken(reset=False)
        pieces = body_pieces(reader, head, self._exchange.method)
        if lost := self._faults.get(Effect.LOSE_ANSWER):
            for _ in pieces:
                pass
            raise Broken(reset=lost.reset)
        if delay := self._faults.get(Effect.DELAY_ANSWER):
            self._proxy.pause(delay.seconds)
        if other := self._faults.get(Effect.REPLACE_ANSWER):
            for _ in pieces:
                pass
            self._say(client, other)
            return True
        self._exchange.status = int(head.line.split(" ")[1])
        client.sendall(head.to_bytes())
        self._answer_body(client, pieces)
        return head.get("Connection").lower() != "close"

    def _answer_body(self, client: socket.socket, pieces: Iterator[bytes]) -> None:
        cut = self._faults.get(Effect.CUT_ANSWER)
        wrong = self._faults.get(Effect.CORRUPT_ANSWER)
        received = 0
        for piece in pieces:
            if wrong is not None and 0 <= wrong.after - received < len(piece):
                at = wrong.after - received
                piece = piece[:at] + bytes([piece[at] ^ 1]) + piece[at + 1 :]
            received += len(piece)
            if cut is not None and received >= cut.after:
                piece = piece[: len(piece) - (received - cut.after)]
            self._exchange.received += len(piece)
            client.sendall(piece)
            if cut is not None and received >= cut.after:
                break
            self._slow_down(len(piece))
        if cut is not None:
            raise Broken(reset=cut.reset)

    def _slow_down(self, count: int) -> None:
        if fault := self._faults.get(Effect.THROTTLE):
            self._proxy.pause(count / fault.rate)

    def _break(self, fault: Fault) -> None:
        if fault.effect is Effect.KILL:
            self._proxy.break_all(reset=fault.reset)
        raise Broken(reset=fault.reset)

    def _say(self, client: socket.socket, fault: Fault) -> None:
        self._exchange.status = fault.status
        line = f"HTTP/1.1 {fault.status} {HTTPStatus(fault.status).phrase}"
        head = Head(line, [*fault.headers.items()])
        head.headers.append(("Content-Length", str(len(fault.body))))
        client.sendall(head.to_bytes() + fault.body * (self._exchange.method != "HEAD"))


def _drain(connection: socket.socket, reader: BinaryIO) -> None:
    """Let the other side read our last words: unread bytes would make it a reset."""
    socket.socket.shutdown(connection, socket.SHUT_WR)
    connection.settimeout(2)
    for _ in range(64):
        if not reader.read1(PIECE):  # type: ignore[attr-defined]
            return


def shut(connection: socket.socket) -> None:
    """Wake whoever waits on *connection*; nothing goes through it any more."""
    with contextlib.suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_RDWR)


def _reset_when_closed(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        linger = struct.pack("ii", 1, 0)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


def transient_faults(seed: int, *, most: int = 3, largest: int = 65536) -> list[Fault]:
    """One to *most* faults that pass by themselves; the same ones for the same seed.

    *largest* bounds the bytes after which they bite.
    """
    source = random.Random(seed)
    return [_transient(source, largest) for _ in range(source.randint(1, most))]


def _transient(source: random.Random, largest: int) -> Fault:
    effects = [effect for effect in Effect if effect is not Effect.CORRUPT_ANSWER]
    method, path = source.choice(
        [
            *[("POST", "upload"), ("PATCH", "upload"), ("PUT", "upload")],
            *[("HEAD", "blob"), ("PUT", "manifest"), ("GET", ""), ("", "")],
        ]
    )
    return Fault(
        source.choice(effects),
        method,
        path,
        nth=source.randint(1, 4),
        after=source.choice([0, 1, source.randrange(largest)]),
        seconds=source.random() / 10,
        rate=source.randrange(200_000, 2_000_000),
        reset=source.random() < 0.5,
        status=source.choice([408, 429, 500, 502, 503, 504]),
        headers={"Retry-After": "0"},
    )
