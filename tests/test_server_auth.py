"""Password files: what is understood, what is refused, who gets in."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from conformance import Client, serving
from hypothesis import given, settings
from hypothesis import strategies as st
from registries import run

from dockerpush.server import ServerError, bcrypt
from dockerpush.server.auth import (
    PasswordFile,
    md5_crypt,
    parse_basic,
    parse_entries,
)

PASSWORDS = ["secret", "p:a s$s%", "pässwörd", "x" * 40, "-"]


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def written(path: Path, flag: str, password: str) -> PasswordFile:
    """A file with one user, by Apache's own program."""
    path.write_bytes(run("htpasswd", f"-nb{flag}", "alice", password))
    return PasswordFile.read(path)


@pytest.mark.parametrize(
    ("flag", "password"),
    [
        *[("m", password) for password in PASSWORDS],
        *[("s", password) for password in PASSWORDS],
        *[("B", password) for password in PASSWORDS[1:3]],
    ],
)
def test_what_htpasswd_writes_is_understood(tmp_path, flag, password):
    users = written(tmp_path / "file", flag, password)
    for _ in range(2):  # the second is answered from memory
        assert users.accepts(basic("alice", password))
        assert not users.accepts(basic("alice", password + "x"))
        assert not users.accepts(basic("alice", ""))
        assert not users.accepts(basic("bob", password))


@pytest.mark.parametrize("password", PASSWORDS[:-1])
def test_apache_md5_is_what_openssl_says(password):
    said = run("openssl", "passwd", "-apr1", "-salt", "saltsalt", password).decode()
    found = md5_crypt(password.encode(), b"saltsalt")
    assert said.strip() == f"$apr1$saltsalt${found}"


@pytest.mark.parametrize("cost", [4, 5, 6])
def test_bcrypt_of_another_cost_is_understood(cost):
    said = run("htpasswd", "-nbBC", cost, "alice", "secret").decode().strip()
    stored = said.partition(":")[2]
    assert bcrypt.cost_of(stored) == cost
    assert bcrypt.is_password(b"secret", stored)
    assert bcrypt.is_password(b"secret", stored.replace("$2y$", "$2b$"))
    assert not bcrypt.is_password(b"Secret", stored)
    assert not bcrypt.is_password(b"secret\0", stored)


def test_bcrypt_looks_at_72_bytes():
    """As every implementation does, so that the same files work."""
    said = run("htpasswd", "-nbB", "alice", "x" * 72).decode().strip()
    assert bcrypt.is_password(b"x" * 80, said.partition(":")[2])
    assert not bcrypt.is_password(b"x" * 71, said.partition(":")[2])


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("alice:secret", "not a password hash"),
        ("alice:", "not a password hash"),
        ("alice", "not a password hash"),
        (":{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=", "not a password hash"),
        ("alice:{SHA}nonsense", "not a password hash"),
        ("alice:{SHA}AAAA", "not a password hash"),
        ("alice:$apr1$salt$short", "not a password hash"),
        ("alice:rl.3StKT.4T8M", "not a password hash"),
        ("alice:$2y$05$tooshort", "not a password hash"),
        ("alice:$2y$99$" + "x" * 53, "not a password hash"),
        ("alice:$2y$11$" + "x" * 53, "bcrypt of cost 11, the most"),
        ("alice:$6$salt$" + "x" * 86, "not a password hash"),
        ("", "no user"),
        ("# a comment", "no user"),
    ],
)
def test_an_entry_that_cannot_be_checked_is_refused_at_the_start(line, complaint):
    """With its line and the command that writes a better one, and without the hash."""
    with pytest.raises(ServerError) as caught:
        parse_entries(["", line], "users")
    message = str(caught.value)
    assert complaint in message
    assert "htpasswd -B FILE USER" in message
    assert "nonsense" not in message
    assert "secret" not in message


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_a_file_that_cannot_be_read_is_refused_at_the_start(tmp_path, content):
    path = tmp_path / "users"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ServerError, match="cannot read the password file"):
        PasswordFile.read(path)


@settings(deadline=None)
@given(st.text(max_size=60))
def test_no_header_breaks_the_parser(text):
    parse_basic(text)
    parse_basic("Basic " + text)


@pytest.mark.parametrize(
    "header", [None, "", "Basic", "Basic !", "Bearer x", basic("alice", "")[:-4]]
)
def test_a_header_without_credentials_is_nobody(header):
    assert parse_basic(header) is None


def test_everything_asks_for_a_password(tmp_path):
    """401 with a challenge, on every endpoint, and nothing happens before it."""
    users = tmp_path / "users"
    users.write_bytes(run("htpasswd", "-nbm", "alice", "secret"))
    good, bad = basic("alice", "secret"), basic("alice", "wrong")
    with serving(tmp_path / "registry", htpasswd=users) as (_, client):
        for method, target in (
            ("GET", "/v2/"),
            ("GET", "/v2/_catalog"),
            ("GET", "/nonsense"),
            ("POST", "/v2/a/blobs/uploads/"),
            ("PUT", "/v2/a/manifests/v1"),
            ("DELETE", "/v2/a/manifests/v1"),
        ):
            for headers in ({}, {"Authorization": bad}):
                answer = client(method, target, b"body", **headers)
                assert (answer.status, answer.code) == (401, "UNAUTHORIZED")
                assert answer.headers["WWW-Authenticate"].startswith("Basic realm=")
        assert not (tmp_path / "registry/repositories").exists()
        assert client("GET", "/v2/", Authorization=good).status == 200
        started = client("POST", "/v2/a/blobs/uploads/", b"", Authorization=good)
        assert started.status == 202


def test_who_asks_first_is_refused_before_sending_the_body(tmp_path):
    """A big layer is not sent twice because of a password."""
    users = tmp_path / "users"
    users.write_bytes(run("htpasswd", "-nbs", "alice", "secret"))
    with serving(tmp_path / "registry", htpasswd=users) as (server, _):
        client = Client(server.host)
        client.connection.putrequest("PUT", "/v2/a/blobs/uploads/x")
        client.connection.putheader("Expect", "100-continue")
        client.connection.putheader("Content-Length", "5000000000")
        client.connection.endheaders()
        assert client.connection.getresponse().status == 401
        client.close()
