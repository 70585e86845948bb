"""A proxy between the command and a real registry that breaks requests on purpose.

It speaks HTTP/1.1 on both sides, over TLS to the client when given a certificate. Which
request breaks, and how, is said by a schedule for each repository, so that any number
of pushes can go through one proxy at a time.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import re
import socket
import ssl
import struct
import threading
import time
from dataclasses import dataclass, field
from http import HTTPStatus
from types import TracebackType
from typing import BinaryIO, Iterator

PIECE = 8 * 1024
"""Bytes that are passed on at a time."""

KINDS = {
    "POST": re.compile(r"POST .*/blobs/uploads/"),
    "PATCH": re.compile(r"PATCH "),
    "CLOSE": re.compile(r"PUT .*/blobs/uploads/"),
    "MANIFEST": re.compile(r"PUT .*/manifests/"),
    "HEAD": re.compile(r"HEAD .*/blobs/"),
    "GET": re.compile(r"GET "),
    "ANY": re.compile(r""),
}
"""The kinds of request that a fault can wait for."""


@dataclass(frozen=True)
class Fault:
    """What happens to the *number*-th request of *kind* (from 0), once or *always* on.

    *what* is one of the methods of Exchange below; *amount* is bytes, or milliseconds,
    or a status.
    """

    what: str
    kind: str
    number: int = 0
    amount: int = 0
    always: bool = False


@dataclass
class Schedule:
    """The faults of one repository, and what came of them."""

    faults: tuple[Fault, ...]
    met: list[Fault] = field(default_factory=list)
    seen: dict[str, int] = field(default_factory=dict)
    sent: int = 0
    requests: list[str] = field(default_factory=list)
    connections: set[socket.socket] = field(default_factory=set)
    held: threading.Event = field(default_factory=threading.Event)

    def fault_for(self, request: str) -> Fault | None:
        """The fault that this request meets."""
        self.requests.append(request)
        matching = [kind for kind, form in KINDS.items() if form.match(request)]
        for kind in matching:
            self.seen[kind] = self.seen.get(kind, 0) + 1
        for fault in self.faults:
            number = self.seen.get(fault.kind, 0) - 1
            due = number >= fault.number if fault.always else number == fault.number
            if fault.kind in matching and due:
                self.met.append(fault)
                return fault
        return None


class FaultProxy:
    """Listens on *host* for the ``with`` and passes everything on to *upstream*."""

    def __init__(self, upstream: str, context: ssl.SSLContext | None = None) -> None:
        self.upstream = upstream
        self.context = context
        self.schedules: dict[str, Schedule] = {}
        self.lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept, name="proxy")

    def __enter__(self) -> FaultProxy:
        self._accepting.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listener.close()
        for connection in tuple(self.open):
            shut(connection)
        for thread in self._threads:
            thread.join()

    def schedule(self, repository: str, faults: tuple[Fault, ...] = ()) -> Schedule:
        """Have requests to *repository* meet *faults*."""
        schedule = self.schedules[repository] = Schedule(faults)
        return schedule

    def schedule_of(self, path: str) -> Schedule:
        """The schedule of the repository that *path* names; an empty one for others."""
        found = re.match(r"/v2/(.+?)/(?:blobs|manifests|tags)/", path)
        return self.schedules.setdefault(found[1] if found else "", Schedule(()))

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._threads = [one for one in self._threads if one.is_alive()]
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            self.open.add(connection)
            thread.start()

    def _serve(self, plain: socket.socket) -> None:
        plain.settimeout(20)
        connection = plain
        try:
            if self.context is not None:
                connection = self.context.wrap_socket(plain, server_side=True)
                self.open.add(connection)
            with connection.makefile("rb") as reader, self._upstream() as upstream:
                while Exchange(self, connection, reader, upstream).run():
                    pass
        except (OSError, http.client.HTTPException, ValueError):
            pass  # that is what it is for
        finally:
            self.open -= {plain, connection}
            for schedule in tuple(self.schedules.values()):
                schedule.connections.discard(connection)
            connection.close()
            plain.close()

    @contextlib.contextmanager
    def _upstream(self) -> Iterator[http.client.HTTPConnection]:
        connection = http.client.HTTPConnection(self.upstream, timeout=20)
        try:
            yield connection
        finally:
            connection.close()


class Exchange:
    """One request and its answer."""

    def __init__(
        self,
        proxy: FaultProxy,
        client: socket.socket,
        reader: BinaryIO,
        upstream: http.client.HTTPConnection,
    ) -> None:
        self.proxy = proxy
        self.client = client
        self.reader = reader
        self.upstream = upstream
        self.left = 0
        self.pause = 0.0

    def run(self) -> bool:
        """Serve one request; False when the connection is over."""
        words = self.reader.readline(65536).decode("latin-1").split()
        if len(words) != 3:
            return False
        self.method, self.path = words[:2]
        self.headers = http.client.parse_headers(self.reader)
        self.left = int(self.headers.get("Content-Length", 0))
        with self.proxy.lock:
            self.schedule = self.proxy.schedule_of(self.path)
            self.schedule.connections.add(self.client)
            fault = self.schedule.fault_for(f"{self.method} {self.path}")
        if fault is None:
            return self.pass_on()
        return bool(getattr(self, fault.what)(fault.amount))

    def pass_on(self) -> bool:
        """No fault, or one that is over."""
        self.forward(self.left)
        return self.answer(*self.ask())

    def cut(self, amount: int) -> bool:
        """The connection breaks after *amount* bytes of the body."""
        if self.left:
            self.forward(min(amount, self.left - 1))
        if self.upstream.sock is not None:
            shut(self.upstream.sock)
            self.upstream.close()
        return self.reset()

    def lose(self, amount: int) -> bool:
        """The registry does what it was asked to, and nobody hears of it."""
        self.forward(self.left)
        self.ask()
        return self.reset()

    def cut_answer(self, amount: int) -> bool:
        """Only *amount* bytes of the answer arrive."""
        self.forward(self.left)
        status, headers, body = self.ask()
        self.client.sendall(self.text(status, headers, body)[:amount])
        return self.reset()

    def refuse(self, amount: int) -> bool:
        """The body is read, and answered with status *amount* by somebody else."""
        self.read_body()
        return self.say(amount)

    def refuse_early(self, amount: int) -> bool:
        """Status *amount* is the answer before the body was read; then it closes."""
        self.say(amount)
        self.client.shutdown(socket.SHUT_WR)
        with contextlib.suppress(OSError):
            self.read_body()
        return False

    def replace(self, amount: int) -> bool:
        """The registry does what it was asked to, and status *amount* is heard."""
        self.forward(self.left)
        self.ask()
        return self.say(amount)

    def delay(self, amount: int) -> bool:
        """Nothing but *amount* milliseconds of waiting."""
        time.sleep(amount / 1000)
        return self.pass_on()

    def throttle(self, amount: int) -> bool:
        """The body moves slowly: *amount* milliseconds for each piece."""
        self.pause = amount / 1000
        return self.pass_on()

    def kill(self, amount: int) -> bool:
        """Every connection of this push breaks at once."""
        with self.proxy.lock:
            others = [one for one in self.schedule.connections if one != self.client]
        for connection in others:
            shut(connection)
        return self.cut(amount)

    def hold(self, amount: int) -> bool:
        """*amount* bytes of the body pass, then nothing, until the client is gone."""
        self.forward(min(amount, self.left - 1))
        self.schedule.held.set()
        self.client.settimeout(None)
        while self.client.recv(65536):
            pass
        self.upstream.close()
        return False

    def hold_body(self, amount: int) -> bool:
        """*amount* bytes of the body are taken, then no more, and no answer comes."""
        self.forward(min(amount, self.left - 1))
        self.schedule.held.set()
        while self.client in self.proxy.open:
            time.sleep(0.05)
            if closed_by_peer(self.client):
                break
        self.upstream.close()
        return False

    def hold_answer(self, amount: int) -> bool:
        """The registry does what it was asked to, and the answer never comes."""
        self.forward(self.left)
        self.ask()
        self.schedule.held.set()
        self.client.settimeout(None)
        self.client.recv(1)
        return False

    def forward(self, size: int) -> None:
        """Send the head and *size* bytes of the body to the registry."""
        self.upstream.putrequest(
            self.method, self.path, skip_host=True, skip_accept_encoding=True
        )
        for name, value in self.headers.items():
            if name.lower() != "connection":
                self.upstream.putheader(name, value)
        if self.proxy.context is not None:
            self.upstream.putheader("X-Forwarded-Proto", "https")
        self.upstream.endheaders()
        while size > 0:
            piece = self.take(size)
            self.upstream.send(piece)
            size -= len(piece)
            time.sleep(self.pause)

    def take(self, size: int) -> bytes:
        """The next bytes of the body, at most *size*."""
        piece = self.reader.read(min(PIECE, size))
        if not piece:
            raise ConnectionResetError("the client went away")
        self.left -= len(piece)
        with self.proxy.lock:
            if self.method == "PATCH" or "/blobs/" in self.path:
                self.schedule.sent += len(piece)
        return piece

    def read_body(self) -> None:
        """Read what is left of the body."""
        while self.left:
            self.take(self.left)

    def ask(self) -> tuple[int, list[tuple[str, str]], bytes]:
        """The registry's answer."""
        response = self.upstream.getresponse()
        body = response.read()
        skipped = ("transfer-encoding", "connection")
        headers = [(n, v) for n, v in response.getheaders() if n.lower() not in skipped]
        if not any(name.lower() == "content-length" for name, _ in headers):
            headers.append(("Content-Length", str(len(body))))
        return response.status, headers, body

    def say(self, status: int) -> bool:
        """An error of our own."""
        codes = {401: "UNAUTHORIZED", 403: "DENIED", 429: "TOOMANYREQUESTS"}
        record = {
            "code": codes.get(status, "UNKNOWN"),
            "message": "a fault of the test",
        }
        body = json.dumps({"errors": [record]}).encode()
        headers = [("Content-Type", "application/json")]
        if status == 429:
            headers.append(("Retry-After", "0"))
        headers.append(("Content-Length", str(len(body))))
        return self.answer(status, headers, b"" if self.method == "HEAD" else body)

    def answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> bool:
        """Pass an answer on to the client."""
        self.client.sendall(self.text(status, headers, body))
        return True

    @staticmethod
    def text(status: int, headers: list[tuple[str, str]], body: bytes) -> bytes:
        """An answer as bytes."""
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
        lines += [f"{name}: {value}" for name, value in headers]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body

    def reset(self) -> bool:
        """Break the client's connection, without a word."""
        reset(self.client)
        return False


def reset(connection: socket.socket) -> None:
    """Close *connection* so that the other side sees a reset."""
    with contextlib.suppress(OSError):
        linger = struct.pack("ii", 1, 0)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    shut(connection)


def shut(connection: socket.socket) -> None:
    """Wake whoever waits on *connection*, and let nothing through any more."""
    with contextlib.suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_RDWR)


def closed_by_peer(connection: socket.socket) -> bool:
    """Whether the other side has gone, whatever it left unread."""
    information = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
    return information[0] != 1  # ESTABLISHED


TRANSIENT_STATUSES = (408, 425, *[500, 502, 503, 504] * 4, 429)
"""A 429 is rare here because it slows down everything that comes after it."""


def transient_faults(seed: int, most: int) -> tuple[Fault, ...]:
    """One to *most* faults that pass by themselves, by *seed*."""
    source = random.Random(seed)
    return tuple(_transient(source) for _ in range(source.randint(1, most)))


def _transient(source: random.Random) -> Fault:
    kind, most = source.choice(
        [
            *[("POST", 4), ("PATCH", 8), ("PATCH", 8), ("CLOSE", 4), ("CLOSE", 4)],
            *[("MANIFEST", 1), ("HEAD", 4), ("GET", 2), ("ANY", 25)],
        ]
    )
    what = source.choice(
        [
            *["cut", "cut", "lose", "cut_answer", "refuse", "refuse_early"],
            *["replace", "delay", "throttle", "kill"],
        ]
    )
    amount = {
        "cut": source.choice([0, 1, source.randrange(65536), source.randrange(65536)]),
        "kill": source.randrange(65536),
        "cut_answer": source.choice([0, 1, 9, source.randrange(300)]),
        "delay": source.randrange(200),
        "throttle": source.randrange(20),
    }.get(what, source.choice(TRANSIENT_STATUSES))
    return Fault(what, kind, source.randrange(most), amount)


def lasting_fault(seed: int) -> tuple[Fault, ...]:
    """A fault that stays, by *seed*: no push can get past it, and no tag may move."""
    source = random.Random(seed)
    kind, most = source.choice(
        [("POST", 3), ("PATCH", 5), ("CLOSE", 3), ("MANIFEST", 1), ("ANY", 12)]
    )
    what = source.choice(["cut", "kill", "refuse", "refuse_early"])
    status = source.choice([500, 502, 503, 401, 403])
    amount = source.randrange(65536) if what in ("cut", "kill") else status
    return (Fault(what, kind, source.randrange(most), amount, always=True),)
