"""Answers without end, and peers that give or take a byte now and then.

Each of these registries is written out, byte by byte; each command ends soon, with one
line and an honest amount of memory.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import socket
import threading
import time
from typing import Callable, Iterator

import pytest
from conftest import Command, Finished
from httpstream import Broken, Head, read_head
from images import MIB, docker_archive, tar_of
from inprocess import run_here

from dockerpush.errors import TooSlow, TransientError
from dockerpush.oci import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, Descriptor, dump_json
from dockerpush.registry import answers, meter
from dockerpush.registry.answers import explanation
from dockerpush.registry.auth import parse_challenges
from dockerpush.registry.pages import next_target
from dockerpush.registry.retry import Attempts, RetryPolicy

LAYER = os.urandom(40_000)
CONFIG = dump_json({"architecture": "amd64", "os": "linux"})
MANIFEST = dump_json(
    {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": Descriptor.of(OCI_CONFIG, CONFIG).to_json(),
        "layers": [Descriptor.of(OCI_LAYER, LAYER).to_json()],
    }
)
Script = Callable[[socket.socket, Head], None]


class Scripted:
    """A registry that holds an image, and answers some requests by a *script*.

    *applies* says which. *sent* counts the bytes of scripted answers.
    """

    def __init__(self, script: Script, applies: Callable[[Head], bool]) -> None:
        self.script, self.applies = script, applies
        self.host = ""

    def handle(self, sock: socket.socket) -> None:
        with sock, sock.makefile("rb") as reader, contextlib.suppress(OSError, Broken):
            while head := read_head(reader):
                if self.applies(head):
                    self.script(sock, head)
                    return
                reader.read(int(head.get("Content-Length") or 0))
                sock.sendall(self.answer(head))

    def answer(self, head: Head) -> bytes:
        method, path, _ = head.line.split(" ")
        found = {digest(raw): raw for raw in (LAYER, CONFIG, MANIFEST)}
        found["1"] = MANIFEST
        if method == "PUT":
            return reply(201, b"")
        if method == "POST":
            return reply(202, b"", Location=f"{path}1")
        if path == "/v2/":
            return reply(200, b"{}")
        raw = found.get(path.rpartition("/")[2])
        if raw is None or "/new/" in path:
            return reply(404, b"" if method == "HEAD" else b"{}")
        whole = reply(200, raw, Docker_Content_Digest=digest(raw))
        return whole[: -len(raw)] if method == "HEAD" else whole


def digest(raw: bytes) -> str:
    return f"sha256:{hashlib.sha256(raw).hexdigest()}"


def reply(status: int, body: bytes, **headers: str) -> bytes:
    kind = OCI_MANIFEST if body == MANIFEST else "application/octet-stream"
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}"]
    lines += [f"Content-Type: {kind}"]
    lines += [f"{name.replace('_', '-')}: {text}" for name, text in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


@contextlib.contextmanager
def scripted(
    script: Script, applies: Callable[[Head], bool] = lambda head: True
) -> Iterator[str]:
    """The host and port of a registry that is `Scripted`."""
    registry = Scripted(script, applies)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    sock, _ = server.accept()
                    threading.Thread(
                        target=registry.handle, args=(sock,), daemon=True
                    ).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def for_ever(piece: bytes, begin: bytes = b"") -> Script:
    """*begin*, then *piece* again and again."""

    def script(sock: socket.socket, head: Head) -> None:
        sock.sendall(begin)
        pieces = piece * (64 * 1024 // len(piece) + 1)
        while True:
            sock.sendall(pieces)

    return script


def trickle(begin: bytes, count: int = 400, rest: bytes = b"x") -> Script:
    """*begin*, then a byte at a time, for about 20 s."""

    def script(sock: socket.socket, head: Head) -> None:
        sock.sendall(begin)
        for byte in itertools.islice(itertools.cycle(rest), count):
            sock.sendall(bytes([byte]))
            time.sleep(0.05)

    return script


ONCE = ("--retry-times", "0", "--timeout", "500ms", "--plain-http")
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: "
    + OCI_MANIFEST.encode()
    + b"\r\n\r\n"
)
UNCLOSED = "Bearer " + r'a="\",' * 10_000
CHALLENGES = f"WWW-Authenticate: {UNCLOSED}\r\n".encode()
ENDLESS = {
    "interim answers": for_ever(b"HTTP/1.1 100 Continue\r\n\r\n"),
    "interim headers": for_ever(b"a: b\r\n", b"HTTP/1.1 103 Early Hints\r\n"),
    "headers": for_ever(b"a: " + b"b" * 60_000 + b"\r\n", b"HTTP/1.1 200 OK\r\n"),
    "status line": for_ever(b"a", b"HTTP/1.1 200 "),
    "trailers": for_ever(b"a: b\r\n", CHUNKED + b"2\r\n{}\r\n0\r\n"),
    "chunk extensions": for_ever(b";a", CHUNKED + b"2"),
    "challenges": for_ever(CHALLENGES, b"HTTP/1.1 401 X\r\n"),
    "error page": for_ever(b"<title>", b"HTTP/1.1 400 X\r\n\r\n"),
}


def fails(done: Finished) -> Finished:
    assert done.returncode in (1, 3, 5), (done.returncode, done.stderr)
    assert done.error.startswith("error: ") and "Traceback" not in done.stderr
    assert "this is a bug" not in done.stderr
    return done


@pytest.mark.parametrize("name", ENDLESS)
def test_answers_without_end(name, run_cli: Command):
    with scripted(ENDLESS[name]) as host:
        done = run_cli("digest", f"{host}/app:1", *ONCE, timeout=20, fresh=True)
    fails(done)
    assert done.peak_rss < 60 * MIB


@pytest.mark.parametrize("name", ["interim answers", "interim headers"])
def test_interim_answers_without_end_to_a_body(name, run_cli: Command, tmp_path):
    """They are read between the pieces of the body, too."""
    archive = docker_archive(tmp_path / "image.tar", [tar_of({"a": os.urandom(MIB)})])
    with scripted(ENDLESS[name], lambda head: head.line[:3] in ("PUT", "PAT")) as host:
        goal = f"{host}/new/app:1"
        fails(run_cli("push", archive, "-t", goal, *ONCE, timeout=20))


def test_many_challenges_cost_little(run_cli: Command):
    """Each of them would be read anew from every quote that is not closed."""
    lines = CHALLENGES * 4
    answer = b"HTTP/1.1 401 X\r\nContent-Length: 0\r\n" + lines + b"\r\n"

    def script(sock: socket.socket, head: Head) -> None:
        sock.sendall(answer)

    with scripted(script) as host:
        done = run_cli("digest", f"{host}/app:1", *ONCE, timeout=20, fresh=True)
    assert fails(done).returncode == 3
    assert done.peak_rss < 60 * MIB


@pytest.fixture
def here(run_cli: Command) -> Callable[..., Finished]:
    """The command in the process of the tests, whose limits a test may change."""

    def run(*words: object) -> Finished:
        began = time.monotonic()
        done = run_here((*words, "--plain-http"), run_cli.environment())
        assert time.monotonic() - began < 15
        return done

    return run


OK_HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 4000\r\n\r\n"


@pytest.mark.parametrize(
    ("begin", "rest", "said"),
    [
        (b"HTTP/1.1 200 ", b"x", "headers came too slowly"),
        (b"HTTP/1.1 200 OK\r\n", b"a: b\r\n", "headers came too slowly"),
        (b"HTTP/1.1 103 X\r\n", b"a: b\r\n", "headers came too slowly"),
        (OK_HEAD, b"x", "body came too slowly"),
        (CHUNKED + b"2\r\n{}\r\n0\r\n", b"a: b\r\n", "body came too slowly"),
        (b"HTTP/1.1 403 X\r\nContent-Length: 4000\r\n\r\n", b"x", "403"),
    ],
    ids=["status", "header", "interim", "body", "trailer", "error"],
)
def test_a_byte_now_and_then(begin, rest, said, here, monkeypatch):
    monkeypatch.setattr(answers, "DOCUMENT_SECONDS", 0.5)
    monkeypatch.setattr(answers, "ERROR_SECONDS", 0.5)
    monkeypatch.setattr(answers, "DRAIN_SECONDS", 0.5)
    script = trickle(begin, rest=rest)
    with scripted(script, lambda head: head.line.startswith("GET")) as host:
        done = here("pull", f"{host}/app:1", *ONCE[:4])
    assert said in fails(done).error


@pytest.fixture
def slow_layer(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A registry whose layers come at 8 KB/s; half a second of that is too slow."""
    monkeypatch.setattr(meter, "SLOW_SECONDS", 0.5)

    def script(sock: socket.socket, head: Head) -> None:
        begin, _, body = reply(200, LAYER).partition(b"\r\n\r\n")
        sock.sendall(begin + b"\r\n\r\n")
        for start in range(0, len(body), 400):
            sock.sendall(body[start : start + 400])
            time.sleep(0.05)

    def applies(head: Head) -> bool:
        return head.line.startswith("GET") and digest(LAYER) in head.line

    with scripted(script, applies) as host:
        yield host


FLOOR = ("--min-rate", "50K", "--retry-times", "1", "--retry-delay", "0")


@pytest.mark.parametrize("more", [(), ("-o", "app.tar"), ("-o", "app.tar", "-n")])
def test_a_transfer_below_the_floor_ends(more, slow_layer, here, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    error = fails(here("pull", f"{slow_layer}/app:1", *more, *FLOOR)).error
    assert "slower than --min-rate allows" in error


@pytest.mark.long
def test_a_transfer_may_be_slow(slow_layer, here, tmp_path):
    image = f"{slow_layer}/app:1"
    for number, more in enumerate(((), ("--min-rate", "0"), ("--min-rate", "1K"))):
        done = here("pull", image, "--no-cache", "-o", tmp_path / f"{number}", *more)
        assert done.returncode == 0, done.stderr


@pytest.mark.long
@pytest.mark.parametrize("limit", ["4K", "400K"])
def test_the_floor_is_not_above_the_limit(limit, slow_layer, here, tmp_path):
    """What we slow down ourselves is not slow."""
    words = ("pull", f"{slow_layer}/app:1", "--no-cache", "-o", tmp_path / "x")
    done = here(*words, *FLOOR, "--limit-rate", limit)
    assert (done.returncode == 0) == (limit == "4K"), done.stderr


def test_a_body_that_is_taken_slowly_ends(here, tmp_path, monkeypatch):
    monkeypatch.setattr(meter, "SLOW_SECONDS", 0.5)
    layer = tar_of({"a": os.urandom(12 * MIB)})
    archive = docker_archive(tmp_path / "image.tar", [layer])

    def script(sock: socket.socket, head: Head) -> None:
        for _ in range(300):
            sock.recv(64 * 1024)
            time.sleep(0.05)

    with scripted(
        script, lambda head: int(head.get("Content-Length") or 0) > MIB
    ) as host:
        words = ("push", archive, "-t", f"{host}/new/app:1", "--compress", "none")
        error = fails(here(*words, "--min-rate", "10M", "--retry-times", "0")).error
    assert "slower than --min-rate allows" in error


def test_progress_does_not_excuse_what_is_too_slow_again_and_again():
    attempts = Attempts(RetryPolicy(attempts=3, base=0.0))
    for _ in range(2):
        attempts.delay_after(TooSlow("slow"))
        attempts.succeeded()
        attempts.delay_after(TransientError("another"))
        attempts.succeeded()
    with pytest.raises(TooSlow):
        attempts.delay_after(TooSlow("slow"))


HOSTILE = {
    "title": (lambda text: explanation(text.encode()), "<title>"),
    "open title": (lambda text: explanation(text.encode()), "<title"),
    "comment": (lambda text: explanation(text.encode()), "<!--"),
    "script": (lambda text: explanation(text.encode()), "<script>"),
    "tag": (lambda text: explanation(text.encode()), "<a"),
    "challenge": (lambda text: parse_challenges([text]), r'a="\",'),
    "scheme": (lambda text: parse_challenges([text]), "a"),
    "equals": (lambda text: parse_challenges([text]), "a="),
    "spaces": (lambda text: parse_challenges([text]), "a "),
    "link": (lambda text: next_target([f"<a>{text}"]), r';a="\";'),
    "link spaces": (lambda text: next_target([f"<a>{text}"]), "; "),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_a_registry_says_is_read_in_a_time_that_grows_with_it(name, monkeypatch):
    """Four times as much takes about four times as long, and not sixteen times."""
    monkeypatch.setattr("dockerpush.registry.auth.MOST_CHALLENGE_BYTES", 10**9)
    read, piece = HOSTILE[name]

    def seconds(size: int) -> float:
        text, times = piece * (size // len(piece)), []
        for _ in range(3):
            began = time.process_time()
            with contextlib.suppress(Exception):
                read(text)
            times.append(time.process_time() - began)
        return min(times)

    assert seconds(64_000) < 9 * seconds(16_000) + 0.02
