"""How bodies are framed on the wire, and how long we wait for them."""

from __future__ import annotations

import io
import socket
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dockerpush.server import http_request as body_module
from dockerpush.server.http_request import (
    BUFFER,
    ChunkedBody,
    ConnectionReader,
    FixedBody,
    HeadTooLarge,
    open_body,
    pieces,
)
from dockerpush.server.messages import Disconnected, Headers, ProtocolError, SlowClient


def stream(content: bytes) -> io.BufferedReader:
    return io.BufferedReader(io.BytesIO(content), BUFFER)


def read_all(body) -> bytes:
    return b"".join(bytes(piece) for piece in pieces(body))


def chunked(*pieces: bytes, trailer: bytes = b"") -> bytes:
    parts = [b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces if piece]
    return b"".join([*parts, b"0\r\n", trailer, b"\r\n"])


@settings(deadline=None)
@given(st.lists(st.binary(max_size=300), max_size=8), st.integers(1, 400))
def test_a_chunked_body_is_what_was_chunked(pieces, size):
    """Whatever the chunks and the buffer, and nothing behind it is touched."""
    source = stream(chunked(*pieces) + b"next request")
    body, found = ChunkedBody(source), bytearray()
    buffer = memoryview(bytearray(size))
    while count := body.readinto(buffer):
        found += buffer[:count]
    assert bytes(found) == b"".join(pieces)
    assert body.finished
    assert source.read() == b"next request"


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_break_the_chunk_parser(content):
    """It ends: with the body, or with one of our errors."""
    body = ChunkedBody(stream(content))
    buffer = memoryview(bytearray(50))
    try:
        while body.readinto(buffer):
            pass
    except (ProtocolError, Disconnected):
        pass
    else:
        assert body.finished


@pytest.mark.parametrize(
    "content",
    [
        b"5\r\nhelloX\r\n0\r\n\r\n",
        b"-1\r\n",
        b"+5\r\nhello\r\n0\r\n\r\n",
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b" 5\r\nhello\r\n0\r\n\r\n",
        b"\r\n",
        b"f" * 16 + b"\r\n",
        b"1" * 5000,
        chunked(b"x", trailer=b"a: b\r\n" * 16),
    ],
)
def test_a_malformed_chunked_body_is_refused(content):
    with pytest.raises(ProtocolError) as caught:
        read_all(ChunkedBody(stream(content)))
    assert caught.value.status == 400
    assert caught.value.headers["Connection"] == "close"


@pytest.mark.parametrize(
    "content", [b"", b"5\r\nhel", b"5\r\nhello", b"5\r\nhello\r\n"]
)
def test_a_chunked_body_that_ends_early_is_a_broken_line(content):
    with pytest.raises((Disconnected, ProtocolError)):
        read_all(ChunkedBody(stream(content)))


def test_extensions_and_trailers_of_chunks_are_skipped():
    content = b"5;name=value\r\nhello\r\n0\r\nTrailer: x\r\n\r\n"
    assert read_all(ChunkedBody(stream(content))) == b"hello"


@settings(deadline=None)
@given(st.binary(max_size=300), st.integers(1, 400), st.binary(max_size=20))
def test_a_fixed_body_has_its_length(content, size, rest):
    source = stream(content + rest)
    body, found = FixedBody(source, len(content)), bytearray()
    buffer = memoryview(bytearray(size))
    while count := body.readinto(buffer):
        found += buffer[:count]
    assert bytes(found) == content
    assert source.read() == rest


def test_a_fixed_body_that_ends_early_is_a_broken_line():
    with pytest.raises(Disconnected, match="3 bytes early"):
        read_all(FixedBody(stream(b"abc"), 6))


@pytest.mark.parametrize(
    ("pairs", "status"),
    [
        ([("Content-Length", "5"), ("Transfer-Encoding", "chunked")], 400),
        ([("Content-Length", "5"), ("content-length", "6")], 400),
        ([("Content-Length", "-5")], 400),
        ([("Content-Length", "+5")], 400),
        ([("Content-Length", "5, 5")], 400),
        ([("Content-Length", "0x5")], 400),
        ([("Content-Length", "")], 400),
        ([("Content-Length", "²")], 400),
        ([("Content-Length", "9" * 19)], 400),
        ([("Transfer-Encoding", "gzip, chunked")], 501),
        ([("Transfer-Encoding", "identity")], 501),
        ([("Transfer-Encoding", "chunked"), ("Transfer-Encoding", "chunked")], 501),
    ],
)
def test_an_ambiguous_announcement_ends_the_connection(pairs, status):
    """Nobody may smuggle a second request through a proxy (RFC 9112, 11.2)."""
    with pytest.raises(ProtocolError) as caught:
        open_body(Headers(tuple(pairs)), stream(b""))
    assert caught.value.status == status
    assert caught.value.headers["Connection"] == "close"


def test_the_same_length_twice_is_one_length():
    pairs = (("Content-Length", "3"), ("Content-Length", "3"))
    assert read_all(open_body(Headers(pairs), stream(b"abc"))) == b"abc"


@pytest.fixture
def pair():
    """Two ends of a connection; ours gives up after 0.2 s."""
    ours, theirs = socket.socketpair()
    ours.settimeout(0.2)
    with ours, theirs:
        yield ours, theirs


def test_a_silent_client_is_given_up(pair):
    reader = ConnectionReader(pair[0])
    with pytest.raises(SlowClient, match="nothing received"):
        reader.read(1)
    assert not reader.started


def test_a_client_that_trickles_is_given_up(pair):
    """A byte every now and then does not hold a thread."""
    ours, theirs = pair
    reader = ConnectionReader(ours)
    stop = threading.Event()

    def trickle() -> None:
        while not stop.wait(0.05):
            theirs.sendall(b"x")

    thread = threading.Thread(target=trickle)
    thread.start()
    started = time.monotonic()
    with pytest.raises(SlowClient, match="bytes per second"):
        while reader.read(1):
            pass
    assert 0.15 < time.monotonic() - started < 2
    stop.set()
    thread.join()


def test_a_slow_link_that_moves_is_not_given_up(pair):
    """20 KB/s for five times the time limit."""
    ours, theirs = pair
    reader = ConnectionReader(ours)
    received, ends = 0, time.monotonic() + 1
    while time.monotonic() < ends:
        theirs.sendall(b"x" * 1000)
        received += len(reader.read(1000) or b"")
        time.sleep(0.05)
    assert received > 10_000


def test_a_broken_line_is_distinguished_from_a_full_disk(pair):
    """Errors of the socket are Disconnected, so that any OSError is the storage's."""
    ours, _ = pair
    reader = ConnectionReader(ours)
    ours.close()
    with pytest.raises(Disconnected):
        reader.read(1)


def test_an_endless_head_is_cut_and_a_body_is_not(monkeypatch, pair):
    monkeypatch.setattr(body_module, "HEAD_LIMIT", 100)
    monkeypatch.setattr(body_module, "BUFFER", 100)
    ours, theirs = pair
    reader = ConnectionReader(ours)
    theirs.sendall(b"x" * 1000)
    with pytest.raises(HeadTooLarge):
        reader.read(201)
    reader.begin_head()
    reader.begin_body()
    assert reader.read(300)
