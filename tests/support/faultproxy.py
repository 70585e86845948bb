"""A proxy of the tests' own that passes HTTP on, except where a fault says otherwise.

It listens on loopback, over TLS when given a certificate, and speaks plain HTTP/1.1 to
one upstream. Bodies stream through in both directions, so a fault can bite after any
byte of them. The Host header is passed on as it is: a registry that builds a Location
from it leads back here. Each request is counted by method and kind of path, and a fault
picks the nth that matches: of all requests, or of those to one repository, so that any
number of commands can go through one proxy at a time, each with a schedule of its own.
"""

from __future__ import annotations

import contextlib
import enum
import json
import random
import re
import select
import socket
import ssl
import struct
import threading
import time
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Iterator, Mapping, Sequence

from httpstream import PIECE, Broken, Head, body_pieces, has_body, read_head

PATIENCE = 30.0
"""Seconds without a byte after which a connection is given up."""

ALWAYS = 1_000_000
"""The *times* of a fault that stays."""

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
    CUT_HEAD = "the connection breaks after so many bytes of the answer, head first"
    LOSE_ANSWER = "the upstream does it, and the connection breaks before the answer"
    DELAY = "the request waits before it is passed on"
    DELAY_ANSWER = "the answer waits before it is passed on"
    THROTTLE = "both bodies move at a rate"
    REPLACE_REQUEST = "an answer of our own, without asking the upstream"
    REPLACE_ANSWER = "the upstream does it, and an answer of our own is heard"
    CORRUPT_ANSWER = "one byte of the answer's body is another one"
    ANSWER_EARLY = "an answer of our own before the body is read; then it closes"
    KILL = "every connection breaks after so many bytes of the request's body"
    HOLD = "the upstream gets so many bytes of the body, and nothing more happens"
    STALL = "so many bytes of the body are taken, and nothing more happens"
    HOLD_ANSWER = "the upstream does it, and its answer never comes"


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

    @property
    def stays(self) -> bool:
        """Whether it never goes away by itself."""
        return self.times >= ALWAYS

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

    @property
    def repository(self) -> str:
        """The one that the path names, if any."""
        found = re.match(r"/v2/(.+?)/(?:blobs|manifests|tags)/", self.target)
        return found[1] if found else ""


@dataclass
class Schedule:
    """The *faults* that some requests meet, and what came of them.

    *log* has every exchange in the order in which they began, *met* the faults that
    were due, *held* is set when a request is held for good.
    """

    faults: tuple[Fault, ...] = ()
    log: list[Exchange] = field(default_factory=list)
    met: list[Fault] = field(default_factory=list)
    held: threading.Event = field(default_factory=threading.Event)
    connections: set[socket.socket] = field(default_factory=set)

    def meets(self, exchange: Exchange) -> list[Fault]:
        """The faults that *exchange* meets; counts and logs it."""
        self.log.append(exchange)
        met = [fault for fault in self.faults if self._is_due(fault, exchange)]
        self.met += met
        return met

    def _is_due(self, fault: Fault, exchange: Exchange) -> bool:
        if not fault.matches(exchange):
            return False
        return (
            0 <= len(self.exchanges(fault.method, fault.path)) - fault.nth < fault.times
        )

    def exchanges(self, method: str = "", path: str = "") -> list[Exchange]:
        """What matches, so far."""
        wanted = Fault(Effect.DELAY, method, path)
        return [exchange for exchange in self.log if wanted.matches(exchange)]

    @property
    def requests(self) -> list[str]:
        """Method and target of each, so far."""
        return [f"{exchange.method} {exchange.target}" for exchange in self.log]

    @property
    def sent(self) -> int:
        """Bytes of blobs that were passed on to the upstream."""
        return sum(one.sent for one in self.log if one.kind in ("upload", "blob"))


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
        self.upstream = upstream
        self.schedules: dict[str, Schedule] = {}
        self._all = Schedule(tuple(faults))
        self.log = self._all.log
        self._context = None
        if tls is not None:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(*tls)
        self._lock = threading.Lock()  # guards schedules, _open
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
        with self._lock:
            return self._all.exchanges(method, path)

    def schedule(self, repository: str, *faults: Fault) -> Schedule:
        """Have requests to *repository* meet *faults*; they are counted from now on."""
        with self._lock:
            schedule = self.schedules[repository] = Schedule(faults)
        return schedule

    def sent(self, path: str = "") -> int:
        """Bytes of request bodies that were passed on to the upstream."""
        return sum(exchange.sent for exchange in self.exchanges(path=path))

    def settle(self) -> None:
        """Wait until no connection is open any more."""
        deadline = time.monotonic() + PATIENCE
        while self._open:
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def break_all(self, *, reset: bool, schedule: Schedule | None = None) -> None:
        """Break every connection there is, or those of one *schedule*."""
        with self._lock:
            connections = tuple(self._open)
            if schedule is not None:
                connections = tuple(schedule.connections & self._open)
        for connection in connections:
            if reset:
                _reset_when_closed(connection)
            shut(connection)

    def pause(self, seconds: float) -> None:
        """Sleep, but not beyond the proxy's end."""
        if seconds > 0 and self._over.wait(seconds):
            raise Broken(reset=False)

    def hold(self, client: socket.socket, *, reading: bool) -> None:
        """Let nothing happen until the client is gone, or the proxy's end."""
        client.settimeout(None)
        if reading:
            while client.recv(PIECE):
                pass
        while not (self._over.is_set() or closed_by_peer(client)):
            time.sleep(0.02)
        raise Broken(reset=False)

    def met_by(self, exchange: Exchange) -> list[Fault]:
        """The faults that *exchange* meets; counts and logs it."""
        with self._lock:
            met = self._all.meets(exchange)
            if own := self.schedules.get(exchange.repository):
                met += own.meets(exchange)
        exchange.effects = tuple(fault.effect for fault in met)
        return met

    def schedule_of(self, exchange: Exchange) -> Schedule:
        """That of the repository, else the one of all requests."""
        return self.schedules.get(exchange.repository, self._all)

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
        with (
            contextlib.ExitStack() as stack,
            contextlib.suppress(OSError, ValueError, Broken),
        ):
            plain.settimeout(PATIENCE)
            client = plain
            stack.callback(plain.close)
            if self._context is not None:
                client = self._context.wrap_socket(plain, server_side=True)
            server = socket.create_connection(
                self.upstream.rpartition(":")[::2], PATIENCE
            )
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
        schedule = self.schedule_of(exchange)
        schedule.connections.update((client, server))
        effects = {fault.effect: fault for fault in faults}
        relay = Relay(self, schedule, exchange, effects)
        if head.get("Expect"):
            client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        if relay.is_answered_here(client, from_client, head):
            return Effect.ANSWER_EARLY not in effects
        relay.cut_what_has_no_body(client, head)
        scheme = {"X_Forwarded_Proto": "https"} if self._context else {}
        server.sendall(head.to_bytes("expect", **scheme))
        whole = relay.request_body(client, server, from_client, head)
        goes_on = relay.answer(client, from_server)
        if not whole:
            _drain(client, from_client)
        return goes_on and whole


CUTS = (Effect.CUT_REQUEST, Effect.KILL, Effect.HOLD, Effect.STALL)
"""What ends a request inside its body."""


def _short_of_the_whole(head: Head, after: int) -> int:
    """*after*, but not as much as the whole body, which would be a whole request."""
    length = int(head.get("Content-Length") or 0)
    return min(after, length - 1) if length else after


class Relay:
    """One exchange under way, and the faults that it meets."""

    def __init__(
        self,
        proxy: FaultProxy,
        schedule: Schedule,
        exchange: Exchange,
        faults: Mapping[Effect, Fault],
    ) -> None:
        self._proxy = proxy
        self._schedule = schedule
        self._exchange = exchange
        self._faults = faults
        self._cut = next((faults[one] for one in CUTS if one in faults), None)

    def is_answered_here(
        self, client: socket.socket, reader: BinaryIO, head: Head
    ) -> bool:
        """Answer without the upstream if a fault says so; wait if one says so."""
        if delay := self._faults.get(Effect.DELAY):
            self._proxy.pause(delay.seconds)
        if early := self._faults.get(Effect.ANSWER_EARLY):
            self._say(client, early)
            _drain(client, reader)
            return True
        fault = self._faults.get(Effect.REPLACE_REQUEST)
        if fault is None:
            return False
        for _ in body_pieces(reader, head):
            pass
        self._say(client, fault)
        return True

    def cut_what_has_no_body(self, client: socket.socket, head: Head) -> None:
        """Nothing of it reaches the upstream: its head is all there is to break."""
        if self._cut is not None and not has_body(head):
            self._break(self._cut, client)

    def request_body(
        self,
        client: socket.socket,
        server: socket.socket,
        reader: BinaryIO,
        head: Head,
    ) -> bool:
        """Pass the body on; False when the upstream answered before it had it all."""
        cut = self._cut
        most = _short_of_the_whole(head, cut.after) if cut else 0
        for piece in body_pieces(reader, head):
            left = most - self._exchange.sent if cut else len(piece)
            if select.select([server], [], [], 0)[0]:
                return False
            if left > 0:
                self._exchange.sent += min(left, len(piece))
                server.sendall(piece[:left])
            if cut is not None and self._exchange.sent >= most:
                self._break(cut, client)
            self._slow_down(len(piece))
        if cut is not None:
            self._break(cut, client)
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
        if Effect.HOLD_ANSWER in self._faults:
            self._schedule.held.set()
            self._proxy.hold(client, reading=True)
        if delay := self._faults.get(Effect.DELAY_ANSWER):
            self._proxy.pause(delay.seconds)
        if other := self._faults.get(Effect.REPLACE_ANSWER):
            for _ in pieces:
                pass
            self._say(client, other)
            return True
        self._exchange.status = int(head.line.split(" ")[1])
        if cut := self._faults.get(Effect.CUT_HEAD):
            client.sendall((head.to_bytes() + b"".join(pieces))[: cut.after])
            raise Broken(reset=cut.reset)
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

    def _break(self, fault: Fault, client: socket.socket) -> None:
        if fault.effect in (Effect.HOLD, Effect.STALL):
            self._schedule.held.set()
            self._proxy.hold(client, reading=fault.effect is Effect.HOLD)
        if fault.effect is Effect.KILL:
            self._proxy.break_all(reset=fault.reset, schedule=self._schedule)
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


def closed_by_peer(connection: socket.socket) -> bool:
    """Whether the other side has gone, whatever it left unread."""
    information = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
    return information[0] != 1  # ESTABLISHED


def _reset_when_closed(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        linger = struct.pack("ii", 1, 0)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


TRANSIENT_STATUSES = (408, 425, *[500, 502, 503, 504] * 4, 429)
"""A 429 is rare here because it slows down everything that comes after it."""

PLACES = {
    "POST": ("POST", "upload"),
    "PATCH": ("PATCH", "upload"),
    "CLOSE": ("PUT", "upload"),
    "MANIFEST": ("PUT", "manifest"),
    "HEAD": ("HEAD", "blob"),
    "GET": ("GET", ""),
    "ANY": ("", ""),
}


def said_by_us(status: int) -> dict[str, Any]:
    """An answer of our own with an error that a registry could give."""
    codes = {401: "UNAUTHORIZED", 403: "DENIED", 429: "TOOMANYREQUESTS"}
    error = {"code": codes.get(status, "UNKNOWN"), "message": "a fault of the test"}
    headers = {"Content-Type": "application/json"}
    if status == 429:
        headers["Retry-After"] = "0"
    body = json.dumps({"errors": [error]}).encode()
    return {"status": status, "headers": headers, "body": body}


def transient_faults(seed: int, most: int) -> tuple[Fault, ...]:
    """One to *most* faults that pass by themselves; the same ones for the same seed."""
    source = random.Random(seed)
    return tuple(_transient(source) for _ in range(source.randint(1, most)))


def _transient(source: random.Random) -> Fault:
    place, most = source.choice(
        [
            *[("POST", 4), ("PATCH", 8), ("PATCH", 8), ("CLOSE", 4), ("CLOSE", 4)],
            *[("MANIFEST", 1), ("HEAD", 4), ("GET", 2), ("ANY", 25)],
        ]
    )
    effect = source.choice(
        [
            *[Effect.CUT_REQUEST, Effect.CUT_REQUEST, Effect.LOSE_ANSWER],
            *[Effect.CUT_ANSWER, Effect.CUT_HEAD, Effect.REPLACE_REQUEST],
            *[Effect.ANSWER_EARLY, Effect.REPLACE_ANSWER, Effect.DELAY],
            *[Effect.DELAY_ANSWER, Effect.THROTTLE, Effect.KILL],
        ]
    )
    largest = 300 if effect in (Effect.CUT_ANSWER, Effect.CUT_HEAD) else 65536
    return Fault(
        effect,
        *PLACES[place],
        nth=source.randint(1, most),
        after=source.choice(
            [0, 1, source.randrange(largest), source.randrange(largest)]
        ),
        seconds=source.random() / 5,
        rate=source.randrange(400_000, 4_000_000),
        reset=source.random() < 0.5,
        **said_by_us(source.choice(TRANSIENT_STATUSES)),
    )


def lasting_fault(seed: int) -> Fault:
    """A fault that stays, by *seed*: no push can get past it, and no tag may move."""
    source = random.Random(seed)
    place, most = source.choice(
        [("POST", 3), ("PATCH", 5), ("CLOSE", 3), ("MANIFEST", 1), ("ANY", 12)]
    )
    effect = source.choice(
        [
            *[Effect.CUT_REQUEST, Effect.KILL],
            *[Effect.REPLACE_REQUEST, Effect.ANSWER_EARLY],
        ]
    )
    return Fault(
        effect,
        *PLACES[place],
        nth=source.randint(1, most),
        times=ALWAYS,
        after=source.randrange(65536),
        **said_by_us(source.choice([500, 502, 503, 401, 403])),
    )
