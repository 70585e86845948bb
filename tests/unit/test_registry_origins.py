"""Addresses and how close they are; and the turn to plain HTTP on loopback."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st
from peers import answer, peer, read_head

from dockerpush.errors import NetworkError
from dockerpush.registry.client import RegistryClient
from dockerpush.registry.locations import (
    Address,
    AddressScope,
    Origin,
    UrlParts,
    address_scope,
    allowed_from,
    is_loopback,
)
from dockerpush.registry.retry import RetryPolicy
from dockerpush.registry.transport import TransportSettings
from dockerpush.system.cancellation import Cancellation


@pytest.mark.parametrize(
    ("address", "near"),
    [
        ("93.184.216.34", AddressScope.PUBLIC),
        ("2606:2800:220:1::1", AddressScope.PUBLIC),
        ("127.0.0.1", AddressScope.LOOPBACK),
        ("127.8.8.8", AddressScope.LOOPBACK),
        ("0.0.0.0", AddressScope.LOOPBACK),
        ("::1", AddressScope.LOOPBACK),
        ("::", AddressScope.LOOPBACK),
        ("::ffff:127.0.0.1", AddressScope.LOOPBACK),
        ("169.254.169.254", AddressScope.LINK_LOCAL),
        ("::ffff:169.254.169.254", AddressScope.LINK_LOCAL),
        ("64:ff9b::a9fe:a9fe", AddressScope.LINK_LOCAL),
        ("2002:7f00:1::", AddressScope.LOOPBACK),
        ("fe80::1%eth0", AddressScope.LINK_LOCAL),
        ("10.1.2.3", AddressScope.PRIVATE),
        ("172.16.0.1", AddressScope.PRIVATE),
        ("192.168.1.1", AddressScope.PRIVATE),
        ("100.64.0.1", AddressScope.PRIVATE),
        ("fd00::1", AddressScope.PRIVATE),
        ("fd00:ec2::254", AddressScope.PRIVATE),
        ("0.1.2.3", AddressScope.PRIVATE),
        ("127.255.255.255", AddressScope.LOOPBACK),
        ("192.0.0.9", AddressScope.PRIVATE),
        ("192.0.0.170", AddressScope.PRIVATE),
        ("192.88.99.1", AddressScope.PRIVATE),
        ("198.19.0.1", AddressScope.PRIVATE),
        ("203.0.113.9", AddressScope.PRIVATE),
        ("224.0.0.1", AddressScope.PRIVATE),
        ("239.255.255.250", AddressScope.PRIVATE),
        ("255.255.255.255", AddressScope.PRIVATE),
        ("100.128.0.1", AddressScope.PUBLIC),
        ("172.32.0.1", AddressScope.PUBLIC),
        ("::127.0.0.1", AddressScope.PRIVATE),
        ("::ffff:10.0.0.1", AddressScope.PRIVATE),
        ("::ffff:93.184.216.34", AddressScope.PUBLIC),
        ("64:ff9b:1::a00:1", AddressScope.PRIVATE),
        ("64:ff9b::a00:1", AddressScope.PRIVATE),
        ("2002:a00:1::", AddressScope.PRIVATE),
        ("2001:0:7f00:1::", AddressScope.PRIVATE),
        ("2001:20::1", AddressScope.PRIVATE),
        ("2001:db8::1", AddressScope.PRIVATE),
        ("3fff::1", AddressScope.PRIVATE),
        ("5f00::1", AddressScope.PRIVATE),
        ("100::1", AddressScope.PRIVATE),
        ("fec0::1", AddressScope.PRIVATE),
        ("ff02::1", AddressScope.PRIVATE),
        ("4000::1", AddressScope.PRIVATE),
    ],
)
def test_addresses_are_near_or_far(address, near):
    assert address_scope(address) is near


def test_a_registry_may_lead_to_where_it_is_itself():
    def allowed(ip: str) -> frozenset[AddressScope]:
        return allowed_from([Address(socket.AF_INET, (ip, 443))])

    assert allowed("93.184.216.34") == {AddressScope.PUBLIC}
    assert allowed("10.0.0.1") == {AddressScope.PUBLIC, AddressScope.PRIVATE}
    assert AddressScope.LINK_LOCAL not in allowed("127.0.0.1")
    assert AddressScope.LOOPBACK not in allowed("10.0.0.1")
    assert AddressScope.PRIVATE in allowed("127.0.0.1")


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("LOCALHOST.", True),
        ("a.localhost", True),
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("[::1]", True),
        ("localhost.example.com", False),
        ("10.0.0.1", False),
        ("127.0.0.1.example.com", False),
    ],
)
def test_only_this_machine_is_loopback(host, loopback):
    assert is_loopback(host) is loopback


@pytest.mark.parametrize(
    ("url", "origin", "target"),
    [
        ("http://a", Origin("http", "a", 80), "/"),
        ("HTTPS://A_b.C:0443/x?y", Origin("https", "a_b.c", 443), "/x?y"),
        ("https://[2001:DB8::1]:5000/", Origin("https", "2001:db8::1", 5000), "/"),
        ("https://a:/x", Origin("https", "a", 443), "/x"),
        ("https://a?x", Origin("https", "a", 443), "/?x"),
    ],
)
def test_urls_are_taken_apart(url, origin, target):
    assert UrlParts.parse(url) == UrlParts(origin, target)
    assert UrlParts.parse(UrlParts.parse(url).url) == UrlParts(origin, target)


@given(st.text(max_size=60))
def test_any_text_is_a_url_or_refused(text):
    for url in (text, f"https://{text}", f"https://a/{text}"):
        try:
            place = UrlParts.parse(url)
        except NetworkError:
            continue
        assert place.target.isascii()
        assert not any(letter in place.url for letter in " \r\n\t@" if letter != "@")


def plain_registry(sock: socket.socket) -> None:
    """Speaks HTTP, and answers a TLS handshake as Go does."""
    start = sock.recv(1, socket.MSG_PEEK)
    if start == b"\x16":
        sock.recv(65536)
        sock.sendall(answer(400, b"400 Bad Request", "Connection: close"))
        return
    while True:
        read_head(sock)
        sock.sendall(answer())


def test_a_loopback_registry_without_tls_is_asked_in_plain_http():
    with peer(plain_registry) as port, Cancellation() as cancellation:
        host = f"127.0.0.1:{port}"
        client = RegistryClient(host, TransportSettings(), cancellation)
        with client:
            client.ping()
            client.ping()
            assert client.base == f"http://{host}"


def test_elsewhere_plain_http_must_be_asked_for():
    def resolve(host: str, port: int) -> list[Address]:
        return [Address(socket.AF_INET, ("127.0.0.1", port))]

    with peer(plain_registry) as port, Cancellation() as cancellation:
        settings = TransportSettings(resolve=resolve)
        with (
            RegistryClient(f"r.example:{port}", settings, cancellation) as client,
            pytest.raises(NetworkError, match="--plain-http"),
        ):
            client.ping()


def test_a_loopback_registry_that_is_not_there_is_no_reason_for_plain_http():
    with socket.socket() as unused, Cancellation() as cancellation:
        unused.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{unused.getsockname()[1]}"
        policy = RetryPolicy(attempts=1)
        with RegistryClient(
            host, TransportSettings(), cancellation, policy=policy
        ) as client:
            with pytest.raises(NetworkError, match="refused"):
                client.ping()
            assert client.base == f"https://{host}"
