"""Requests over real sockets, to peers that behave badly."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from typing import Iterator

import pytest
import urllib3
from peers import answer, peer, read_body, read_head, reset, wait_for_end
from registries import make_certificates

from dockerpush.errors import ArchiveError, Cancelled, NetworkError, TransientError
from dockerpush.registry.answers import PIECE
from dockerpush.registry.failures import SpeaksPlainHTTP
from dockerpush.registry.locations import Address
from dockerpush.registry.transport import Transport, TransportSettings
from dockerpush.system.cancellation import Cancellation

QUICK = 0.5
"""Seconds within which a cancelled request must end."""


@pytest.fixture
def cancellation() -> Iterator[Cancellation]:
    with Cancellation() as cancellation:
        yield cancellation


@pytest.fixture
def transport(cancellation) -> Iterator[Transport]:
    transport = Transport(TransportSettings(timeout=10), cancellation, "127.0.0.1")
    yield transport
    transport.close()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    directory = tmp_path_factory.mktemp("certificates")
    make_certificates(directory)
    return directory


@pytest.fixture
def secure(cancellation, certificates) -> Iterator[Transport]:
    """A transport that trusts the tests' own authority."""

    def trusting(host_port: str) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=certificates / "authority.pem")

    settings = TransportSettings(timeout=10, ssl_context=trusting)
    transport = Transport(settings, cancellation, "127.0.0.1")
    yield transport
    transport.close()


def get(transport: Transport, url: str) -> bytes:
    with transport.request("GET", url, headers={}) as response:
        return response.read(1 << 20)


def pieces(count: int) -> Iterator[memoryview]:
    for _ in range(count):
        yield memoryview(bytes(PIECE))


def put(transport: Transport, url: str, count: int) -> int:
    with transport.request(
        *("PUT", url),
        headers={},
        body=pieces(count),
        size=count * PIECE,
        patience=15.0,
    ) as response:
        response.read(1 << 20)
        return response.status


def echo_requests(sock: socket.socket) -> None:
    """Answer each request with its head and the size of its body."""
    while True:
        head = read_head(sock)
        body = read_body(sock, head)
        sock.sendall(answer(200, f"{head}{len(body)}".encode()))


# what goes over the wire


def test_a_body_has_a_length_and_is_never_chunked(transport):
    """ACR answers 400 to a chunked body (harbor#23016)."""
    with (
        peer(echo_requests) as port,
        transport.request(
            "PATCH",
            f"http://127.0.0.1:{port}/v2/?a=%2f;b&c",
            headers={"X": "y"},
            body=[b"abc", memoryview(b"defg"), b""],
            size=7,
        ) as response,
    ):
        seen = response.read(10_000).decode()
    assert seen.startswith("PATCH /v2/?a=%2")
    assert "Content-Length: 7\r\n" in seen
    assert "transfer-encoding" not in seen.lower()
    assert seen.endswith("\r\n\r\n7")


def test_a_request_without_a_body_says_so(transport):
    with (
        peer(echo_requests) as port,
        transport.request("POST", f"http://127.0.0.1:{port}/", headers={}) as response,
    ):
        assert b"Content-Length: 0\r\n" in response.read(10_000)


def test_a_connection_is_used_again_when_its_answer_was_not_read(transport):
    ports: set[int] = set()

    def handle(sock: socket.socket) -> None:
        ports.add(sock.getpeername()[1])
        echo_requests(sock)

    with peer(handle) as port:
        for _ in range(3):
            transport.request("GET", f"http://127.0.0.1:{port}/", headers={}).close()
    assert len(ports) == 1


def test_a_connection_with_much_left_on_it_is_closed(transport):
    def handle(sock: socket.socket) -> None:
        read_head(sock)
        sock.sendall(answer(200, bytes(1 << 20)))
        wait_for_end(sock)

    with peer(handle) as port:
        url = f"http://127.0.0.1:{port}/"
        for _ in range(2):
            with transport.request("GET", url, headers={}) as response:
                assert len(response.read(10)) == 10


def test_a_stale_connection_is_replaced(transport):
    def handle(sock: socket.socket) -> None:
        read_head(sock)
        sock.sendall(answer())

    with peer(handle) as port:
        for _ in range(3):
            assert get(transport, f"http://127.0.0.1:{port}/") == b""
            time.sleep(0.05)


def test_an_endless_answer_is_not_kept(transport):
    def handle(sock: socket.socket) -> None:
        read_head(sock)
        sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            sock.sendall(b"10000\r\n" + bytes(65536) + b"\r\n")

    with peer(handle) as port:
        url = f"http://127.0.0.1:{port}/"
        response = transport.request("GET", url, headers={})
        with response, pytest.raises(NetworkError, match="more than"):
            response.read_json("a manifest")


def test_a_slow_link_that_moves_is_not_killed(cancellation):
    """64 KiB now and then: each piece in time, the body longer than the time-out."""

    def handle(sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        head, left = read_head(sock), 24 * PIECE
        assert head
        while left:
            left -= len(sock.recv(min(left, 512 * 1024), socket.MSG_WAITALL))
            time.sleep(0.1)
        sock.sendall(answer(201))

    transport = Transport(TransportSettings(timeout=0.6), cancellation, "127.0.0.1")
    started = time.monotonic()
    with peer(handle) as port:
        assert put(transport, f"http://127.0.0.1:{port}/", 24) == 201
    assert time.monotonic() - started > 0.6
    transport.close()


def test_a_registry_may_think_about_a_put_longer_than_about_a_get(cancellation):
    def handle(sock: socket.socket) -> None:
        head = read_head(sock)
        read_body(sock, head)
        time.sleep(0.3)
        sock.sendall(answer(201))

    transport = Transport(TransportSettings(timeout=0.1), cancellation, "127.0.0.1")
    with peer(handle) as port:
        assert put(transport, f"http://127.0.0.1:{port}/", 1) == 201
    with (  # another one: the first may hang up at any time
        peer(handle) as port,
        pytest.raises(TransientError, match=r"no answer from .* within 0\.1 s"),
    ):
        get(transport, f"http://127.0.0.1:{port}/")
    transport.close()


# breaks


def test_a_reset_in_the_body_is_a_break_while_sending(transport):
    def handle(sock: socket.socket) -> None:
        read_head(sock)
        sock.recv(100_000)
        reset(sock)

    with peer(handle) as port, pytest.raises(TransientError) as caught:
        put(transport, f"http://127.0.0.1:{port}/v2/x?_state=secret", 64)
    assert caught.value.sending
    assert "secret" not in str(caught.value)
    assert f"of {64 * PIECE} bytes" in str(caught.value)


def test_an_end_before_the_answer_to_a_body_is_a_break_while_sending(transport):
    def handle(sock: socket.socket) -> None:
        read_head(sock)
        sock.recv(100)

    with peer(handle) as port, pytest.raises(TransientError) as caught:
        put(transport, f"http://127.0.0.1:{port}/", 64)
    assert caught.value.sending


def test_a_body_that_nobody_takes_is_given_up_in_time(cancellation):
    def handle(sock: socket.socket) -> None:
        read_head(sock)
        ended.wait(10)

    ended = threading.Event()
    settings = TransportSettings(timeout=0.3)
    transport = Transport(settings, cancellation, "127.0.0.1")
    started = time.monotonic()
    with peer(handle) as port:
        try:
            with pytest.raises(TransientError, match="stalled") as caught:
                put(transport, f"http://127.0.0.1:{port}/", 100)
        finally:
            ended.set()
    assert caught.value.sending
    assert time.monotonic() - started < 8
    transport.close()


def test_an_end_without_an_answer_is_transient(transport):
    with (
        peer(lambda sock: read_head(sock) and None) as port,
        pytest.raises(TransientError) as caught,
    ):
        get(transport, f"http://127.0.0.1:{port}/")
    assert not caught.value.sending


@pytest.mark.parametrize(
    "said", [b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 abc\r\n\r\n", b"\x00" * 70_000]
)
def test_what_is_not_http_is_an_error_of_the_network(transport, said):
    def handle(sock: socket.socket) -> None:
        read_head(sock)
        sock.sendall(said)
        wait_for_end(sock)

    with peer(handle) as port, pytest.raises(NetworkError):
        get(transport, f"http://127.0.0.1:{port}/")


def test_a_body_that_ends_early_is_an_error(transport):
    def handle(sock: socket.socket) -> None:
        read_head(sock)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc")

    with peer(handle) as port, pytest.raises(TransientError):
        get(transport, f"http://127.0.0.1:{port}/")


def test_a_body_goes_straight_into_the_buffer_that_is_given(transport, monkeypatch):
    def handle(sock: socket.socket) -> None:
        read_head(sock)
        sock.sendall(answer(200, bytes(range(256)) * 1000))

    def copying(*_: object) -> bytes:
        raise AssertionError("urllib3 copies what it reads")

    monkeypatch.setattr(urllib3.HTTPResponse, "read", copying)
    buffer = memoryview(bytearray(PIECE))
    with (
        peer(handle) as port,
        transport.request("GET", f"http://127.0.0.1:{port}/", headers={}) as response,
    ):
        assert response.readinto(buffer) == 256_000
        assert response.readinto(buffer[256_000:]) == 0
    assert buffer[:256_000] == bytes(range(256)) * 1000


def test_a_connection_that_broke_is_not_read_again_when_its_answer_is_closed(
    cancellation,
):
    def handle(sock: socket.socket) -> None:
        read_head(sock)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc")
        ended.append(sock.recv(1))

    ended: list[bytes] = []
    settings = TransportSettings(timeout=0.3)
    transport = Transport(settings, cancellation, "127.0.0.1")
    with peer(handle) as port:
        response = transport.request("GET", f"http://127.0.0.1:{port}/", headers={})
        with pytest.raises(TransientError, match="no answer"):
            response.read(100)
        response.readinto = None
        response.close()
    transport.close()
    assert ended == [b""]


def test_a_file_that_cannot_be_read_is_no_failure_of_the_network(transport):
    def unreadable() -> Iterator[bytes]:
        yield b"abc"
        raise OSError(5, "Input/output error")

    with (
        peer(echo_requests) as port,
        pytest.raises(ArchiveError, match="input/output error"),
    ):
        transport.request(
            "PUT",
            f"http://127.0.0.1:{port}/",
            headers={},
            body=unreadable(),
            size=100,
        )


# answers that come before the body is through


def refuse_and_close(sock: socket.socket) -> None:
    read_head(sock)
    sock.recv(1000)
    sock.sendall(answer(413, b"too large", "Connection: close"))


def refuse_and_wait(sock: socket.socket) -> None:
    read_head(sock)
    sock.recv(1000)
    sock.sendall(answer(413, b"too large"))
    time.sleep(1)


@pytest.mark.parametrize("refuse", [refuse_and_close, refuse_and_wait])
def test_an_early_413_is_read(transport, refuse):
    with peer(refuse) as port:
        assert put(transport, f"http://127.0.0.1:{port}/", 400) == 413


def test_an_early_413_is_read_through_tls(secure, certificates):
    """nginx: answers, reads on for a moment, and closes."""

    def handle(sock: socket.socket) -> None:
        assert read_body(sock, read_head(sock)) == b""
        sock.sendall(answer())
        read_head(sock)
        sock.sendall(answer(413, b"too large", "Connection: close"))
        sock.settimeout(0.5)
        wait_for_end(sock)

    with peer(handle, certificates) as port:
        assert get(secure, f"https://127.0.0.1:{port}/") == b""
        assert put(secure, f"https://127.0.0.1:{port}/", 40) == 413


def test_a_connection_with_half_a_body_on_it_is_not_used_again(transport, cancellation):
    ended = threading.Event()

    def handle(sock: socket.socket) -> None:
        read_head(sock)
        sock.recv(1000)
        sock.sendall(answer(413, b"too large"))
        ended.wait(1)

    with peer(handle) as port:
        try:
            assert put(transport, f"http://127.0.0.1:{port}/", 400) == 413
            assert len(cancellation._sockets) == 0
        finally:
            ended.set()


# cancelling


def cancelled_after(seconds: float, cancellation: Cancellation, work) -> float:
    """How long *work* took to end after it was cancelled."""
    moments: list[float] = []

    def cancel() -> None:
        moments.append(time.monotonic())
        cancellation.cancel("the test is over")

    timer = threading.Timer(seconds, cancel)
    timer.start()
    try:
        with pytest.raises(Cancelled, match="the test is over"):
            work()
        return time.monotonic() - moments[0]
    finally:
        timer.join()


def test_waiting_for_an_answer_is_cancelled_at_once(transport, cancellation):
    with peer(lambda sock: wait_for_end(sock)) as port:
        url = f"http://127.0.0.1:{port}/"
        assert cancelled_after(0.2, cancellation, lambda: get(transport, url)) < QUICK


def test_waiting_for_the_answer_to_a_put_is_cancelled_at_once(transport, cancellation):
    with peer(lambda sock: wait_for_end(sock)) as port:
        url = f"http://127.0.0.1:{port}/"
        assert (
            cancelled_after(0.2, cancellation, lambda: put(transport, url, 2)) < QUICK
        )


def test_sending_to_somebody_who_does_not_read_is_cancelled_at_once(
    transport, cancellation
):
    ended = threading.Event()
    with peer(lambda sock: ended.wait(10) and None) as port:
        url = f"http://127.0.0.1:{port}/"
        taken = cancelled_after(0.3, cancellation, lambda: put(transport, url, 400))
        ended.set()
    assert taken < QUICK


@pytest.mark.parametrize("more", ["", "Connection: close\r\n"])
@pytest.mark.parametrize("tls", [False, True])
def test_reading_a_body_is_cancelled_at_once(
    secure, cancellation, certificates, more, tls
):
    def handle(sock: socket.socket) -> None:
        read_head(sock)
        sock.sendall(f"HTTP/1.1 200 OK\r\n{more}Content-Length: 9\r\n\r\na".encode())
        wait_for_end(sock)

    with peer(handle, certificates if tls else None) as port:
        url = f"{'https' if tls else 'http'}://127.0.0.1:{port}/"
        assert cancelled_after(0.3, cancellation, lambda: get(secure, url)) < QUICK


def test_a_tls_handshake_is_cancelled_at_once(secure, cancellation):
    with peer(lambda sock: wait_for_end(sock)) as port:
        url = f"https://127.0.0.1:{port}/"
        assert cancelled_after(0.2, cancellation, lambda: get(secure, url)) < QUICK


def test_a_connect_in_progress_is_cancelled_at_once(transport, cancellation):
    """A listener whose queue is full does not answer a SYN."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        waiting = []
        try:
            for _ in range(4):
                waiting.append(socket.socket())
                waiting[-1].setblocking(False)
                waiting[-1].connect_ex(address)
            url = f"http://127.0.0.1:{address[1]}/"
            taken = cancelled_after(0.3, cancellation, lambda: get(transport, url))
        finally:
            for sock in waiting:
                sock.close()
    assert taken < 0.2


def test_a_connect_without_an_answer_is_given_up_in_time(cancellation):
    settings = TransportSettings(connect_timeout=0.3)
    transport = Transport(settings, cancellation, "127.0.0.1")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        with socket.create_connection(address), socket.socket() as second:
            second.setblocking(False)
            second.connect_ex(address)
            with pytest.raises(TransientError, match="no answer in time"):
                get(transport, f"http://127.0.0.1:{address[1]}/")
    transport.close()


def test_nothing_is_sent_once_cancelled(transport, cancellation):
    cancellation.cancel("over")
    with pytest.raises(Cancelled):
        get(transport, "http://127.0.0.1:9/")


def test_no_socket_is_watched_after_its_end(secure, cancellation, certificates):
    with peer(echo_requests, certificates) as port:
        get(secure, f"https://127.0.0.1:{port}/")
        assert len(cancellation._sockets) == 1
        secure.close()
        assert len(cancellation._sockets) == 0


# names, addresses, TLS


def test_a_refused_connection_says_what_to_check(transport):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(TransientError, match=f"127.0.0.1:{port}: connection refus"):
            get(transport, f"http://127.0.0.1:{port}/")


def resolver(**hosts: str):
    def resolve(host: str, port: int) -> list[Address]:
        if host not in hosts:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [
            Address(socket.AF_INET, (ip, port)) for ip in hosts[host].split(",") if ip
        ]

    return resolve


def test_an_unknown_host_is_a_definite_failure(cancellation):
    settings = TransportSettings(resolve=resolver())
    transport = Transport(settings, cancellation, "nowhere.test")
    with pytest.raises(NetworkError, match=r"'nowhere\.test'") as caught:
        get(transport, "http://nowhere.test/")
    assert not isinstance(caught.value, TransientError)


def test_the_next_address_is_tried_when_one_does_not_answer(cancellation):
    with peer(echo_requests) as port:
        settings = TransportSettings(resolve=resolver(two="127.0.0.2,127.0.0.1"))
        transport = Transport(settings, cancellation, "two")
        assert get(transport, f"http://two:{port}/")
        transport.close()


@pytest.mark.parametrize(
    ("home", "foreign", "allowed"),
    [
        ("93.184.216.34", "127.0.0.1", False),
        ("10.0.0.5", "127.0.0.1", False),
        ("127.0.0.1", "127.0.0.1", True),
    ],
)
def test_a_foreign_host_must_not_be_closer_than_the_registry(
    cancellation, home, foreign, allowed
):
    """By its address, whatever its name is (ggcr#2440)."""
    with peer(echo_requests) as port:
        settings = TransportSettings(resolve=resolver(registry=home, other=foreign))
        transport = Transport(settings, cancellation, "registry")
        if allowed:
            assert get(transport, f"http://other:{port}/")
        else:
            with pytest.raises(NetworkError, match="does not follow"):
                get(transport, f"http://other:{port}/")
        transport.close()


def test_tls_is_verified(secure, transport, certificates):
    with peer(echo_requests, certificates) as port:
        assert get(secure, f"https://127.0.0.1:{port}/")
        with pytest.raises(NetworkError, match="--cacert") as caught:
            get(transport, f"https://127.0.0.1:{port}/")
    assert not isinstance(caught.value, TransientError)


def test_a_certificate_for_another_name_is_refused(cancellation, certificates):
    def trusting(host_port: str) -> ssl.SSLContext:
        assert host_port == f"elsewhere.test:{port}"
        return ssl.create_default_context(cafile=certificates / "authority.pem")

    with peer(echo_requests, certificates) as port:
        transport = Transport(
            TransportSettings(
                ssl_context=trusting,
                resolve=resolver(**{"elsewhere.test": "127.0.0.1"}),
            ),
            cancellation,
            "elsewhere.test",
        )
        with pytest.raises(NetworkError, match="another name"):
            get(transport, f"https://elsewhere.test:{port}/")


def test_verification_can_be_switched_off(cancellation, certificates):
    with peer(echo_requests, certificates) as port:
        settings = TransportSettings(
            ssl_context=lambda host: ssl._create_unverified_context()
        )
        transport = Transport(settings, cancellation, "127.0.0.1")
        assert get(transport, f"https://127.0.0.1:{port}/")
        transport.close()


def test_plain_http_behind_an_https_port_is_reported(transport):
    def handle(sock: socket.socket) -> None:
        sock.recv(10)
        sock.sendall(answer(400, b"malformed HTTP request"))
        sock.settimeout(1)
        wait_for_end(sock)

    with peer(handle) as port, pytest.raises(SpeaksPlainHTTP, match="--plain-http"):
        get(transport, f"https://127.0.0.1:{port}/")


def test_https_behind_a_plain_http_port_is_reported(transport):
    """What OpenSSL sends to somebody who does not begin with a handshake."""

    def handle(sock: socket.socket) -> None:
        read_head(sock)
        sock.sendall(b"\x15\x03\x01\x00\x02\x02\x46\r\n")
        sock.settimeout(1)
        wait_for_end(sock)

    with (
        peer(handle) as port,
        pytest.raises(NetworkError, match="leave out --plain-http"),
    ):
        get(transport, f"http://127.0.0.1:{port}/")


def test_a_server_that_closes_in_the_handshake_may_be_asked_again(transport):
    with (
        peer(lambda sock: sock.recv(10) and None) as port,
        pytest.raises(TransientError),
    ):
        get(transport, f"https://127.0.0.1:{port}/")


@pytest.mark.parametrize(
    "url", ["ftp://a/", "http://", "http://a b/", "/v2/", "http://[1/"]
)
def test_what_is_no_url_is_refused(transport, url):
    with pytest.raises(NetworkError, match="not a URL"):
        get(transport, url)


def test_a_header_with_a_line_break_is_not_sent(transport):
    with (
        peer(echo_requests) as port,
        pytest.raises(NetworkError, match="not a valid request"),
    ):
        transport.request(
            "GET", f"http://127.0.0.1:{port}/", headers={"X": "a\r\nY: b"}
        )


# proxies


def through(proxy: str, cancellation: Cancellation, **more) -> Transport:
    settings = TransportSettings(proxy_for=lambda url: proxy, timeout=10, **more)
    return Transport(settings, cancellation, "registry.test")


def test_a_proxy_gets_whole_urls_and_its_password(cancellation):
    with peer(echo_requests) as port:
        transport = through(f"http://us%40er:p%3Aw@127.0.0.1:{port}", cancellation)
        seen = get(transport, "http://registry.test:81/v2/?n=1").decode()
        transport.close()
    assert seen.startswith("GET http://registry.test:81/v2/?n=1 HTTP/1.1\r\n")
    assert "Host: registry.test:81\r\n" in seen
    assert "proxy-authorization: basic dxnaxi6cdp3" not in seen
    assert "dXNAZXI6cDp3" in seen  # us@er:p:w


def test_https_goes_through_a_tunnel(cancellation, certificates):
    """The proxy sees the name alone, and its password does not reach the registry."""
    heads: list[str] = []

    def tunnel(sock: socket.socket) -> None:
        heads.append(read_head(sock))
        with socket.create_connection(("127.0.0.1", registry)) as beyond:
            sock.sendall(b"HTTP/1.1 200 Connected\r\n\r\n")
            back = threading.Thread(target=pump, args=[beyond, sock])
            back.start()
            pump(sock, beyond)
            back.join()

    def pump(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def trusting(host_port: str) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=certificates / "authority.pem")

    with peer(echo_requests, certificates) as registry, peer(tunnel) as port:
        transport = through(
            f"http://u:secret@127.0.0.1:{port}", cancellation, ssl_context=trusting
        )
        seen = get(transport, "https://localhost:444/v2/").decode()
        transport.close()
    assert heads[0].startswith("CONNECT localhost:444 HTTP/1.")
    assert "roxy-" not in seen


@pytest.mark.parametrize(
    ("status", "transient"), [(407, False), (403, False), (502, True), (503, True)]
)
def test_a_proxy_that_refuses_is_named(cancellation, status, transient):
    def handle(sock: socket.socket) -> None:
        read_head(sock)
        sock.sendall(answer(status, b"no"))

    with peer(handle) as port:
        transport = through(f"http://127.0.0.1:{port}", cancellation)
        with pytest.raises(NetworkError, match=f"proxy 127.0.0.1:{port}") as caught:
            get(transport, "https://registry.test/v2/")
        transport.close()
    assert isinstance(caught.value, TransientError) is transient


def test_a_private_address_behind_a_proxy_is_the_proxys_business(cancellation):
    with peer(echo_requests) as port:
        transport = through(f"http://127.0.0.1:{port}", cancellation)
        get(transport, "http://169.254.169.254/latest/")
        transport.close()


def test_a_host_that_never_answered_has_no_outage(cancellation, transport):
    """It may not be there at all: waiting for it would help nobody."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        url = f"http://127.0.0.1:{port}/"
        with pytest.raises(TransientError) as caught:
            get(transport, url)
    assert not caught.value.unreachable


def test_a_host_that_has_answered_is_down(transport):
    with peer(echo_requests) as port:
        get(transport, f"http://127.0.0.1:{port}/")
    with pytest.raises(TransientError) as caught:
        for _ in range(3):
            get(transport, f"http://127.0.0.1:{port}/")
    assert caught.value.unreachable or caught.value.hung_up
