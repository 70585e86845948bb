"""The embedded registry under bad requests, slow and many clients, and a full disk."""

from __future__ import annotations

import contextlib
import errno
import json
import socket
import ssl
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conformance import (
    Image,
    closing,
    digest_of,
    open_client,
    random_bytes,
    raw_exchange,
    read_to_end,
    serving,
    uploads,
)
from registries import make_certificates
from waiting import wait_for

from dockerpush.server import Registry, RegistryServer, ServerError, handler
from dockerpush.server import (
    serving as listening,
)
from dockerpush.server.serving import connection_limit
from dockerpush.server.slots import Slot, choose_victim, client_of
from dockerpush.server.upload_files import StoredUpload


@pytest.fixture
def served(tmp_path: Path):
    with serving(tmp_path / "registry", client_timeout=5) as (server, client):
        yield server, client


@pytest.fixture
def impatient(tmp_path: Path):
    """A server that waits for its clients for 0.3 s."""
    with serving(tmp_path / "registry", client_timeout=0.3) as (server, client):
        yield server, client


def status_of(raw: bytes) -> int:
    assert raw.startswith(b"HTTP/1.1 "), raw
    return int(raw.split()[1])


# Bad requests


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET\r\n\r\n", 400),
        (b"GET /v2/ HTTP/9.9\r\n\r\n", 505),
        (b"GET /v2/ HTTP/x\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"BREW /v2/ HTTP/1.1\r\n\r\n", 501),
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET /v2/ HTTP/1.1\r\nA: " + b"a" * 70_000 + b"\r\n\r\n", 431),
        (b"GET /v2/ HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n", 431),
        (b"GET /v2/ HTTP/1.1\r\n" + (b"A: " + b"b" * 60_000 + b"\r\n") * 9, 431),
        (b"PUT /v2/ HTTP/1.1\r\nContent-Length: x\r\n\r\n", 400),
        (b"PUT /v2/ HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"GET /v2/?" + b"a=b&" * 100 + b" HTTP/1.1\r\n\r\n", 400),
    ],
)
def test_a_bad_request_is_refused_in_the_specified_form(served, request_, status):
    """With a JSON body, and the connection ends."""
    raw = raw_exchange(served[0].host, request_)
    assert status_of(raw) == status
    head, _, body = raw.partition(b"\r\n\r\n")
    assert b"Connection: close" in head
    assert json.loads(body)["errors"][0]["code"].isupper()
    assert served[1]("GET", "/v2/").status == 200


BASE = b"GET /v2/ HTTP/1.1\r\nHost: x\r\n"
UPLOAD = b"PUT /v2/a/manifests/x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
SMUGGLED = b"GET /v2/_catalog HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize(
    "request_",
    [
        BASE + b"no colon\r\n\r\n",
        BASE + b": no name\r\n\r\n",
        BASE + b"Name : space before the colon\r\n\r\n",
        BASE + b"Na\x00me: b\r\n\r\n",
        BASE + b"Name: folded\r\n here\r\n\r\n",
        BASE + b"Name: folded\r\n\there\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\n Host: x\r\n\r\n",
        BASE + b"Name: bare\rCR\r\n\r\n",
        BASE + b"Name: bare\r\r\n\r\n",
        BASE + b"Name: NUL\x00\r\n\r\n",
        BASE + b"Name: bell\x07\r\n\r\n",
        BASE + b"Name: \x7f\r\n\r\n",
        BASE + b"Name: b\n\r\n",
        BASE + b"Name: b\r\n\n",
        BASE + b"Content-Length: \x0b0\r\n\r\n",
        BASE + b"Content-Length: 0\x0c\r\n\r\n",
        BASE + b"Content-Length: \xa00\r\n\r\n",
        BASE + b"Content-Length: 0\x85\r\n\r\n",
        BASE + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
        BASE + b"Transfer-Encoding: chunked\x1f\r\n\r\n0\r\n\r\n",
        BASE + b"Host: y\r\n\r\n",
        b"GET /v2/\x00 HTTP/1.1\r\n\r\n",
        b"GET  /v2/ HTTP/1.1\r\n\r\n",
        b"GET\t/v2/ HTTP/1.1\r\n\r\n",
        b"GET /v2/ HTTP/1.1 \r\n\r\n",
        b"GET /v2/\r\n\r\n",
        b"GET /v2/ HTTP/1.1\n\n",
        b"PUT /v2/ HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        UPLOAD + b"1\nx\r\n0\r\n\r\n",
        UPLOAD + b"1\r\nx\n0\r\n\r\n",
        UPLOAD + b"1;a\x00b\r\nx\r\n0\r\n\r\n",
        UPLOAD + b"1;a\rb\r\nx\r\n0\r\n\r\n",
        UPLOAD + b"1\x0b\r\nx\r\n0\r\n\r\n",
        UPLOAD + b"0\r\nno trailer\r\n\r\n",
        UPLOAD + b"0\r\nA: b\x00\r\n\r\n",
        UPLOAD + b"0\r\nA: b\n\r\n",
    ],
)
def test_what_two_readers_could_read_differently_is_refused(served, request_):
    """400, and nothing that follows on the connection is taken for a request."""
    served[1].push_image("a", "v1")
    raw = raw_exchange(served[0].host, request_ + SMUGGLED)
    assert status_of(raw) == 400
    assert b"Connection: close" in raw
    assert raw.count(b"HTTP/1.1 ") == 1 and b"repositories" not in raw


@pytest.mark.parametrize(
    "field",
    [b"A:b", b"A:", b"A: \t b \t", b"A: b\tc", b"A: \xff", b"!#$%&'*+.^_`|~: x"],
)
def test_a_field_that_is_unusual_and_right_is_read(served, field):
    raw = raw_exchange(served[0].host, BASE + field + b"\r\nConnection: close\r\n\r\n")
    assert status_of(raw) == 200


@pytest.mark.parametrize(
    "target",
    [
        "/v2/../../etc/passwd",
        "/v2/a/../../b/manifests/x",
        "/v2/%2e%2e/%2e%2e/manifests/x",
        "/v2/a%2f..%2fb/manifests/x",
        "/v2/a/manifests/..",
        "/v2/a/manifests/%2e%2e%2f%2e%2e%2flock",
        "/v2/a/blobs/sha256:../../../lock",
        "/v2/a/blobs/sha256:%2e%2e%2flock",
        "/v2/a/blobs/uploads/..%2f..%2flock",
        "/v2/a/blobs/uploads/../lock",
        "/v2/a/_uploads/manifests/x",
        "/v2/_blobs/manifests/x",
        "/v2/a\\..\\b/manifests/x",
        "/v2/a%00/manifests/x",
        "//etc/passwd",
        "*",
    ],
)
@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
def test_a_path_trick_touches_nothing(served, tmp_path, target, method):
    """No file appears, disappears, or is shown."""
    served[1].push_image("a", "v1")
    before = sorted(tmp_path.rglob("*"))
    head = f"{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    raw = raw_exchange(served[0].host, head.encode() + b"Content-Length: 0\r\n\r\n")
    assert 400 <= status_of(raw) < 500
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("method", "target", "allowed"),
    [
        ("POST", "/v2/a/manifests/v1", "GET, HEAD, PUT, DELETE"),
        ("PUT", "/v2/a/tags/list", "GET, HEAD"),
        ("GET", "/v2/a/blobs/uploads/", "POST"),
        ("PATCH", "/v2/", "GET, HEAD"),
    ],
)
def test_a_method_that_an_endpoint_does_not_know_is_named(
    served, method, target, allowed
):
    answer = served[1](method, target, b"")
    assert (answer.status, answer.code) == (405, "UNSUPPORTED")
    assert answer.headers["Allow"] == allowed


def test_a_manifest_without_its_blobs_is_refused_by_name(served):
    """MANIFEST_BLOB_UNKNOWN for each of them; a child of an index as well."""
    client, image = served[1], Image(1)
    client.push_blob("a", image.blobs[image.config["digest"]])
    client.push_blob("other", image.blobs[image.layers[0]["digest"]])
    answer = client.push_manifest("a", "v1", image.manifest)
    assert answer.status == 400
    assert [error["detail"] for error in answer.json["errors"]] == [
        layer["digest"] for layer in image.layers
    ]
    index = {"schemaVersion": 2, "manifests": [image.descriptor]}
    kind = "application/vnd.oci.image.index.v1+json"
    answer = client.push_manifest("a", "v1", index, kind)
    assert (answer.status, answer.code) == (400, "MANIFEST_BLOB_UNKNOWN")
    assert client("GET", "/v2/a/manifests/v1").status == 404


def test_requests_that_are_sent_ahead_are_answered_in_order(served):
    """Pipelining, with a body in between."""
    first = b"POST /v2/a/blobs/uploads/ HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc"
    last = b"GET /v2/ HTTP/1.1\r\nConnection: close\r\n\r\n"
    raw = raw_exchange(served[0].host, first + first + last)
    found = [line for line in raw.split(b"\r\n") if line.startswith(b"HTTP/1.1")]
    assert [line.split()[1] for line in found] == [b"202", b"202", b"200"]


def test_an_old_client_is_served_and_let_go(served):
    raw = raw_exchange(served[0].host, b"GET /v2/ HTTP/1.0\r\n\r\n")
    assert status_of(raw) == 200
    assert b"Connection: close" in raw


def test_a_client_that_expects_to_be_asked_is_asked(served):
    """100 Continue comes when the body is wanted."""
    client = served[1]
    content = b"the body"
    location = client.start_upload("a")
    target = closing(location, digest_of(content))
    head = f"PUT {target} HTTP/1.1\r\nExpect: 100-continue\r\n"
    head += f"Content-Length: {len(content)}\r\nConnection: close\r\n\r\n"
    name, _, port = served[0].host.rpartition(":")
    with socket.create_connection((name, int(port)), 5) as sock:
        sock.sendall(head.encode())
        assert sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(content)
        assert status_of(read_to_end(sock)) == 201


def test_a_client_whose_body_is_not_wanted_is_not_asked_for_it(served):
    head = b"PUT /v2/A/manifests/x HTTP/1.1\r\nExpect: 100-continue\r\n"
    raw = raw_exchange(served[0].host, head + b"Content-Length: 9000000000\r\n\r\n")
    assert status_of(raw) == 400
    assert b"100 Continue" not in raw


@pytest.mark.parametrize("size", [10, 3_000_000])
def test_an_unwanted_body_does_not_cost_the_connection(served, size):
    """The answer is read, and the same connection serves the next request."""
    client = served[1]
    answer = client("PATCH", f"/v2/a/blobs/uploads/{'0' * 8}", b"x" * size)
    assert (answer.status, answer.code) == (404, "BLOB_UPLOAD_UNKNOWN")
    used = client.connection.sock
    assert used is not None
    assert client("GET", "/v2/").status == 200
    assert client.connection.sock is used


def test_an_unwanted_body_without_end_does_cost_it(served, monkeypatch):
    monkeypatch.setattr(handler, "DRAIN_BYTES", 1_000_000)
    client = served[1]
    pieces = (b"x" * 100_000 for _ in range(100))
    with contextlib.suppress(OSError):
        answer = client("PATCH", f"/v2/a/blobs/uploads/{'0' * 8}", pieces)
        assert answer.status == 404
    client.close()
    assert client("GET", "/v2/").status == 200


# Slow clients, many clients


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"", None),
        (b"GET /v2/ HT", 408),
        (b"GET /v2/ HTTP/1.1\r\nHost:", 408),
        (b"POST /v2/a/blobs/uploads/?digest=sha256:" + b"0" * 64, 408),
    ],
)
def test_a_client_that_stalls_is_let_go(impatient, sent, status):
    """With a word when it had begun to ask, without one when it had not."""
    raw = raw_exchange(impatient[0].host, sent)
    assert (status_of(raw) if raw else None) == status


def test_an_upload_that_stalls_is_let_go_and_can_continue(impatient):
    server, client = impatient
    location = client.start_upload("a")
    head = f"PATCH {location} HTTP/1.1\r\nContent-Length: 100\r\n\r\n"
    raw = raw_exchange(server.host, head.encode() + b"x" * 40)
    assert status_of(raw) == 408
    with open_client(server.host) as fresh:
        assert fresh("GET", location).headers["Range"] == "0-39"


def test_a_reader_that_stalls_is_let_go(impatient):
    """Its thread is free again, and the server stops in time."""
    server, client = impatient
    content = random_bytes(30_000_000)
    digest = client.push_blob("a", content)
    name, _, port = server.host.rpartition(":")
    with socket.create_connection((name, int(port)), 5) as sock:
        sock.sendall(f"GET /v2/a/blobs/{digest} HTTP/1.1\r\n\r\n".encode())
        time.sleep(1)
        assert len(read_to_end(sock)) < len(content)


@contextlib.contextmanager
def connections(server, count: int, sent: bytes = b"", **options):
    """*count* sockets that sent a request, or the beginning of one."""
    name, _, port = server.host.rpartition(":")
    with contextlib.ExitStack() as stack:
        socks = []
        for _ in range(count):
            sock = stack.enter_context(
                socket.create_connection((name, int(port)), 5, **options)
            )
            sock.sendall(sent)
            socks.append(sock)
            time.sleep(0.02)
        yield socks


BUSY = b"PUT /v2/a/manifests/x HTTP/1.1\r\nContent-Length: 9\r\n\r\n"
ASK = b"GET /v2/ HTTP/1.1\r\n\r\n"


def is_open(sock: socket.socket) -> bool:
    sock.setblocking(False)
    try:
        return sock.recv(1000) != b""
    except BlockingIOError:
        return True
    except ConnectionError:
        return False


def test_a_client_too_many_is_asked_to_come_back(tmp_path, monkeypatch):
    """When each of the others is served just now."""
    monkeypatch.setattr(listening, "CONNECTIONS", 3)
    with serving(tmp_path) as (server, _):
        with connections(server, 3, BUSY):
            raw = raw_exchange(server.host)
            assert status_of(raw) == 503
            assert b"Retry-After: 1" in raw
        deadline = time.monotonic() + 5
        while status_of(raw_exchange(server.host, b"GET / HTTP/1.0\r\n\r\n")) != 404:
            assert time.monotonic() < deadline


@pytest.mark.parametrize("sent", [b"", b"GET /v2/ HT", ASK])
def test_the_oldest_idle_connection_makes_room(tmp_path, monkeypatch, sent):
    """Silent, with half a head, or between two requests; who is served stays."""
    monkeypatch.setattr(listening, "CONNECTIONS", 4)
    with serving(tmp_path) as (server, client), contextlib.ExitStack() as stack:
        (busy,) = stack.enter_context(connections(server, 1, BUSY))
        idle = stack.enter_context(connections(server, 3, sent))
        assert client("GET", "/v2/").status == 200
        assert is_open(busy)
        assert all(is_open(sock) for sock in idle[1:])
        read_to_end(idle[0])


def test_one_address_cannot_lock_another_one_out(tmp_path, monkeypatch):
    """Not even by requests that are served for ever."""
    monkeypatch.setattr(listening, "CONNECTIONS", 4)
    with serving(tmp_path) as (server, client), contextlib.ExitStack() as stack:
        source = ("127.0.0.2", 0)
        try:
            stack.enter_context(connections(server, 4, BUSY, source_address=source))
        except OSError:
            pytest.skip("this system has one loopback address")
        for _ in range(2):
            with open_client(server.host) as other:
                assert other("GET", "/v2/").status == 200
        # Those two count until the server has seen that they are gone.
        wait_for(lambda: client("GET", "/v2/").status == 200)


def test_who_has_a_share_takes_nothing_from_others():
    def slot(client: str, at: float, *, idle: bool) -> Slot:
        made = Slot(socket.socket(), client)
        made.connection.close()
        made.since, made.idle_since = at, at if idle else None
        return made

    mine = [slot("a", at, idle=False) for at in (1, 2)]
    theirs = [slot("b", at, idle=True) for at in (3, 4)]
    assert choose_victim([*mine, *theirs], "a", 4) is None
    assert choose_victim([*mine, *theirs], "b", 4) is theirs[0]
    assert choose_victim([*mine, *theirs], "c", 4) is theirs[0]
    assert choose_victim(mine, "a", 2) is None
    assert choose_victim(mine, "b", 2) is mine[1]


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_an_address_of_ipv6_stands_for_its_network(address, client):
    assert client_of(address) == client


def test_the_files_that_the_system_gives_limit_the_connections():
    assert [connection_limit(files) for files in (None, 10**6, 1024, 64)] == [
        *(1024, 1024, 320, 8)
    ]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_a_server_may_open_as_many_files_as_the_system_allows():
    code = (
        "import resource\n"
        "from dockerpush.system.processes import raise_file_limit\n"
        "hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, min(hard, 4096)))\n"
        "print(raise_file_limit() > 64)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout.strip() == b"True"


@pytest.mark.long
def test_a_slow_reader_is_served_to_its_end(tmp_path):
    """Who takes 200 KB in each time limit is as slow as 3 KB/s, and not silent."""
    content = random_bytes(8_000_000)
    with serving(tmp_path, client_timeout=2) as (server, client):
        digest = client.push_blob("a", content)
        name, _, port = server.host.rpartition(":")
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect((name, int(port)))
            sock.sendall(f"GET /v2/a/blobs/{digest} HTTP/1.1\r\n\r\n".encode())
            until, received = time.monotonic() + 4, b""
            while time.monotonic() < until:
                received += sock.recv(5000)
                time.sleep(0.05)
            assert (received + read_to_end(sock)).endswith(content)


def test_a_reader_that_takes_a_byte_now_and_then_is_let_go(tmp_path, monkeypatch):
    monkeypatch.setattr(handler, "MINIMUM_RATE", 1_000_000)
    content = random_bytes(30_000_000)
    with serving(tmp_path, client_timeout=0.3) as (server, client):
        digest = client.push_blob("a", content)
        with connections(
            server, 1, f"GET /v2/a/blobs/{digest} HTTP/1.1\r\n\r\n".encode()
        ) as (sock,):
            received = 0
            with contextlib.suppress(ConnectionError):
                while piece := sock.recv(20_000):
                    received += len(piece)
                    time.sleep(0.05)
            assert received < len(content)


def test_twenty_clients_are_served_at_once(served):
    """Each pushes an image of its own and pulls that of another."""
    server, _ = served

    def work(number: int) -> None:
        with open_client(server.host) as client:
            client.push_image(f"r{number}", "v1", number)
            again = client.push_image("shared", f"v{number}", number % 5)
            answer = client("GET", f"/v2/shared/manifests/v{number}")
            assert answer.body == again

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(work, range(20)))
    with open_client(server.host) as client:
        names = client("GET", "/v2/_catalog").json["repositories"]
        assert names == sorted([*(f"r{number}" for number in range(20)), "shared"])
        page = client("GET", "/v2/_catalog?n=2")
        assert page.json["repositories"] == names[:2]
        assert "last=r1" in page.headers["Link"]


# Disks


@pytest.mark.parametrize(
    ("code", "status"), [(errno.ENOSPC, 507), (errno.EIO, 500), (errno.EROFS, 500)]
)
def test_a_storage_that_fails_is_an_answer(served, monkeypatch, code, status):
    """A full disk is said, and the session can go on once there is room."""
    client = served[1]
    content = b"content"
    location = client.start_upload("a")

    def fails(self, *arguments) -> None:
        raise OSError(code, "disk trouble")

    with monkeypatch.context() as patch:
        patch.setattr(listening.Registry, "append", fails)
        answer = client("PATCH", location, content)
    assert (answer.status, answer.code) == (status, "UNKNOWN")
    assert client("PUT", closing(location, digest_of(content)), content).status == 201


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /dev/full")
def test_bytes_that_did_not_fit_are_not_counted(served, monkeypatch):
    """The offset is what is on the disk, and the hash is right all the same."""
    client = served[1]
    location = client.start_upload("a")
    assert client("PATCH", location, b"abc").status == 202
    with Path("/dev/full").open("r+b", 0) as full, monkeypatch.context() as patch:
        patch.setattr(StoredUpload, "_open", lambda _: full)
        answer = client("PATCH", location, b"lost")
    assert (answer.status, answer.code) == (507, "UNKNOWN")
    assert client("GET", location).headers["Range"] == "0-2"
    target = closing(location, digest_of(b"abcdef"))
    assert client("PUT", target, b"def", Content_Range="3-5").status == 201


def test_a_file_that_shrinks_under_a_reader_ends_the_answer(
    served, tmp_path, monkeypatch
):
    """Fewer bytes than announced is a broken answer, never a silent one."""
    digest = served[1].push_blob("a", random_bytes(10_000))
    path = tmp_path / "registry/blobs/sha256" / digest[7:9] / digest[7:]
    open_blob = Registry.open_blob

    def opened(self, *arguments):
        path.write_bytes(b"x")
        return open_blob(self, *arguments)

    monkeypatch.setattr(Registry, "open_blob", opened)
    head = f"GET /v2/a/blobs/{digest} HTTP/1.1\r\n\r\n"
    raw = raw_exchange(served[0].host, head.encode())
    assert b"Content-Length: 10000" in raw
    assert raw.partition(b"\r\n\r\n")[2] == b"x"


# Starting and stopping


def test_what_is_open_is_cut_when_the_server_stops(tmp_path):
    """Idle connections and half a request alike; all threads are joined."""
    before = threading.active_count()
    with contextlib.ExitStack() as stack:
        with serving(tmp_path) as (server, client):
            client("GET", "/v2/")
            name, _, port = server.host.rpartition(":")
            socks = [
                stack.enter_context(socket.create_connection((name, int(port)), 5))
                for _ in range(3)
            ]
            socks[1].sendall(b"PATCH /v2/")
            socks[2].sendall(
                b"PUT /v2/a/manifests/x HTTP/1.1\r\nContent-Length: 9\r\n\r\n"
            )
            time.sleep(0.1)
            started = time.monotonic()
        assert time.monotonic() - started < 2
        assert threading.active_count() == before
        for sock in socks:
            assert b" 20" not in read_to_end(sock)


def test_a_port_that_is_taken_is_an_error_of_one_line(tmp_path, served):
    port = served[0].port
    server = RegistryServer(Registry(tmp_path / "other"), port=port)
    with pytest.raises(ServerError, match=f"cannot listen on 127.0.0.1:{port}: "):
        server.start()
    with serving(tmp_path / "other"):
        pass


def test_a_directory_that_is_taken_is_an_error_of_one_line(served, tmp_path):
    """Two writers on one directory would not know of each other."""
    with pytest.raises(ServerError, match="another server uses this directory"):
        RegistryServer(Registry(tmp_path / "registry")).start()
    with serving(tmp_path / "registry", read_only=True) as (_, client):
        assert client("GET", "/v2/").status == 200


def test_a_directory_that_cannot_be_made_is_an_error_of_one_line(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ServerError, match="cannot store in"):
        RegistryServer(Registry(tmp_path / "file/registry")).start()


def test_what_a_killed_server_left_half_written_is_swept(tmp_path):
    (tmp_path / "incomplete").mkdir()
    (tmp_path / "incomplete/left").write_text("half")
    with serving(tmp_path):
        assert list((tmp_path / "incomplete").iterdir()) == []


# Modes


def test_a_read_only_registry_changes_nothing(tmp_path):
    """Everything can be pulled, and every write is DENIED."""
    with serving(tmp_path) as (_, client):
        raw = client.push_image("a", "v1")
        location = client.start_upload("a")
    before = sorted(tmp_path.rglob("*"))
    with serving(tmp_path, read_only=True) as (_, client):
        assert client("GET", "/v2/a/manifests/v1").body == raw
        assert client("GET", "/v2/a/tags/list").json["tags"] == ["v1"]
        digest = Image(0).config["digest"]
        for method, target in (
            ("POST", uploads("a")),
            ("POST", uploads("b", mount=digest)),
            ("PATCH", location),
            ("PUT", "/v2/a/manifests/v2"),
            ("DELETE", "/v2/a/manifests/v1"),
            ("DELETE", f"/v2/a/blobs/{digest}"),
        ):
            answer = client(method, target, b"x" * 10)
            assert (answer.status, answer.code) == (405, "DENIED")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_read_only_registry_needs_no_directory(tmp_path):
    with serving(tmp_path / "none", read_only=True) as (_, client):
        assert client("GET", "/v2/").status == 200
        assert client("GET", "/v2/a/tags/list").status == 404
    assert not (tmp_path / "none").exists()


def test_the_smallest_chunk_is_announced(tmp_path):
    with serving(tmp_path, min_chunk=1024) as (_, client):
        answer = client("POST", uploads("a"), b"")
        assert answer.headers["OCI-Chunk-Min-Length"] == "1024"


def test_every_request_can_be_watched(tmp_path):
    """Method, target with its query, status, and bytes of the body."""
    seen: list = []
    with serving(tmp_path, on_request=seen.append) as (_, client):
        digest = client.push_blob("a", b"content")
        client("GET", "/v2/none/tags/list", Accept="x")
    assert [(one.method, one.status, one.received) for one in seen] == [
        ("POST", 202, 0),
        ("PUT", 201, 7),
        ("GET", 404, 0),
    ]
    assert seen[1].path.endswith("?digest=" + digest.replace(":", "%3A"))
    assert seen[2].headers.first("accept") == "x"


def test_an_address_of_ipv6_is_served(tmp_path):
    try:
        with serving(tmp_path, address="::1") as (server, client):
            assert server.url == f"http://[::1]:{server.port}"
            assert client("GET", "/v2/").status == 200
    except ServerError:
        pytest.skip("this machine has no IPv6")


# TLS


@pytest.fixture(scope="module")
def certificates(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("certificates")
    make_certificates(directory)
    return directory


@pytest.fixture
def secure(tmp_path, certificates):
    """A server behind TLS, and a client that trusts it."""
    tls = (certificates / "server.pem", certificates / "server.key")
    context = ssl.create_default_context(cafile=str(certificates / "authority.pem"))
    registry = Registry(tmp_path / "registry")
    server = RegistryServer(registry, tls=tls, client_timeout=1)
    with server, open_client(server.host, context=context) as client:
        yield server, client


def test_an_image_goes_both_ways_over_tls(secure):
    server, client = secure
    assert server.url.startswith("https://127.0.0.1:")
    raw = client.push_image("a", "v1")
    assert client("GET", "/v2/a/manifests/v1").body == raw
    content = random_bytes(3_000_000)
    digest = client.push_blob("a", content)
    assert client("GET", f"/v2/a/blobs/{digest}").body == content
    assert (
        client("GET", f"/v2/a/blobs/{digest}", Range="bytes=5-9").body == content[5:10]
    )


def test_http_to_an_https_port_gets_a_400_that_says_so(secure):
    raw = raw_exchange(secure[0].host, b"GET /v2/ HTTP/1.1\r\n\r\n")
    assert status_of(raw) == 400
    assert b"HTTP request to an HTTPS server" in raw


def test_a_handshake_ends_with_the_server(tmp_path, certificates):
    """However long clients may take for it."""
    tls = (certificates / "server.pem", certificates / "server.key")
    server = RegistryServer(Registry(tmp_path / "r"), tls=tls, client_timeout=30)
    with contextlib.ExitStack() as stack:
        with server:
            stack.enter_context(connections(server, 2))
            stack.enter_context(connections(server, 2, b"\x16\x03\x01"))
            started = time.monotonic()
        assert time.monotonic() - started < 5


def test_a_handshake_that_stalls_holds_nobody_up(secure):
    server, client = secure
    name, _, port = server.host.rpartition(":")
    with socket.create_connection((name, int(port)), 5) as silent:
        with socket.create_connection((name, int(port)), 5) as half:
            half.sendall(b"\x16\x03\x01")
            assert client("GET", "/v2/").status == 200
            assert read_to_end(half) == b""
        assert read_to_end(silent) == b""


@pytest.mark.parametrize("broken", ["certificate", "key", "swapped"])
def test_a_certificate_that_cannot_be_used_is_an_error_of_one_line(
    tmp_path, certificates, broken
):
    tls = [certificates / "server.pem", certificates / "server.key"]
    if broken == "certificate":
        tls[0] = tmp_path / "absent.pem"
    if broken == "key":
        tls[1] = certificates / "authority.key"
    if broken == "swapped":
        tls.reverse()
    with pytest.raises(ServerError, match="cannot use the certificate"):
        RegistryServer(Registry(tmp_path), tls=(tls[0], tls[1]))
