"""A front before a registry that writes answers as no HTTP library would.

Each request is read whole and passed on; what comes back is written by hand, so that a
test can put interim answers before it, or leave its length out.
"""

from __future__ import annotations

import contextlib
import http.client
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Callable, Iterator, NamedTuple


class Raw(NamedTuple):
    """The registry's answer to *method*, about to be written."""

    method: str
    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def without(self, *names: str) -> Raw:
        """The same without these headers."""
        kept = [pair for pair in self.headers if pair[0].lower() not in names]
        return self._replace(headers=kept)

    def to_bytes(self) -> bytes:
        """As it goes over the wire."""
        lines = [f"HTTP/1.1 {self.status} Whatever"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + self.body


class Trait(NamedTuple):
    """What is odd: *early* is written before a request's body is read, *late* after.

    *change* makes of each answer what is written.
    """

    early: Callable[[str], bytes] = lambda method: b""
    late: Callable[[str], bytes] = lambda method: b""
    change: Callable[[Raw], Raw] = lambda answer: answer


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 10
    server: _Server

    def pass_on(self) -> None:
        trait = self.server.trait
        self.wfile.write(trait.early(self.command))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.wfile.write(trait.late(self.command))
        connection = http.client.HTTPConnection(self.server.host, timeout=10)
        with contextlib.closing(connection):
            headers = {k: v for k, v in self.headers.items() if k.lower() != "expect"}
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            raw = Raw(self.command, answer.status, answer.getheaders(), answer.read())
        self.wfile.write(trait.change(raw).to_bytes())

    do_GET = do_HEAD = do_POST = do_PATCH = do_PUT = do_DELETE = pass_on

    def handle_expect_100(self) -> bool:
        return True

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


class _Server(ThreadingHTTPServer):
    block_on_close = True
    daemon_threads = False

    def __init__(self, host: str, trait: Trait) -> None:
        self.host, self.trait = host, trait
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is no failure of a test."""


@contextlib.contextmanager
def fronting(host: str, trait: Trait) -> Iterator[str]:
    """``127.0.0.1:PORT`` of a front with *trait* before the registry at *host*."""
    server = _Server(host, trait)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), name="front")
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
