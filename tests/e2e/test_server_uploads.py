"""Upload sessions that break, compete, survive and expire."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Iterator

import pytest
from conformance import (
    Image,
    closing,
    digest_of,
    open_client,
    random_bytes,
    serving,
    uploads,
)
from waiting import wait_for

from dockerpush.oci import Digest
from dockerpush.server import upload_files as sessions
from dockerpush.server.checked_names import Repository
from dockerpush.server.messages import Disconnected, ProtocolError
from dockerpush.server.store_layout import StoreLayout, names_in
from dockerpush.server.upload_files import StoredUpload, Uploads


class Body:
    """A body that gives *pieces*, calling those that are functions first."""

    length = None

    def __init__(self, *pieces) -> None:
        self._pieces = list(pieces)

    def readinto(self, buffer: memoryview) -> int:
        while self._pieces and callable(self._pieces[0]):
            self._pieces.pop(0)()
        piece = self._pieces.pop(0) if self._pieces else b""
        buffer[: len(piece)] = piece
        return len(piece)


@pytest.fixture
def session(tmp_path: Path) -> StoredUpload:
    path = tmp_path / "session"
    path.touch()
    return StoredUpload(path, Digest.of(b"").hasher())


def finish(session: StoredUpload, content: bytes, *pieces: bytes) -> bytes:
    """What the session holds once it was proven to be *content*."""
    adopted = []

    def adopt(path: Path) -> None:
        adopted.append(path.read_bytes())
        path.unlink()

    digest = Digest(digest_of(content))
    session.finish(Body(*pieces), None, digest=digest, adopt=adopt)
    return adopted[0]


def breaks() -> None:
    raise Disconnected("the line broke")


def test_bytes_before_a_break_are_kept(session):
    with pytest.raises(Disconnected):
        session.append(Body(b"abc", b"def", breaks), None)
    assert session.size() == 6
    assert finish(session, b"abcdefghi", b"ghi") == b"abcdefghi"


def test_a_break_within_the_closing_request_keeps_the_session_open(session):
    digest = Digest(digest_of(b"abcdef"))
    body = Body(b"abc", breaks)
    with pytest.raises(Disconnected):
        session.finish(body, None, digest=digest, adopt=Path.unlink)
    assert session.size() == 3
    assert finish(session, b"abcdef", b"def") == b"abcdef"


def test_the_newest_request_takes_the_session_over(session, monkeypatch):
    """A connection that died without a word does not hold its session."""
    monkeypatch.setattr(sessions, "SETTLE", 0.05)
    with pytest.raises(Disconnected, match="took"):
        session.append(
            Body(b"abc", lambda: session.append(Body(b"def"), 3), b"late"), None
        )
    assert finish(session, b"abcdef") == b"abcdef"


def test_a_status_is_the_truth_and_stays_it(session, monkeypatch):
    """After the client was told an offset, no late byte of an older request counts."""
    monkeypatch.setattr(sessions, "SETTLE", 0.05)
    told = []
    with pytest.raises(Disconnected):
        session.append(Body(b"abc", lambda: told.append(session.size()), b"x"), None)
    assert told == [session.size()] == [3]


def test_a_request_that_still_drains_is_waited_for(session):
    """A status does not throw away what the older request is about to write."""
    started, sizes = threading.Event(), []

    def asks() -> None:
        started.wait(5)
        sizes.append(session.size())

    thread = threading.Thread(target=asks)
    thread.start()
    session.append(Body(b"abc", started.set, lambda: time.sleep(0.1), b"def"), None)
    thread.join()
    assert sizes == [6]


def test_two_requests_that_close_one_session_do_not_spoil_the_blob(session):
    """The second finds no session; nothing is written into the finished blob."""
    assert finish(session, b"abc", b"abc") == b"abc"
    with pytest.raises(ProtocolError, match="no such upload session"):
        finish(session, b"abc", b"abc")
    with pytest.raises(ProtocolError, match="no such upload session"):
        session.append(Body(b"late"), None)
    assert not session.path.exists()


def test_the_bytes_of_a_wrong_digest_are_gone(session):
    with pytest.raises(ProtocolError, match="wanted sha256"):
        finish(session, b"right", b"wrong")
    assert not session.path.exists()


@pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha512"])
def test_the_hash_is_right_when_its_state_is_lost(tmp_path: Path, algorithm):
    """After a restart the file is read again, whatever the algorithm."""
    path = tmp_path / "session"
    path.write_bytes(b"abc")
    session = StoredUpload(path, None)
    session.append(Body(b"def"), 3)
    digest = Digest(digest_of(b"abcdefghi", algorithm))
    session.finish(Body(b"ghi"), None, digest=digest, adopt=Path.unlink)


def test_a_session_without_a_byte_for_too_long_is_forgotten(tmp_path: Path):
    """Cancel a blob upload: the server SHOULD timeout unfinished uploads."""
    uploads_ = Uploads(StoreLayout(tmp_path), max_age=100)
    name = Repository("a/b")
    old, fresh = uploads_.start(name, "sha256"), uploads_.start(name, "sha256")
    path = StoreLayout(tmp_path).upload(name, old)
    os.utime(path, (time.time() - 101,) * 2)
    with pytest.raises(ProtocolError, match="no such upload"):
        uploads_.find(name, old)
    assert not path.exists()
    assert uploads_.find(name, fresh).size() == 0


def test_a_sweep_right_after_boot_counts_as_one(tmp_path: Path, monkeypatch):
    """The monotonic clock may begin at 0, which is a time like any other."""
    uploads_ = Uploads(StoreLayout(tmp_path), max_age=100)
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    uploads_.sweep()
    session = uploads_.start(Repository("a"), "sha256")
    path = StoreLayout(tmp_path).upload(Repository("a"), session)
    os.utime(path, (time.time() - 101,) * 2)
    uploads_.sweep(interval=10)
    assert path.exists()
    uploads_.sweep()
    assert not path.exists()


def test_old_sessions_are_swept_when_the_server_starts(tmp_path: Path):
    with serving(tmp_path) as (_, client):
        old, fresh = client.start_upload("a"), client.start_upload("a")
    directory = tmp_path / "repositories/a/_uploads"
    week = 7 * 24 * 3600 + 10
    os.utime(directory / old.rpartition("/")[2], (time.time() - week,) * 2)
    with serving(tmp_path) as (_, client):
        assert names_in(directory) == [fresh.rpartition("/")[2]]
        assert client("GET", fresh).status == 204


def test_a_session_continues_after_a_restart(tmp_path: Path):
    content = random_bytes(10_000)
    with serving(tmp_path) as (_, client):
        location = client.start_upload("a")
        client("PATCH", location, content[:6000], Content_Range="0-5999")
    with serving(tmp_path) as (_, client):
        answer = client("GET", location)
        assert (answer.status, answer.headers["Range"]) == (204, "0-5999")
        digest = digest_of(content)
        answer = client(
            "PUT", closing(location, digest), content[6000:], Content_Range="6000-9999"
        )
        assert answer.status == 201
        assert client("GET", f"/v2/a/blobs/{digest}").body == content


def send_partly(
    host: str, location: str, content: bytes, claimed: int
) -> socket.socket:
    """A PATCH of *claimed* bytes, of which only *content* is sent."""
    name, _, port = host.rpartition(":")
    sock = socket.create_connection((name, int(port)), 5)
    head = f"PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: {claimed}\r\n\r\n"
    sock.sendall(head.encode() + content)
    return sock


@pytest.mark.parametrize("how", ["closed", "reset", "left open"])
def test_a_broken_connection_leaves_what_was_received(tmp_path: Path, how):
    """The status tells how much, and the upload goes on from there."""
    content = random_bytes(300_000)
    with serving(tmp_path) as (server, client), contextlib.ExitStack() as stack:
        location = client.start_upload("a")
        sock = send_partly(server.host, location, content[:200_000], 300_000)
        stack.callback(sock.close)
        wait_for_size(tmp_path, location, 200_000)
        if how == "reset":
            linger = b"\1\0\0\0\0\0\0\0"
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        if how != "left open":
            sock.close()
        status = client("GET", location)
        assert status.headers["Range"] == "0-199999"
        digest = digest_of(content)
        target = closing(location, digest)
        span = "200000-299999"
        answer = client("PUT", target, content[200_000:], Content_Range=span)
        assert answer.status == 201
        if how == "left open":
            with contextlib.suppress(ConnectionError):
                sock.sendall(b"x" * 100_000)
        assert client("GET", f"/v2/a/blobs/{digest}").body == content


def wait_for_size(directory: Path, location: str, size: int) -> None:
    path = directory / "repositories/a/_uploads" / location.rpartition("/")[2]
    wait_for(lambda: path.stat().st_size >= size)


def test_bytes_of_a_broken_single_post_are_dropped(tmp_path: Path):
    """The client never learned of a session, so nobody can go on with it."""
    with serving(tmp_path) as (server, _):
        target = uploads("a", digest=digest_of(b"x" * 100))
        name, _, port = server.host.rpartition(":")
        with socket.create_connection((name, int(port)), 5) as sock:
            head = f"POST {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n"
            sock.sendall(head.encode() + b"x" * 50)
            sock.shutdown(socket.SHUT_WR)
            assert sock.recv(1000) == b""
        assert names_in(tmp_path / "repositories/a/_uploads") == []


def test_many_upload_one_blob_at_once(tmp_path: Path):
    """All succeed, the blob is there once and right, no session is left."""
    content = random_bytes(3_000_000)
    digest = digest_of(content)
    with serving(tmp_path) as (server, client):

        def push(number: int) -> None:
            with open_client(server.host) as own:
                own.push_blob(f"r{number % 3}", content)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(push, range(16)))
        for number in range(3):
            assert client("GET", f"/v2/r{number}/blobs/{digest}").body == content
            assert names_in(tmp_path / f"repositories/r{number}/_uploads") == []
        files = [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()]
        assert len(files) == 1


def test_many_put_one_tag_at_once(tmp_path: Path):
    """The tag is one of them at any time, never half of one, never absent."""
    images = [Image(number) for number in range(8)]
    with serving(tmp_path) as (server, client):
        for image in images:
            for blob in image.blobs.values():
                client.push_blob("a", blob)
        client.push_manifest("a", "latest", images[0].manifest)
        wanted = {image.manifest for image in images}
        seen: set[bytes] = set()

        def put(image: Image) -> None:
            with open_client(server.host) as own:
                for _ in range(10):
                    answer = own.push_manifest("a", "latest", image.manifest)
                    assert answer.status == 201
                    seen.add(own("GET", "/v2/a/manifests/latest").body)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(put, images))
        assert seen <= wanted
        assert client("GET", "/v2/a/manifests/latest").body in wanted
        assert names_in(tmp_path / "incomplete") == []


def test_a_manifest_and_the_deletion_of_its_blob_exclude_each_other(tmp_path: Path):
    """Whoever comes first: a manifest that is accepted had all its blobs then."""
    with serving(tmp_path) as (server, client):
        image = Image(1)
        digest = image.layers[0]["digest"]
        for blob in image.blobs.values():
            client.push_blob("a", blob)

        def put(_: int) -> int:
            with open_client(server.host) as own:
                return own.push_manifest("a", "v1", image.manifest).status

        def delete(_: int) -> int:
            with open_client(server.host) as own:
                return own("DELETE", f"/v2/a/blobs/{digest}").status

        with ThreadPoolExecutor(6) as pool:
            puts = pool.map(put, range(20))
            deletes = pool.map(delete, range(3))
            assert set(puts) <= {201, 400}
            assert sorted(deletes) == [202, 404, 404]
        assert put(0) == 400


SERVER = """
import sys
from pathlib import Path
from dockerpush.system.cancellation import Cancellation
from dockerpush.server import Registry, RegistryServer
with Cancellation() as never, RegistryServer(Registry(Path(sys.argv[1]))) as server:
    print(server.host, flush=True)
    while True:
        never.wait(1)
"""


@contextlib.contextmanager
def server_process(directory: Path) -> Iterator[tuple[subprocess.Popen, str]]:
    """A server in a process of its own; the process, and where it listens."""
    command = [sys.executable, "-c", SERVER, str(directory)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=root) as child:
        try:
            yield child, child.stdout.readline().decode().strip()
        finally:
            child.kill()


@pytest.mark.long
def test_a_server_killed_at_any_moment_serves_nothing_wrong(tmp_path: Path):
    """Ten kills: what is there is right, and the last run completes it all."""
    blobs = [random_bytes(1_000_000, seed) for seed in range(60)]
    finished = 0
    for round_ in range(10):
        with server_process(tmp_path) as (child, host):
            timer = threading.Timer(0.01 + 0.007 * round_, child.kill)
            timer.start()
            with contextlib.suppress(OSError, http.client.HTTPException):
                push_all(host, blobs)
                finished += 1
            timer.join()
        check_files(tmp_path)
    assert finished < 5, "the kills came too late to prove anything"
    with server_process(tmp_path) as (_, host):
        push_all(host, blobs)
        with open_client(host) as client:
            for blob in blobs:
                assert client("GET", f"/v2/a/blobs/{digest_of(blob)}").body == blob
        assert names_in(tmp_path / "incomplete") == []


def push_all(host: str, blobs: list[bytes]) -> None:
    """Every blob that is not there yet, in two chunks, and a little image."""
    with open_client(host) as client:
        for blob in blobs:
            digest = digest_of(blob)
            if client("HEAD", f"/v2/a/blobs/{digest}").status != 200:
                location = client.start_upload("a")
                client("PATCH", location, blob[:200_000])
                answer = client("PUT", closing(location, digest), blob[200_000:])
                assert answer.status == 201
        client.push_image("a", "latest", seed=len(blobs))


def check_files(directory: Path) -> None:
    """What has the name of a blob has its content."""
    for path in (directory / "blobs/sha256").rglob("*"):
        if path.is_file():
            assert digest_of(path.read_bytes()) == f"sha256:{path.name}"


def test_an_upload_cut_by_a_kill_continues_in_the_next_server(tmp_path: Path):
    """Both runs together receive every byte once."""
    content = random_bytes(1_000_000)
    with server_process(tmp_path) as (child, host), open_client(host) as client:
        location = client.start_upload("a")
        with send_partly(host, location, content[:700_000], 1_000_000):
            wait_for_size(tmp_path, location, 700_000)
            child.send_signal(signal.SIGKILL)
            child.wait()
    with (
        server_process(tmp_path) as (_, host),
        open_client(host) as client,
    ):
        assert client("GET", location).headers["Range"] == "0-699999"
        target = closing(location, digest_of(content))
        span = "700000-999999"
        assert (
            client("PUT", target, content[700_000:], Content_Range=span).status == 201
        )
        got = client("GET", f"/v2/a/blobs/{digest_of(content)}")
        assert got.body == content
