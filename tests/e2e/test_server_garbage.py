"""``serve --gc``: what no manifest names goes, while the registry serves."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
from conformance import (
    Image,
    artifact,
    closing,
    descriptor,
    digest_of,
    index_of,
    open_client,
    random_bytes,
    serving,
)

from dockerpush.oci import OCI_INDEX, OCI_MANIFEST
from dockerpush.server import ServerError, garbage, storage
from dockerpush.server.garbage import collect
from dockerpush.system import files


def age(root: Path, seconds: float = 4000) -> None:
    """Let everything be older than a manifest may take to come."""
    then = time.time() - seconds
    for path in root.rglob("*"):
        if path.is_file():
            os.utime(path, (then, then))


def contents(root: Path) -> set[str]:
    return {path.name for path in (root / "blobs").rglob("*") if path.is_file()}


def names_of(*digests: str) -> set[str]:
    return {digest.partition(":")[2] for digest in digests}


def test_what_no_manifest_names_goes_and_all_else_stays(tmp_path):
    """Images, children of an index, referrers, and what a manifest names elsewhere."""
    image, other = Image(1), Image(2)
    with serving(tmp_path) as (server, client):
        client.push_image("a", "v1", 1)
        client.push_image("b/c", "v1", 2)
        index = index_of(other.descriptor)
        assert client.push_manifest("b/c", "all", index, OCI_INDEX).status == 201
        client.push_blob("a", b"{}")
        referrer = artifact(descriptor(OCI_MANIFEST, image.manifest), "k")
        assert client.push_manifest("a", "sig", referrer).status == 201
        stray = client.push_blob("a", random_bytes(5000, 7))
        client.push_blob("b/c", image.blobs[image.layers[0]["digest"]])
        age(tmp_path)
        young = client.push_blob("a", random_bytes(5000, 8))
        before = contents(tmp_path)
        dry = collect(tmp_path, dry_run=True)
        assert (dry.files, dry.size) == (1, 5000)
        assert contents(tmp_path) == before
        assert collect(tmp_path) == dry
        assert contents(tmp_path) == before - names_of(stray)
        assert client("HEAD", f"/v2/a/blobs/{young}").status == 200
        assert client("HEAD", f"/v2/a/blobs/{stray}").status == 404
        layer = image.layers[0]["digest"]
        assert client("HEAD", f"/v2/b/c/blobs/{layer}").status == 404
        assert client("HEAD", f"/v2/a/blobs/{layer}").status == 200
        # the server knows by its next change
        client.push_blob("a", b"x")
        assert server.registry.space.stored == sum(
            path.stat().st_size for path in (tmp_path / "blobs").rglob("*/*/*")
        )
        client.push_blob("a", random_bytes(5000, 7))
        assert client("DELETE", f"/v2/a/blobs/{stray}").status == 202
        assert names_of(stray).isdisjoint(contents(tmp_path))
    assert collect(tmp_path).files == 0


def test_what_a_deleted_manifest_named_goes(tmp_path):
    image = Image(1)
    with serving(tmp_path) as (_, client):
        client.push_image("a", "v1", 1)
        client("DELETE", f"/v2/a/manifests/{image.digest}")
    age(tmp_path)
    assert collect(tmp_path).files == len(image.blobs)
    assert contents(tmp_path) == set()


def test_a_manifest_that_comes_meanwhile_keeps_its_blobs(tmp_path, monkeypatch):
    """Between the look at the manifests and the removal."""
    image = Image(1)
    with serving(tmp_path) as (_, client):
        for blob in image.blobs.values():
            client.push_blob("a", blob)
        age(tmp_path)
        look = garbage._Collector.look

        def looked(self, name):
            found = look(self, name)
            assert client.push_manifest("a", "v1", image.manifest).status == 201
            return found

        monkeypatch.setattr(garbage._Collector, "look", looked)
        assert collect(tmp_path).files == 0
        for digest in image.blobs:
            assert client("GET", f"/v2/a/blobs/{digest}").status == 200


@pytest.mark.long
def test_images_that_are_pushed_all_the_time_stay_whole(tmp_path, monkeypatch):
    """Every manifest that was taken can be pulled, however often garbage goes."""
    monkeypatch.setattr(garbage, "YOUNG", -1000.0)
    stop, broken, taken = threading.Event(), [], []

    def push(number: int, host: str) -> None:
        with open_client(host) as client:
            seed = number * 10_000
            while not stop.is_set():
                seed += 1
                image = Image(seed)
                for blob in image.blobs.values():
                    client.push_blob("a", blob)
                status = client.push_manifest("a", f"v{seed}", image.manifest).status
                if status == 201:
                    taken.append(image)
                elif status != 400:
                    broken.append(status)

    with serving(tmp_path) as (server, client):
        threads = [
            threading.Thread(target=push, args=(n, server.host)) for n in range(3)
        ]
        for thread in threads:
            thread.start()
        until = time.monotonic() + 2
        while time.monotonic() < until or not taken:
            collect(tmp_path)
            time.sleep(0.02)
        stop.set()
        for thread in threads:
            thread.join()
        for image in taken:
            for digest in image.blobs:
                assert client("GET", f"/v2/a/blobs/{digest}").status == 200
    assert not broken and taken


def test_a_manifest_that_cannot_be_read_keeps_everything(tmp_path):
    image = Image(1)
    with serving(tmp_path) as (_, client):
        client.push_image("a", "v1", 1)
        client.push_blob("a", b"stray")
    digest = image.digest.partition(":")[2]
    (tmp_path / "blobs/sha256" / digest[:2] / digest).write_bytes(b"damaged")
    age(tmp_path)
    done = collect(tmp_path)
    assert (done.files, done.unread) == (0, ("a",))


def test_a_directory_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").write_text("kept")
    with pytest.raises(ServerError, match="no registry has stored anything there"):
        collect(tmp_path / "other")
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["file"]


def test_a_change_that_lasts_too_long_is_reported(tmp_path, monkeypatch):
    """By the server with 503, by the command in one line."""
    monkeypatch.setattr(storage, "CHANGE_SECONDS", 0.1)
    with serving(tmp_path) as (_, client):
        location = client.start_upload("a")
        with files.locked(tmp_path / "changes", timeout=5):
            answer = client("PUT", closing(location, digest_of(b"abc")), b"abc")
            assert (answer.status, answer.code) == (503, "TOOMANYREQUESTS")
            assert answer.headers["Retry-After"]
            with pytest.raises(ServerError, match="too many changes at once"):
                collect(tmp_path)
        assert client("PUT", closing(location, digest_of(b"abc")), b"").status == 201


def test_the_command_says_what_goes(run_cli, tmp_path):
    with serving(tmp_path / "r") as (_, client):
        stray = client.push_blob("a", random_bytes(5000))
        age(tmp_path)
        where = ("serve", "--dir", tmp_path / "r", "--gc")
        done = run_cli(*where, "--dry-run")
        assert done.stdout.startswith("would remove 1 blob, ")
        assert client("HEAD", f"/v2/a/blobs/{stray}").status == 200
        done = run_cli(*where)
        assert (done.returncode, done.stdout.split(",")[0]) == (0, "removed 1 blob")
        assert client("HEAD", f"/v2/a/blobs/{stray}").status == 404
    assert run_cli("serve", "--dir", tmp_path / "none", "--gc").returncode == 4
    assert run_cli("serve", "--dry-run").returncode == 2
    assert run_cli(*where, "image.tar").returncode == 2
