"""The access log, /healthz and /metrics."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import socket
import threading
import time

import pytest
from conformance import open_client, raw_exchange, serving, uploads
from registries import write_users
from waiting import wait_for

from dockerpush.server import records as log_module
from dockerpush.server import serving as listening
from dockerpush.server.messages import ServerError
from dockerpush.server.records import Access, AccessLog, as_json, as_text

ACCESS = Access("192.0.2.1", "alice", "GET", "/v2/", 200, 0, 2, 0.0123, "")
LINE = "2020-09-13T12:26:40Z 192.0.2.1 alice GET /v2/ 200 2 12ms"
NOW = 1_600_000_000.0


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


# Lines


def test_a_line_says_who_asked_for_what_and_what_came_of_it():
    assert as_text(ACCESS, NOW) == LINE
    assert json.loads(as_json(ACCESS, NOW)) == {
        **{"time": "2020-09-13T12:26:40Z", "address": "192.0.2.1", "user": "alice"},
        **{"method": "GET", "path": "/v2/", "status": 200, "received": 0, "sent": 2},
        "ms": 12,
    }


@pytest.mark.parametrize(
    "text",
    ["a\nb", "a b", "a\x1b[2Jb", "a\u2028b", 'a"b', "a\x85b", "a\u202eb", "a\\b"],
)
def test_no_request_writes_a_line_of_its_own(text):
    """Nor a control sequence, wherever it puts it."""
    access = Access("192.0.2.1", text, "GET", f"/{text}", 404, 0, 0, 0.0, f"no {text}")
    line = as_text(access, NOW)
    assert line.isprintable() and len(line.splitlines()) == 1
    assert len(line.split(" ")[:8]) == 8 and line.split(" ")[5] == "404"
    assert as_json(access, NOW).isprintable()
    assert json.loads(as_json(access, NOW))["why"] == f"no {text}"


def test_every_request_has_one_line(tmp_path):
    """What was refused as well, with why; what was cut off, too."""
    seen: list[Access] = []
    users = write_users(tmp_path / "users", {"alice": "secret"})
    options = {"users": users, "on_access": seen.append}
    with serving(tmp_path / "registry", **options) as (server, client):
        good = basic("alice", "secret")
        client("GET", "/v2/", Authorization=good)
        client("GET", "/v2/", Authorization=basic("mallory", "guess"))
        answer = client("POST", uploads("a"), b"", Authorization=good)
        client("PATCH", answer.location, b"x" * 100, Authorization=good)
        client("GET", "/v2/none/tags/list", Authorization=good)
        evil = {"Origin": "http://evil.example", "Authorization": good}
        client("DELETE", "/v2/a/manifests/v1", **evil)
        wait_for(lambda: len(seen) == 6)
        raw_exchange(server.host, b"nonsense\r\n\r\n")
        wait_for(lambda: len(seen) == 7)
        head = f"PATCH {answer.location} HTTP/1.1\r\nAuthorization: {good}\r\n"
        name, _, port = server.host.rpartition(":")
        with socket.create_connection((name, int(port)), 5) as sock:
            sock.sendall(head.encode() + b"Content-Length: 100\r\n\r\nabc")
            time.sleep(0.1)
        wait_for(lambda: len(seen) == 8)
    found = [(one.method, one.user, one.status, one.received) for one in seen]
    assert found == [
        ("GET", "alice", 200, 0),
        ("GET", "mallory", 401, 0),
        ("POST", "alice", 202, 0),
        ("PATCH", "alice", 202, 100),
        ("GET", "alice", 404, 0),
        ("DELETE", "alice", 403, 0),
        ("", "", 400, 0),
        ("PATCH", "alice", 499, 3),
    ]
    assert seen[0].sent == 2 and seen[0].address == "127.0.0.1"
    assert [one.why != "" for one in seen] == [
        *(False, True, False, False, True, True, True, True)
    ]
    assert "secret" not in repr(seen) and "guess" not in repr(seen)


def test_a_connection_that_was_turned_away_has_a_line(tmp_path, monkeypatch):
    monkeypatch.setattr(listening, "CONNECTIONS", 1)
    seen: list[Access] = []
    with serving(tmp_path, on_access=seen.append) as (server, _):
        name, _, port = server.host.rpartition(":")
        with socket.create_connection((name, int(port)), 5) as sock:
            sock.sendall(b"PUT /v2/a/manifests/x HTTP/1.1\r\nContent-Length: 9\r\n\r\n")
            time.sleep(0.1)
            raw_exchange(server.host, b"GET /v2/ HTTP/1.1\r\n\r\n")
            wait_for(lambda: seen)
    whys = [(one.status, one.why) for one in seen]
    assert (503, "every connection is in use") in whys


# Where lines go


def test_a_file_gets_the_lines_and_is_for_its_owner_alone(tmp_path):
    path = tmp_path / "log"
    for _ in range(2):
        log = AccessLog(path, io.StringIO())
        log(ACCESS)
        log.close()
    lines = path.read_text().splitlines()
    assert len(lines) == 2 and lines[0].endswith("alice GET /v2/ 200 2 12ms")
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_that_was_moved_away_is_begun_again(tmp_path):
    path = tmp_path / "log"
    log = AccessLog(path, io.StringIO(), as_json=True)
    log(ACCESS)
    wait_for(lambda: path.read_text().count("\n") == 1)
    path.rename(tmp_path / "old")
    log.reopen()
    log(ACCESS)
    log.close()
    lines = [json.loads(one.read_text()) for one in (path, tmp_path / "old")]
    assert all(line.pop("time") for line in lines)
    assert lines[0] == lines[1]


@pytest.mark.parametrize("kind", ["directory", "link"])
def test_a_file_that_cannot_be_written_is_an_error_of_one_line(tmp_path, kind):
    """A link may lead to somebody else's file."""
    path = tmp_path / "log"
    if kind == "link":
        (tmp_path / "victim").write_text("kept")
        path.symlink_to(tmp_path / "victim")
    else:
        path.mkdir()
    with pytest.raises(ServerError, match="cannot write the access log"):
        AccessLog(path, io.StringIO())


def test_a_log_that_nobody_reads_holds_nobody_up(monkeypatch):
    """Lines that do not fit are counted, and the count is written later."""
    monkeypatch.setattr(log_module, "QUEUED", 5)
    monkeypatch.setattr(log_module, "PATIENCE", 0.2)
    gate = threading.Event()

    class Pipe(io.StringIO):
        def write(self, text: str) -> int:
            gate.wait(20)
            return super().write(text)

    stream = Pipe()
    log = AccessLog(None, stream)
    for _ in range(50):
        log(ACCESS)
    gate.set()
    wait_for(lambda: stream.getvalue().count("\n") >= 6)
    log(ACCESS)
    wait_for(lambda: "requests are not in this log" in stream.getvalue())
    log.close()


def test_a_log_on_a_full_disk_holds_nobody_up():
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError("no space left")

    log = AccessLog(None, Full())
    log(ACCESS)
    log.close()


# Health and metrics


def test_health_is_for_everybody(tmp_path):
    users = write_users(tmp_path / "users", {"alice": "secret"})
    with serving(tmp_path / "registry", users=users) as (_, client):
        answer = client("GET", "/healthz")
        assert (answer.status, answer.json) == (200, {"status": "ok"})
        assert client("HEAD", "/healthz").status == 200
        assert client("POST", "/healthz", b"").status == 405
        shutil.rmtree(tmp_path / "registry")
        assert client("GET", "/healthz").status == 503


def values(text: str) -> dict[str, int]:
    """Every line must have the form that Prometheus reads."""
    found = {}
    for line in text.splitlines():
        if line.startswith("#"):
            assert re.fullmatch(r"# (HELP|TYPE) dockerpush_[a-z_]+ .+", line)
            continue
        name = r'dockerpush_([a-z_]+(?:\{[a-z="A-Z0-9,]+\})?)'
        match = re.fullmatch(name + r" (\d+)", line)
        assert match, line
        found[match[1]] = int(match[2])
    return found


def test_metrics_count_what_happens(tmp_path):
    with serving(tmp_path) as (server, client):
        client.push_blob("a", b"12345")
        client("PATCH", client.start_upload("a"), b"123")
        client("GET", "/v2/nothing/tags/list")
        raw_exchange(server.host, b"BREW /v2/ HTTP/1.1\r\n\r\n")
        raw_exchange(server.host, b"nonsense\r\n\r\n")
        answer = client("GET", "/metrics")
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        found = values(answer.body.decode())
    assert found['requests_total{method="POST",status="202"}'] == 2
    assert found['requests_total{method="PUT",status="201"}'] == 1
    assert found['requests_total{method="GET",status="404"}'] == 1
    assert found['requests_total{method="other",status="501"}'] == 1
    assert found['requests_total{method="other",status="400"}'] == 1
    assert found['content_bytes_total{direction="received"}'] == 8
    assert found["upload_sessions"] == 1
    assert (found["store_bytes"], found["upload_bytes"]) == (5, 3)
    assert found["connections"] >= 1
    assert found["failed_logins_total"] == 0


def test_metrics_are_for_users_where_there_are_any(tmp_path):
    users = write_users(tmp_path / "users", {"alice": "secret"})
    with serving(tmp_path / "registry", users=users) as (_, client):
        assert client("GET", "/metrics").status == 401
        wrong = {"Authorization": basic("alice", "wrong")}
        assert client("GET", "/metrics", **wrong).status == 401
        right = {"Authorization": basic("alice", "secret")}
        found = values(client("GET", "/metrics", **right).body.decode())
        assert found["failed_logins_total"] == 1
    options = {"users": users, "metrics_public": True}
    with serving(tmp_path / "registry", **options) as (_, client):
        assert client("GET", "/metrics").status == 200


def test_metrics_without_users_are_for_this_machine(tmp_path):
    """Unless they are public."""
    own = socket.gethostbyname(socket.gethostname())
    if own.startswith("127."):
        pytest.skip("this machine has no address but loopback")
    for public, status in ((False, 403), (True, 200)):
        options = {"address": "0.0.0.0", "metrics_public": public}
        with serving(tmp_path, **options) as (server, client):
            assert client("GET", "/metrics").status == 200
            with open_client(f"{own}:{server.port}") as other:
                assert other("GET", "/metrics").status == status
                assert other("GET", "/healthz").status == 200
