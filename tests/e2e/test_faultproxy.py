"""The fault proxy itself: true to what it passes on, and to what it shall break."""

from __future__ import annotations

import hashlib
import http.client
import select
import socket
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from faultproxy import (
    Effect,
    Exchange,
    Fault,
    FaultProxy,
    lasting_fault,
    transient_faults,
)
from registries import DockerRegistry, make_certificates

BODY = bytes(range(256)) * 400


class Echo(BaseHTTPRequestHandler):
    """Answers PUT and POST with the body's digest, GET with BODY, chunked or not."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.send_response(200)
        if "chunked" in self.path:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for start in range(0, len(BODY), 1000):
                part = BODY[start : start + 1000]
                self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
            self.wfile.write(b"0\r\n\r\n")
            return
        if "eof" in self.path:
            self.send_header("Connection", "close")
            self.close_connection = True
        else:
            self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(BODY)

    do_HEAD = do_GET

    def do_PUT(self) -> None:
        self.server.asked.append(self.path)
        if "early" in self.path:
            self.send_error(413)
            self.close_connection = True
            return
        body = b"".join(self._pieces())
        self.send_response(201)
        self.send_header("Location", f"http://{self.headers['Host']}/there")
        self.send_header("X-Proto", self.headers.get("X-Forwarded-Proto", ""))
        answer = hashlib.sha256(body).hexdigest().encode()
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_POST = do_PATCH = do_PUT

    def _pieces(self) -> Iterator[bytes]:
        if self.headers.get("Transfer-Encoding") != "chunked":
            yield self.rfile.read(int(self.headers.get("Content-Length", 0)))
            return
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (OSError, ValueError):
            self.close_connection = True


class Upstream(ThreadingHTTPServer):
    daemon_threads = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Echo)
        self.asked: list[str] = []

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_port}"


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    server = Upstream()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def through(upstream: Upstream) -> Iterator[Callable[..., Any]]:
    """``through(fault, ...)`` → a proxy before *upstream* and a connection to it."""
    opened: list[Any] = []

    def start(*faults: Fault) -> tuple[FaultProxy, http.client.HTTPConnection]:
        proxy = FaultProxy(upstream.host, faults)
        proxy.__enter__()
        connection = http.client.HTTPConnection(proxy.host, timeout=10)
        opened.append((proxy, connection))
        return proxy, connection

    yield start
    for proxy, connection in opened:
        connection.close()
        proxy.__exit__(None, None, None)


def ask(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: Any = None,
    **more: Any,
) -> tuple[int, bytes]:
    connection.request(method, path, body, **more)
    with connection.getresponse() as response:
        return response.status, response.read()


def test_bodies_of_every_framing_pass_unharmed(through: Any) -> None:
    proxy, connection = through()
    digest = hashlib.sha256(BODY).hexdigest().encode()
    for path in ("/length", "/chunked"):
        assert ask(connection, "GET", path) == (200, BODY)
    assert ask(connection, "HEAD", "/length") == (200, b"")
    assert ask(connection, "PUT", "/x", BODY) == (201, digest)
    parts = iter([BODY[:70000], BODY[70000:]])
    assert ask(connection, "PUT", "/x", parts, encode_chunked=True) == (201, digest)
    assert ask(connection, "POST", "/x") == (201, hashlib.sha256().hexdigest().encode())
    assert ask(connection, "GET", "/eof") == (200, BODY)
    assert [exchange.status for exchange in proxy.log] == [
        200,
        200,
        200,
        *[201] * 3,
        200,
    ]
    assert proxy.log[3].sent == len(BODY)
    assert proxy.log[0].received == len(BODY)


def test_one_connection_serves_many_requests(through: Any) -> None:
    _, connection = through()
    connection.connect()
    first = connection.sock
    for _ in range(3):
        ask(connection, "PUT", "/x", BODY)
    assert connection.sock is first


def test_the_host_is_passed_on_so_that_locations_lead_back(through: Any) -> None:
    proxy, connection = through()
    connection.request("PUT", "/x", b"")
    with connection.getresponse() as response:
        assert response.headers["Location"] == f"http://{proxy.host}/there"


def test_an_early_answer_is_read_in_the_middle_of_a_body(through: Any) -> None:
    _, connection = through()
    raw = socket.create_connection((connection.host, connection.port), 10)
    with raw, raw.makefile("rb") as reader:
        raw.sendall(b"PUT /early HTTP/1.1\r\nHost: x\r\nContent-Length: 9000\r\n\r\nx")
        time.sleep(0.2)
        raw.sendall(b"y")
        assert reader.readline().startswith(b"HTTP/1.1 413 ")  # words differ by Python


def test_an_expectation_is_met_by_the_proxy(through: Any) -> None:
    _, connection = through()
    raw = socket.create_connection((connection.host, connection.port), 10)
    with raw, raw.makefile("rb") as reader:
        raw.sendall(
            b"PUT /x HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n"
            b"Expect: 100-continue\r\n\r\n"
        )
        assert reader.readline() == b"HTTP/1.1 100 Continue\r\n"
        reader.readline()
        raw.sendall(b"ab")
        assert reader.readline() == b"HTTP/1.1 201 Created\r\n"


@pytest.mark.parametrize("reset", [True, False], ids=["RST", "FIN"])
@pytest.mark.parametrize("after", [0, 1, 50_000])
def test_a_request_is_cut_after_so_many_bytes(
    through: Any, upstream: Upstream, after: int, reset: bool
) -> None:
    proxy, connection = through(
        Fault(Effect.CUT_REQUEST, "PUT", after=after, reset=reset)
    )
    with pytest.raises((OSError, http.client.HTTPException)):
        ask(connection, "PUT", "/x", BODY)
    connection.close()
    assert ask(connection, "PUT", "/x", BODY)[0] == 201
    assert [exchange.sent for exchange in proxy.log] == [after, len(BODY)]
    assert proxy.log[0].effects == (Effect.CUT_REQUEST,)
    assert proxy.sent() == after + len(BODY)


@pytest.mark.parametrize(
    ("reset", "error"),
    [(True, ConnectionResetError), (False, None)],
    ids=["RST", "FIN"],
)
def test_a_cut_is_a_reset_or_an_end_as_asked(
    through: Any, reset: bool, error: type[Exception] | None
) -> None:
    _, connection = through(Fault(Effect.LOSE_ANSWER, reset=reset))
    raw = socket.create_connection((connection.host, connection.port), 10)
    with raw:
        raw.sendall(b"PUT /x HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        if error is None:
            assert raw.recv(10) == b""
        else:
            with pytest.raises(error):
                raw.recv(10)


@pytest.mark.parametrize("path", ["/length", "/chunked"])
@pytest.mark.parametrize("after", [0, 1, 60_000])
def test_an_answer_is_cut_after_so_many_bytes(
    through: Any, path: str, after: int
) -> None:
    proxy, connection = through(Fault(Effect.CUT_ANSWER, after=after, reset=False))
    connection.request("GET", path)
    with (
        connection.getresponse() as response,
        pytest.raises(http.client.IncompleteRead) as caught,
    ):
        response.read()
    assert BODY.startswith(caught.value.partial)
    assert proxy.log[0].received == after
    if path == "/length":
        assert len(caught.value.partial) == after


def test_a_lost_answer_was_done_all_the_same(through: Any, upstream: Upstream) -> None:
    proxy, connection = through(Fault(Effect.LOSE_ANSWER, "POST"))
    with pytest.raises((OSError, http.client.HTTPException)):
        ask(connection, "POST", "/x", b"abc")
    assert upstream.asked == ["/x"]
    assert (proxy.log[0].sent, proxy.log[0].status) == (3, 0)


@pytest.mark.parametrize(
    ("effect", "asked"), [(Effect.REPLACE_REQUEST, []), (Effect.REPLACE_ANSWER, ["/x"])]
)
def test_an_answer_is_replaced_before_or_after_the_deed(
    through: Any, upstream: Upstream, effect: Effect, asked: list[str]
) -> None:
    fault = Fault(effect, status=429, headers={"Retry-After": "7"}, body=b"slow down")
    _, connection = through(fault)
    connection.request("PUT", "/x", BODY)
    with connection.getresponse() as response:
        assert (response.status, response.headers["Retry-After"]) == (429, "7")
        assert response.read() == b"slow down"
    assert upstream.asked == asked
    assert ask(connection, "PUT", "/x", BODY)[0] == 201


def test_one_byte_of_an_answer_is_changed(through: Any) -> None:
    _, connection = through(Fault(Effect.CORRUPT_ANSWER, after=70_000))
    body = ask(connection, "GET", "/length")[1]
    assert len(body) == len(BODY)
    assert [at for at in range(len(BODY)) if body[at] != BODY[at]] == [70_000]


@pytest.mark.parametrize(
    "fault",
    [
        Fault(Effect.DELAY, seconds=0.3),
        Fault(Effect.DELAY_ANSWER, seconds=0.3),
        Fault(Effect.THROTTLE, rate=300_000),
    ],
    ids=lambda fault: fault.effect.name,
)
def test_time_is_taken(through: Any, fault: Fault) -> None:
    _, connection = through(fault)
    began = time.monotonic()
    assert ask(connection, "PUT", "/x", BODY)[0] == 201
    assert 0.3 <= time.monotonic() - began < 3
    began = time.monotonic()
    ask(connection, "PUT", "/x", BODY)
    assert time.monotonic() - began < 0.3


def test_the_nth_request_that_matches_and_the_next_ones_are_met(through: Any) -> None:
    proxy, connection = through(
        Fault(Effect.REPLACE_REQUEST, "PUT", nth=2, times=2, status=500)
    )
    asked = ["PUT", "GET", "PUT", "GET", "PUT", "PUT"]
    statuses = [ask(connection, method, "/x")[0] for method in asked]
    assert statuses == [201, 200, 500, 200, 500, 201]
    assert len(proxy.exchanges("PUT")) == 4
    assert len(proxy.exchanges("GET", "other")) == 2


def test_killing_breaks_every_connection(through: Any) -> None:
    proxy, connection = through(Fault(Effect.KILL, "PUT", after=10))
    other = http.client.HTTPConnection(proxy.host, timeout=10)
    ask(other, "GET", "/x")
    assert other.sock is not None
    with pytest.raises((OSError, http.client.HTTPException)):
        ask(connection, "PUT", "/x", BODY)
    # one connection is cut after the other: wait for this one's end to be seen
    assert select.select([other.sock], [], [], 10)[0]
    with pytest.raises((OSError, http.client.HTTPException)):
        ask(other, "GET", "/x")
    other.close()
    assert ask(other, "GET", "/x")[0] == 200
    other.close()


def test_the_end_of_the_proxy_waits_for_nobody(upstream: Upstream) -> None:
    began = time.monotonic()
    with FaultProxy(upstream.host, [Fault(Effect.DELAY, seconds=60)]) as proxy:
        connection = http.client.HTTPConnection(proxy.host, timeout=10)
        connection.request("GET", "/x")
        time.sleep(0.1)
    connection.close()
    assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        ("/v2/", "base"),
        ("/v2/a/b/blobs/uploads/", "upload"),
        ("/v2/a/blobs/uploads/123-456?_state=x", "upload"),
        ("/v2/a/blobs/sha256:12", "blob"),
        ("/v2/a/manifests/1", "manifest"),
        ("/v2/a/tags/list?n=1", "tags"),
        ("/token", "other"),
    ],
)
def test_paths_have_kinds(target: str, kind: str) -> None:
    assert Exchange("GET", target).kind == kind


def test_a_seed_chooses_the_same_faults_again() -> None:
    schedules = [transient_faults(seed, 3) for seed in range(50)]
    assert schedules == [transient_faults(seed, 3) for seed in range(50)]
    effects = {fault.effect for faults in schedules for fault in faults}
    assert effects == {*Effect} - {
        *[Effect.CORRUPT_ANSWER, Effect.HOLD, Effect.STALL, Effect.HOLD_ANSWER]
    }
    assert {len(faults) for faults in schedules} == {1, 2, 3}
    assert not any(fault.stays for faults in schedules for fault in faults)
    assert all(lasting_fault(seed).stays for seed in range(50))


class TestSchedules:
    """Faults that only requests to one repository meet."""

    def test_each_counts_its_own_requests(self, through: Any) -> None:
        proxy, connection = through()
        fault = Fault(Effect.REPLACE_REQUEST, "PUT", nth=2, status=500)
        one, two = proxy.schedule("one", fault), proxy.schedule("two", fault)
        asked = ["one", "two", "one", "three", "two", "one"]
        paths = [f"/v2/{name}/manifests/1" for name in asked]
        statuses = [ask(connection, "PUT", path, b"x")[0] for path in paths]
        assert statuses == [201, 201, 500, 201, 500, 201]
        assert one.requests == ["PUT /v2/one/manifests/1"] * 3
        assert two.met == [fault]
        assert len(proxy.log) == 6

    def test_killing_breaks_connections_of_its_own_only(self, through: Any) -> None:
        proxy, connection = through()
        proxy.schedule("one", Fault(Effect.KILL, "PUT", after=10))
        other = http.client.HTTPConnection(proxy.host, timeout=10)
        ask(other, "GET", "/v2/two/manifests/1")
        with pytest.raises((OSError, http.client.HTTPException)):
            ask(connection, "PUT", "/v2/one/manifests/1", BODY)
        assert ask(other, "GET", "/v2/two/manifests/1")[0] == 200
        other.close()

    @pytest.mark.parametrize(
        ("effect", "reaches"),
        [(Effect.HOLD, False), (Effect.STALL, False), (Effect.HOLD_ANSWER, True)],
    )
    def test_a_request_is_held_until_the_client_is_gone(
        self, effect: Effect, reaches: bool, through: Any, upstream: Upstream
    ) -> None:
        proxy, connection = through()
        schedule = proxy.schedule("one", Fault(effect, "PUT", after=len(BODY)))
        connection.request("PUT", "/v2/one/blobs/uploads/1", BODY)
        assert schedule.held.wait(10)
        assert schedule.sent == len(BODY) - (not reaches)
        assert proxy.log[0].status == 0
        connection.close()
        proxy.settle()
        assert ask(connection, "GET", "/v2/one/tags/list")[0] == 200

    def test_its_end_waits_for_nothing_that_is_held(self, upstream: Upstream) -> None:
        with FaultProxy(upstream.host) as proxy:
            schedule = proxy.schedule("one", Fault(Effect.STALL, "PUT"))
            connection = http.client.HTTPConnection(proxy.host, timeout=10)
            connection.request("PUT", "/v2/one/manifests/1", b"x")
            assert schedule.held.wait(10)
        connection.close()


def test_an_early_answer_of_our_own_ends_the_connection(through: Any) -> None:
    fault = Fault(Effect.ANSWER_EARLY, "PUT", status=503, body=b"no")
    proxy, connection = through(fault)
    raw = socket.create_connection((connection.host, connection.port), 10)
    with raw, raw.makefile("rb") as reader:
        raw.sendall(b"PUT /x HTTP/1.1\r\nHost: x\r\nContent-Length: 9000\r\n\r\nx")
        assert reader.read().endswith(b"\r\n\r\nno")
    assert proxy.sent() == 0


def test_a_request_without_a_body_is_cut_before_the_upstream_has_it(
    through: Any, upstream: Upstream
) -> None:
    _, connection = through(Fault(Effect.CUT_REQUEST, after=9))
    with pytest.raises((OSError, http.client.HTTPException)):
        ask(connection, "PUT", "/x")
    assert upstream.asked == []


@pytest.mark.parametrize("after", [0, 9, 60])
def test_an_answer_is_cut_inside_its_head(after: int, through: Any) -> None:
    _, connection = through(Fault(Effect.CUT_HEAD, after=after, reset=False))
    raw = socket.create_connection((connection.host, connection.port), 10)
    with raw, raw.makefile("rb") as reader:
        raw.sendall(b"GET /length HTTP/1.1\r\nHost: x\r\n\r\n")
        assert len(reader.read()) == after


def push_blob(
    connection: http.client.HTTPConnection, repository: str, content: bytes
) -> int:
    """Upload *content* the long way, along the Locations given; the last status."""
    location = ""
    for method, body in (("POST", b""), ("PATCH", content), ("PUT", b"")):
        target = location or f"/v2/{repository}/blobs/uploads/"
        if method == "PUT":
            target += "&digest=sha256:" + hashlib.sha256(content).hexdigest()
        connection.request(method, target, body)
        with connection.getresponse() as response:
            location = response.headers["Location"]
            response.read()
            status = response.status
    return status


def test_a_real_registry_is_reached_over_tls_and_leads_back_to_the_proxy(
    shared_docker_registry: DockerRegistry, tmp_path: Path
) -> None:
    """The registry behind speaks HTTP, the Locations that it gives are HTTPS."""
    authority = make_certificates(tmp_path)
    context = ssl.create_default_context(cafile=str(authority))
    pair = (tmp_path / "server.pem", tmp_path / "server.key")
    with FaultProxy(shared_docker_registry.host, tls=pair) as proxy:
        connection = http.client.HTTPSConnection(
            proxy.host, timeout=10, context=context
        )
        connection.request("POST", "/v2/faultproxy/tls/blobs/uploads/")
        with connection.getresponse() as response:
            assert response.headers["Location"].startswith(f"https://{proxy.host}/v2/")
            response.read()
        assert push_blob(connection, "faultproxy/tls", BODY) == 201
        connection.close()
        assert proxy.sent("upload") == len(BODY)
        assert {exchange.kind for exchange in proxy.log} == {"upload"}


def test_a_real_registry_loses_a_patch_that_is_cut(
    shared_docker_registry: DockerRegistry,
) -> None:
    fault = Fault(Effect.CUT_REQUEST, "PATCH", "upload", after=65_000)
    with FaultProxy(shared_docker_registry.host, [fault]) as proxy:
        connection = http.client.HTTPConnection(proxy.host, timeout=10)
        with pytest.raises((OSError, http.client.HTTPException)):
            push_blob(connection, "faultproxy/cut", BODY)
        connection.close()
        assert push_blob(connection, "faultproxy/cut", BODY) == 201
        connection.close()
        assert proxy.sent("upload") == 65_000 + len(BODY)
