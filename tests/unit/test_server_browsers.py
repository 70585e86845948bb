"""Pages of other sites: what they may not do, and who is never refused for a name."""

from __future__ import annotations

import socket
import ssl

import pytest
from conformance import Client, serving, uploads
from registries import make_certificates, run

from dockerpush.server.certificate import names_in_certificate

MARKS = [
    {"Origin": "null"},
    {"Sec_Fetch_Mode": "navigate"},
    {"Sec_Fetch_Site": "none"},
    {"sec_fetch_dest": "document"},
]


def ask(client: Client, host: str | None, method="GET", target="/v2/", **headers):
    """A request with this Host header, or without any."""
    connection = client.connection
    connection.putrequest(method, target, skip_host=True)
    if host is not None:
        connection.putheader("Host", host)
    for name, text in headers.items():
        connection.putheader(name.replace("_", "-"), text)
    connection.putheader("Content-Length", "0")
    connection.endheaders()
    response = connection.getresponse()
    response.read()
    return response


@pytest.fixture
def client(tmp_path):
    options = {"names": ["registry.example.com", "*.wild.example.com"]}
    with serving(tmp_path, **options) as (_, client):
        yield client


@pytest.mark.parametrize("mark", MARKS, ids=str)
@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:5000", "127.0.0.1.evil.example", "evil"),
        *("registry.example.com.evil", "x.y.wild.example.com", "wild.example.com"),
        *("evil@localhost.evil", "localhost.evil", "", None, "[::1", "a b"),
    ],
)
def test_a_browser_gets_nothing_under_a_foreign_name(client, host, mark):
    """A name server that lets its name point to us makes us no part of its site."""
    for target in ("/v2/", "/v2/_catalog", "/metrics", "/"):
        assert ask(client, host, target=target, **mark).status == 403


@pytest.mark.parametrize("mark", MARKS, ids=str)
@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "192.0.2.7:5000", "[::1]:5000", "localhost", "LOCALHOST:5000"),
        *("app.localhost", "registry.example.com", "Registry.Example.com.:80"),
        *("a.wild.example.com", socket.gethostname()),
    ],
)
def test_a_browser_is_served_under_our_names(client, host, mark):
    assert ask(client, host, **mark).status == 200


@pytest.mark.parametrize("host", ["evil.example", "registry.internal:5000", None])
def test_others_are_never_refused_for_a_name(client, host):
    """docker, podman, skopeo, crane and curl send no marks of a browser."""
    assert ask(client, host).status == 200
    answer = ask(client, host, "POST", uploads("a"))
    assert answer.status == 202


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Origin": "http://127.0.0.1.evil.example:5000"}, 403),
        ({"Origin": "http://127.0.0.1:5000", "Sec_Fetch_Site": "cross-site"}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Origin": "http://127.0.0.1:5000"}, 202),
        ({"Origin": "http://127.0.0.1:5000", "Sec_Fetch_Site": "same-origin"}, 202),
    ],
    ids=str,
)
def test_a_page_of_another_site_may_not_write(client, headers, status):
    host = "127.0.0.1:5000"
    assert ask(client, host, "POST", uploads("a"), **headers).status == status
    deleted = ask(client, host, "DELETE", "/v2/a/manifests/v1", **headers).status
    assert deleted == (404 if status == 202 else 403)
    assert ask(client, host, **headers).status == 200


def test_no_answer_can_be_taken_for_another_type(client):
    """Also what the connection refuses before anybody looks at the path."""
    digest = client.push_blob("a", b"<script>")
    for target in (f"/v2/a/blobs/{digest}", "/v2/", "/nothing", "/healthz", "/v2/?&"):
        answer = client("GET", target)
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "html" not in answer.headers["Content-Type"]
    assert ask(client, "x", Transfer_Encoding="x").getheader("X-Content-Type-Options")


def test_the_names_of_the_certificate_are_ours(tmp_path):
    make_certificates(tmp_path)
    make_named(tmp_path, "DNS:one.example.com,IP:192.0.2.1,DNS:*.two.example.com")
    tls = (tmp_path / "named.pem", tmp_path / "named.key")
    names = names_in_certificate(tls[0].read_text())
    assert names == ["one.example.com", "*.two.example.com"]
    context = ssl.create_default_context(cafile=str(tmp_path / "named.pem"))
    context.check_hostname = False
    with serving(tmp_path / "registry", tls=tls) as (server, _):
        client = Client(server.host, context=context)
        for host, status in (
            *(("one.example.com", 200), ("x.two.example.com", 200)),
            *(("three.example.com", 403), ("*.two.example.com", 200)),
        ):
            assert ask(client, host, Origin="null").status == status
        client.close()


def make_named(directory, names: str) -> None:
    run(
        *["openssl", "req", "-x509", "-newkey", "ec", "-days", "2", "-nodes"],
        *["-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", "/CN=x"],
        *["-addext", f"subjectAltName={names}", "-config", "/dev/null"],
        *["-keyout", directory / "named.key", "-out", directory / "named.pem"],
    )


@pytest.mark.parametrize("names", ["DNS:" + "a" * 60 + ".example", "IP:192.0.2.1"])
def test_long_names_and_none_are_read(names, tmp_path):
    many = ",".join(f"{names}" if n == 0 else f"DNS:n{n}.example" for n in range(40))
    make_named(tmp_path, many)
    found = names_in_certificate((tmp_path / "named.pem").read_text())
    assert len(found) == 40 - names.startswith("IP")


def test_a_certificate_without_names_has_none(tmp_path):
    make_named(tmp_path, "email:a@example.com")
    assert names_in_certificate((tmp_path / "named.pem").read_text()) == []
    assert names_in_certificate("no certificate") == []
