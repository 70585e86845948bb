"""A small registry on loopback that a test bends into one registry's dialect.

`FakeRegistry` is honest: it checks Content-Range, tells the true Range, verifies the
digest. A dialect is a subclass that answers one method in its own way; `FakeRegistry.
script` answers single requests, in order, before any of that.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import socket
import struct
import sys
import threading
from collections import defaultdict, deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Callable, Iterator, Mapping, Union
from urllib.parse import parse_qsl, urlsplit


@dataclass
class Incoming:
    """A request; its body is read when the dialect asks for it."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    length: int
    read: Callable[[int], bytes] = field(repr=False)

    def body(self) -> bytes:
        """The whole body, or what came of it before the connection broke."""
        parts = []
        left = self.length
        while left and (part := self.read(min(left, 65536))):
            parts.append(part)
            left -= len(part)
        return b"".join(parts)

    @property
    def range(self) -> tuple[int, int] | None:
        """Content-Range as numbers."""
        text = self.headers.get("Content-Range")
        match = re.fullmatch(r"([0-9]+)-([0-9]+)", text or "")
        assert text is None or match, f"Content-Range: {text}"
        return (int(match[1]), int(match[2])) if match else None


@dataclass
class Answer:
    """What goes back; status 0 cuts the connection instead."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


CUT = Answer(0)


def error(status: int, code: str = "", message: str = "", **headers: str) -> Answer:
    """A distribution error (distribution-spec, Error Codes)."""
    text = f'{{"errors":[{{"code":"{code}","message":"{message}"}}]}}' if code else ""
    return Answer(status, headers, text.encode())


@dataclass
class Seen:
    """A request, noted when it arrives; *length* is its Content-Length.

    *size* is the bytes of its body that were read, and *status* the answer, in the end.
    """

    method: str
    path: str
    content_range: str | None
    length: int
    size: int = 0
    status: int = 0


Scripted = Union[Answer, Callable[[Incoming], Union[Answer, None]]]


class FakeRegistry:
    """The honest registry; *seen* is what was asked of it."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.uploads: dict[str, bytearray] = {}
        self.seen: list[Seen] = []
        self.cancelled: list[str] = []
        self.broken: list[BaseException] = []
        self._scripts: dict[str, deque[Scripted]] = defaultdict(deque)
        self._number = 0
        self.lock = threading.RLock()

    def script(self, method: str, *answers: Scripted) -> None:
        """Answer the next requests of *method* (STATUS: GET of a session) by these.

        A callable may return None to leave the request to the registry.
        """
        self._scripts[method].extend(answers)

    # -- what a dialect overrides

    def head(self, request: Incoming) -> Answer:
        digest = request.path.rpartition("/")[2]
        if digest not in self.blobs:
            return Answer(404)
        return Answer(200, {"Content-Length": str(len(self.blobs[digest]))})

    def post(self, request: Incoming) -> Answer:
        return self.opened(self.new_upload())

    def patch(self, request: Incoming) -> Answer:
        upload = self.upload_of(request)
        if upload is None:
            return error(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry")
        if request.range is not None and request.range[0] != len(upload):
            return error(416, "RANGE_INVALID", "invalid content range")
        return self.stored(request, upload)

    def put(self, request: Incoming) -> Answer:
        upload = self.upload_of(request)
        if upload is None:
            return error(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry")
        upload += request.body()
        return self.closed(request, upload)

    def status(self, request: Incoming) -> Answer:
        upload = self.upload_of(request)
        if upload is None:
            return error(404, "BLOB_UPLOAD_UNKNOWN")
        headers = {"Range": self.range_of(upload), "Location": request.path}
        return Answer(204, headers)

    def delete(self, request: Incoming) -> Answer:
        self.cancelled.append(self.id_of(request))
        known = self.uploads.pop(self.id_of(request), None)
        return Answer(204 if known is not None else 404)

    # -- what dialects share

    def new_upload(self) -> str:
        self._number += 1
        self.uploads[str(self._number)] = bytearray()
        return str(self._number)

    def opened(self, number: str, **headers: str) -> Answer:
        location = f"/v2/team/app/blobs/uploads/{number}"
        return Answer(202, {"Location": location, "Range": "0-0", **headers})

    def id_of(self, request: Incoming) -> str:
        return request.path.rpartition("/")[2]

    def upload_of(self, request: Incoming) -> bytearray | None:
        return self.uploads.get(self.id_of(request))

    def stored(self, request: Incoming, upload: bytearray) -> Answer:
        """The body appended, as far as it came."""
        body = request.body()
        upload += body
        if len(body) < request.length:
            return CUT
        headers = {"Range": self.range_of(upload), "Location": request.path}
        return Answer(202, headers)

    def range_of(self, upload: bytearray) -> str:
        return f"0-{max(len(upload) - 1, 0)}"

    def closed(self, request: Incoming, upload: bytearray) -> Answer:
        """The blob stored if its digest is right; a failing PUT ends the session."""
        self.uploads.pop(self.id_of(request), None)
        digest = request.query["digest"]
        if digest != "sha256:" + hashlib.sha256(upload).hexdigest():
            return error(400, "DIGEST_INVALID", "provided digest did not match")
        self.blobs[digest] = bytes(upload)
        return Answer(201, {"Location": f"/v2/team/app/blobs/{digest}"})

    # -- what tests ask

    def methods(self) -> list[str]:
        """HEAD, POST, PATCH, PUT, STATUS, DELETE in order of arrival."""
        return [seen.method for seen in self.seen]

    def sizes(self, method: str) -> list[int]:
        """Content-Length of each request of *method*."""
        return [seen.length for seen in self.seen if seen.method == method]

    def received(self) -> int:
        """Bytes of all bodies that were read."""
        return sum(seen.size for seen in self.seen)

    def answer(self, request: Incoming) -> Answer:
        """By the script if it has something to say, else by the dialect."""
        script = self._scripts[request.method]
        if script:
            scripted = script.popleft()
            answer = scripted if isinstance(scripted, Answer) else scripted(request)
            if answer is not None:
                return answer
        return getattr(self, request.method.lower())(request)


def cut_after(count: int) -> Callable[[Incoming], Answer]:
    """Read *count* bytes of a body that go nowhere, then cut the connection."""

    def act(request: Incoming) -> Answer:
        left = count
        while left and (part := request.read(min(left, 65536))):
            left -= len(part)
        return CUT

    return act


class Handler(BaseHTTPRequestHandler):
    """Feeds requests to the registry of its server."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 10
    server: Server

    def answer_it(self) -> None:
        parts = urlsplit(self.path)
        count = 0

        def read(size: int) -> bytes:
            nonlocal count
            try:
                data = self.rfile.read1(size)
            except OSError:
                data = b""
            count += len(data)
            return data

        length = int(self.headers.get("Content-Length") or 0)
        assert "chunked" not in self.headers.get("Transfer-Encoding", "")
        session = "/uploads/" in parts.path
        method = "STATUS" if self.command == "GET" and session else self.command
        query = dict(parse_qsl(parts.query))
        request = Incoming(method, parts.path, query, dict(self.headers), length, read)
        registry = self.server.registry
        seen = Seen(method, parts.path, self.headers.get("Content-Range"), length)
        if parts.path != "/v2/":
            registry.seen.append(seen)
            answer = registry.answer(request)
        else:
            answer = Answer(200)
        seen.size, seen.status = count, answer.status
        self.close_connection = count < length or answer.status == 0
        if answer.status == 0:
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            return
        self.reply(answer)
        if count < length:
            self.drain(length - count)

    def reply(self, answer: Answer) -> None:
        with contextlib.suppress(OSError):
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            if "Content-Length" not in answer.headers:
                self.send_header("Content-Length", str(len(answer.body)))
            if self.close_connection:
                self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(answer.body)

    def drain(self, left: int) -> None:
        """Let the client read the answer: a close with unread data would reset."""
        with contextlib.suppress(OSError):
            self.wfile.flush()
            while left and (data := self.rfile.read1(min(left, 65536))):
                left -= len(data)

    do_GET = do_HEAD = do_POST = do_PATCH = do_PUT = do_DELETE = answer_it

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the test looks at `seen`."""


class Server(ThreadingHTTPServer):
    daemon_threads = False
    block_on_close = True

    def __init__(self, registry: FakeRegistry) -> None:
        self.registry = registry
        super().__init__(("127.0.0.1", 0), Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """A cut connection is what some tests are about; the rest fails the test."""
        error = sys.exc_info()[1]
        if error is not None and not isinstance(error, OSError):
            self.registry.broken.append(error)


@contextlib.contextmanager
def serving(registry: FakeRegistry) -> Iterator[str]:
    """``127.0.0.1:PORT`` where *registry* answers, until the ``with`` ends."""
    server = Server(registry)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), name="fake")
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    for error in registry.broken:
        raise error
