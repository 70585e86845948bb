"""What clients can have of the embedded registry: memory, sessions, disk."""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conformance import (
    Image,
    artifact,
    closing,
    descriptor,
    digest_of,
    open_client,
    random_bytes,
    serving,
    uploads,
)
from conftest import peak_rss
from test_server_uploads import server_process

from dockerpush.oci import OCI_INDEX, OCI_MANIFEST
from dockerpush.server import storage, store_layout, upload_files
from dockerpush.server.checked_names import Repository, SessionId
from dockerpush.server.messages import ProtocolError
from dockerpush.server.store_layout import StoreLayout, names_in
from dockerpush.server.upload_files import Uploads

MIB = 1024 * 1024
NAME = Repository("a/b/c")


def large_manifest(seed: int, size: int = 2_500_000) -> bytes:
    """An index of *size* bytes that names nothing that is there."""
    child = descriptor(OCI_MANIFEST, b"%d" % seed)
    count = size // len(json.dumps(child))
    record = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [child] * count}
    return json.dumps(record).encode()


# Memory


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
@pytest.mark.parametrize("count", [12, pytest.param(60, marks=pytest.mark.long)])
def test_large_manifests_at_once_do_not_fill_the_memory(tmp_path, count):
    """Each takes many times its size as objects, and all come at the same time."""
    manifests = [large_manifest(seed) for seed in range(3)]

    def put(host: str, number: int) -> int:
        with open_client(host, timeout=120) as client:
            raw = manifests[number % len(manifests)]
            return client.push_manifest("a", f"v{number}", raw, OCI_INDEX).status

    with server_process(tmp_path) as (child, host):
        with ThreadPoolExecutor(count) as pool:
            found = list(pool.map(lambda number: put(host, number), range(count)))
        assert set(found) == {400}
        assert peak_rss(child.pid) < 150 * MIB


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_a_hundred_slow_readers_of_a_large_manifest_do_not_fill_the_memory(tmp_path):
    """Nor of a list of tags: what waits for a reader waits in a file."""
    empty = descriptor("application/vnd.oci.empty.v1+json", b"{}")
    record = {
        **{"schemaVersion": 2, "mediaType": OCI_MANIFEST, "layers": [empty]},
        **{"config": empty, "annotations": {"text": "x" * 3_900_000}},
    }
    raw = json.dumps(record).encode()
    with server_process(tmp_path) as (child, host), open_client(host) as client:
        client.push_blob("a", b"{}")
        assert client.push_manifest("a", "v1", raw).status == 201
        clients = [open_client(host).__enter__() for _ in range(100)]
        for one in clients:
            one.connection.request("GET", "/v2/a/manifests/v1")
        time.sleep(1)
        assert peak_rss(child.pid) < 150 * MIB
        assert clients[-1].connection.getresponse().read() == raw
        for one in clients:
            one.close()


@pytest.mark.parametrize(
    "raw",
    [
        b'{"schemaVersion":2,"manifests":[' + b"{}," * 1_300_000 + b"{}]}",
        b'{"schemaVersion":2,"x":' + b"[" * 300_000 + b"]" * 300_000 + b"}",
    ],
    ids=["wide", "deep"],
)
def test_a_manifest_of_countless_values_is_refused(tmp_path, raw):
    """A few bytes each are some hundred as an object."""
    with serving(tmp_path) as (_, client):
        for kind in (OCI_INDEX, ""):
            answer = client.push_manifest("a", "v1", raw, kind)
            assert (answer.status, answer.code) == (400, "MANIFEST_INVALID")
        assert "values" in answer.json["errors"][0]["message"]


def test_an_index_of_many_platforms_is_taken(tmp_path):
    with serving(tmp_path, sparse=True) as (_, client):
        raw = large_manifest(0, 4_000_000)
        assert client.push_manifest("a", "v1", raw, OCI_INDEX).status == 201
        assert client("GET", "/v2/a/manifests/v1").body == raw
        answer = client("HEAD", "/v2/a/manifests/v1")
        assert (answer.body, answer.headers["Content-Length"]) == (b"", str(len(raw)))


def test_a_list_of_referrers_reads_no_more_than_it_shows(tmp_path, monkeypatch):
    """And repeats annotations up to a limit; the manifest has all of them."""
    subject = descriptor(OCI_MANIFEST, b"absent")
    read = []

    def noted(path: Path) -> bytes | None:
        read.append(path)
        return store_layout.read_small(path)

    with serving(tmp_path) as (_, client):
        client.push_blob("a", b"{}")
        for number in range(12):
            record = artifact(subject, "k", n=str(number), text="x" * 1_900_000)
            raw = json.dumps(record).encode()
            assert client.push_manifest("a", digest_of(raw), raw).status == 201
        record = artifact(subject, "large", first="kept", text="x" * 3_000_000)
        large = json.dumps(record).encode()
        assert client.push_manifest("a", digest_of(large), large).status == 201
        monkeypatch.setattr(storage, "read_small", noted)
        answer = client("GET", f"/v2/a/referrers/{subject['digest']}")
        assert len(answer.json["manifests"]) <= 3 and len(read) <= 4
        assert "last=" in answer.headers["Link"]
        target = f"/v2/a/referrers/{subject['digest']}?artifactType=large"
        (entry,) = client("GET", target).json["manifests"]
        assert entry["annotations"] == {"first": "kept"}
        assert client("GET", f"/v2/a/manifests/{digest_of(large)}").body == large


def test_a_head_of_a_large_list_sends_no_list(tmp_path):
    with serving(tmp_path) as (_, client):
        client.push_image("a", "v")
        tags = tmp_path / "repositories/a/_tags"
        for number in range(3000):
            (tags / f"tag-{number:030}=0").write_bytes((tags / "v=0").read_bytes())
        listed = client("GET", "/v2/a/tags/list")
        assert len(listed.json["tags"]) == 3001
        head = client("HEAD", "/v2/a/tags/list")
        assert head.headers["Content-Length"] == str(len(listed.body))
        assert client("GET", "/v2/").status == 200


# Repositories


def test_nothing_walks_the_repositories_once_the_server_runs(tmp_path, monkeypatch):
    """Neither a DELETE nor a list, however many there are."""
    with serving(tmp_path) as (_, client):
        client.push_image("kept", "v1", 1)
        client.push_image("other", "v1", 1)

        def walk(*_: object) -> None:
            raise AssertionError("the directory is walked")

        monkeypatch.setattr(os, "walk", walk)
        client.push_image("gone", "v1", 1)
        image = Image(1)
        for name in ("gone", "other"):
            for digest in (image.config["digest"], image.layers[0]["digest"]):
                assert client("DELETE", f"/v2/{name}/blobs/{digest}").status == 202
            target = f"/v2/{name}/manifests/{image.digest}"
            assert client("DELETE", target).status == 202
        names = client("GET", "/v2/_catalog").json["repositories"]
        assert names == ["gone", "kept", "other"]
        assert client("GET", "/v2/kept/manifests/v1").body == image.manifest
        digest = image.config["digest"]
        assert client("GET", f"/v2/kept/blobs/{digest}").status == 200


def test_what_nobody_holds_any_more_is_removed_also_after_a_restart(tmp_path):
    image = Image(1)
    with serving(tmp_path) as (server, client):
        for name in ("a", "b"):
            client.push_image(name, "v1", 1)
        full = server.registry.space.stored
        assert full == sum(map(len, (*image.blobs.values(), image.manifest)))
    with serving(tmp_path) as (server, client):
        assert server.registry.space.stored == full
        for name in ("a", "b"):
            assert server.registry.space.stored == full
            for digest in image.blobs:
                client("DELETE", f"/v2/{name}/blobs/{digest}")
            client("DELETE", f"/v2/{name}/manifests/{image.digest}")
        assert server.registry.space.stored == 0
    assert not [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()]


# Upload sessions


def test_there_are_only_so_many_sessions(tmp_path, monkeypatch):
    """The next one is refused for a while, and leaves no directory behind."""
    monkeypatch.setattr(upload_files, "SESSIONS", 20)
    with serving(tmp_path) as (_, client):
        locations = [client.start_upload(f"r{number}/x") for number in range(20)]
        for number in range(20):
            answer = client("POST", uploads(f"more{number}"), b"")
            assert (answer.status, answer.code) == (503, "TOOMANYREQUESTS")
            assert int(answer.headers["Retry-After"]) > 0
        assert len(names_in(tmp_path / "repositories")) == 20
        assert client("DELETE", locations[0]).status == 204
        assert client("POST", uploads("more"), b"").status == 202
        for location in locations[1:]:
            assert client("DELETE", location).status == 204
        assert names_in(tmp_path / "repositories") == ["more"]


def test_an_address_that_has_most_sessions_makes_room(tmp_path, monkeypatch):
    """For one that has few, and not for itself; what moves just now stays."""
    monkeypatch.setattr(upload_files, "SESSIONS", 4)
    uploads_ = Uploads(StoreLayout(tmp_path), max_age=10_000)
    greedy = [uploads_.start(NAME, "sha256", "192.0.2.1") for _ in range(4)]
    moved = uploads_.find(NAME, greedy[0])
    moved.moved -= 1000
    with moved.owned():
        with pytest.raises(ProtocolError) as caught:
            uploads_.start(NAME, "sha256", "192.0.2.1")
        assert caught.value.status == 503
        for _ in range(2):
            uploads_.start(NAME, "sha256", "192.0.2.2")
        with pytest.raises(ProtocolError):
            uploads_.start(NAME, "sha256", "192.0.2.2")
    assert moved.path.exists()
    assert sum(moved.path.with_name(str(one)).exists() for one in greedy) == 2


def test_a_session_that_nobody_moved_for_an_hour_makes_room(tmp_path, monkeypatch):
    monkeypatch.setattr(upload_files, "SESSIONS", 3)
    uploads_ = Uploads(StoreLayout(tmp_path), max_age=10_000)
    old, older, young = (uploads_.start(NAME, "sha256") for _ in range(3))
    for session, age in ((old, 3700), (older, 3800), (young, 3500)):
        uploads_.find(NAME, session).moved -= age
    for _ in range(2):
        uploads_.start(NAME, "sha256")
    with pytest.raises(ProtocolError):
        uploads_.start(NAME, "sha256")
    assert uploads_.find(NAME, young).size() == 0


def test_a_session_is_as_old_after_a_restart(tmp_path):
    with serving(tmp_path) as (_, client):
        name = client.start_upload("a").rpartition("/")[2]
    path = tmp_path / "repositories/a/_uploads" / name
    os.utime(path, (time.time() - 5000,) * 2)
    with serving(tmp_path) as (server, _):
        session = server.registry._uploads.find(Repository("a"), SessionId(name))
        assert session.age() > 4900


def test_sessions_begin_while_directories_are_removed(tmp_path):
    """An empty directory goes with its last session, and nobody trips over that."""
    with serving(tmp_path) as (server, _):

        def work(number: int) -> None:
            with open_client(server.host) as client:
                for _ in range(60):
                    location = client.start_upload("one/name")
                    assert client("DELETE", location).status == 204

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))
    assert names_in(tmp_path / "repositories") == []


# Disk


def test_a_registry_keeps_no_more_bytes_than_it_may(tmp_path):
    """507, said by name; a session goes on once there is room."""
    content = random_bytes(600)
    with serving(tmp_path, max_size=1000) as (server, client):
        digest = client.push_blob("a", content)
        location = client.start_upload("a")
        other = random_bytes(600, 1)
        answer = client("PATCH", location, other)
        assert (answer.status, answer.code) == (507, "UNKNOWN")
        assert "--max-size" in answer.json["errors"][0]["message"]
        assert client("GET", f"/v2/a/blobs/{digest}").body == content
        assert client("PATCH", location, other[:400]).status == 202
        manifest = artifact(descriptor(OCI_MANIFEST, b""), "k")
        client("DELETE", f"/v2/a/blobs/{digest}")
        answer = client("PUT", closing(location, digest_of(other)), other[400:])
        assert answer.status == 201
        client.push_blob("a", b"{}")
        assert client.push_manifest("a", "v1", manifest).status == 507
        assert server.registry.space.stored == 602
        assert server.registry.space.received == 0


def test_the_limit_counts_what_an_earlier_server_left(tmp_path):
    with serving(tmp_path) as (_, client):
        client.push_blob("a", random_bytes(600))
        client("PATCH", client.start_upload("a"), random_bytes(300))
    with serving(tmp_path, max_size=1000) as (_, client):
        location = client.start_upload("a")
        assert client("PATCH", location, b"x" * 101).status == 507
        assert client("PATCH", location, b"x" * 100).status == 202


@pytest.mark.parametrize("reason", ["limit", "disk"])
def test_abandoned_uploads_go_when_there_is_no_room(tmp_path, monkeypatch, reason):
    """The oldest first, and never one that moved within the last hour."""
    with serving(tmp_path, max_size=1000 if reason == "limit" else None) as served:
        server, client = served
        made = [client.start_upload("a") for _ in range(3)]
        directory = tmp_path / "repositories/a/_uploads"
        paths = [directory / location.rpartition("/")[2] for location in made]
        for location, path, age in zip(made, paths, (3700, 3800, 3500)):
            assert client("PATCH", location, b"x" * 300).status == 202
            find = server.registry._uploads.find
            find(Repository("a"), SessionId(path.name)).moved -= age
        if reason == "disk":
            monkeypatch.setattr(upload_files, "PIECE", 200)
            fill_disk(monkeypatch, directory, 950)
        for size in (300, 300):
            location = client.start_upload("a")
            assert client("PATCH", location, b"y" * size).status == 202
        assert [path.exists() for path in paths] == [False, False, True]
        location = client.start_upload("a")
        assert client("PATCH", location, b"y" * 300).status == 507
        assert client("GET", made[2]).headers["Range"] == "0-299"


def fill_disk(monkeypatch, directory: Path, size: int) -> None:
    """A disk for uploads of *size* bytes."""
    write = upload_files.StoredUpload._write_bytes

    def limited(file, piece) -> int:
        used = sum(path.stat().st_size for path in directory.iterdir())
        if used + len(piece) > size:
            raise OSError(errno.ENOSPC, "no space left")
        return write(file, piece)

    monkeypatch.setattr(
        upload_files.StoredUpload, "_write_bytes", staticmethod(limited)
    )


def test_a_session_that_ends_gives_its_bytes_back(tmp_path):
    with serving(tmp_path) as (server, client):
        location = client.start_upload("a")
        assert client("PATCH", location, b"x" * 60).status == 202
        assert server.registry.space.received == 60
        assert client("DELETE", location).status == 204
        assert server.registry.space.received == 0


@pytest.mark.skipif(sys.platform == "win32", reason="needs permissions")
def test_a_directory_that_the_registry_makes_is_for_its_owner_alone(tmp_path):
    with serving(tmp_path / "parent/registry"):
        assert (tmp_path / "parent/registry").stat().st_mode & 0o777 == 0o700
