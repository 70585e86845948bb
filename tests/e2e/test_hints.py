"""What another user left in a directory that we use is a hint, and never content."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import socket
import threading
from pathlib import Path
from typing import Iterator

import pytest
from conftest import Command, Finished
from images import docker_archive, tar_of

from dockerpush.oci import Digest
from dockerpush.server import Registry, RegistryServer
from dockerpush.state.upload_sessions import UploadSessions

OTHER = 4321
"""The number of another user."""
LAYER = tar_of({"ours": b"1" * 3000})
FOREIGN = gzip.compress(tar_of({"theirs": b"2" * 3000}), mtime=0)
NOISE = tar_of({"noise": os.urandom(300_000)})

pytestmark = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give away"
)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RegistryServer]:
    with RegistryServer(Registry(tmp_path / "registry")) as server:
        yield server


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return docker_archive(tmp_path / "image.tar", [LAYER, NOISE])


def give_away(path: Path) -> Path:
    os.chown(path, OTHER, OTHER)
    return path


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def succeeds(done: Finished) -> Finished:
    assert done.returncode == 0, done.stderr
    return done


def push_blob(server: RegistryServer, run_cli: Command, tmp_path: Path) -> None:
    """Have the repository ``app`` hold FOREIGN."""
    archive = docker_archive(tmp_path / "theirs.tar", [gzip.decompress(FOREIGN)])
    succeeds(run_cli("push", archive, "-t", f"{server.host}/app:theirs"))


@pytest.mark.parametrize("owner", [OTHER, 0])
def test_pairs_of_another_user_are_no_pairs(owner, server, archive, run_cli, tmp_path):
    """Ours are, which shows that the file is one that would have been believed."""
    push_blob(server, run_cli, tmp_path)
    known = run_cli.state / "blobs.json"
    record = json.loads(known.read_text())
    ((pair, theirs),) = record["layers"].items()
    codec = pair.partition(" ")[0]
    record["layers"][f"{codec} {digest(LAYER)}"] = theirs
    known.write_text(json.dumps(record))
    os.chown(known, owner, owner)
    done = succeeds(run_cli("push", archive, "-t", f"{server.host}/app:1", "--json"))
    shown = run_cli("inspect", f"{server.host}/app:1", "--json").stdout
    is_theirs = theirs["digest"] in shown
    assert is_theirs == (owner == 0)
    assert ("without it" in done.stderr) == (owner == OTHER)


def test_holders_that_hold_nothing_are_hints(server, archive, run_cli, tmp_path):
    """All blobs are there afterwards, whatever the state says of who has them."""
    image = f"{server.host}/app:1"
    succeeds(run_cli("push", archive, "-t", image, "--compress", "none"))
    known = run_cli.state / "blobs.json"
    record = json.loads(known.read_text())
    for name in record["holders"]:
        record["holders"][name] = [f"{server.host}/{one}" for one in ("new", "none")]
    known.write_text(json.dumps(record))
    new = f"{server.host}/new:1"
    succeeds(run_cli("push", archive, "-t", new, "--compress", "none"))
    succeeds(run_cli("verify", archive, new))


def test_no_byte_goes_where_an_upload_of_another_user_says(
    server, archive, run_cli, tmp_path
):
    sessions = UploadSessions(run_cli.state / "uploads")
    path = sessions.path_of((server.host, "app", Digest(digest(NOISE))))
    asked = []
    with socket.create_server(("127.0.0.1", 0)) as thief:
        thief.settimeout(0.1)

        def accept() -> None:
            while not over.is_set():
                try:
                    sock, _ = thief.accept()
                except OSError:
                    continue
                asked.append(sock.recv(100))
                sock.close()

        over = threading.Event()
        thread = threading.Thread(target=accept)
        thread.start()
        with sessions.claim(server.host, "app", Digest(digest(NOISE))) as claim:
            url = f"http://127.0.0.1:{thief.getsockname()[1]}/upload"
            claim.record(url, 0, 64 * 1024)
        give_away(path)
        words = ("--compress", "none", "--blob-chunk", "64KiB")
        succeeds(run_cli("push", archive, "-t", f"{server.host}/app:1", *words))
        over.set()
        thread.join()
    assert asked == []
    succeeds(run_cli("verify", archive, f"{server.host}/app:1"))


def test_an_image_that_another_user_put_into_the_cache_is_not_pushed(
    server, archive, run_cli, tmp_path
):
    push_blob(server, run_cli, tmp_path)
    ours, theirs = f"{server.host}/app:1", f"{server.host}/app:theirs"
    expected = succeeds(run_cli("push", archive, "-t", ours, "--json")).json["digest"]
    for image in (ours, theirs):
        succeeds(run_cli("pull", image))
    records = {}
    for path in (run_cli.state / "cache" / "images").glob("*.json"):
        record = json.loads(path.read_text())
        records[record["reference"]] = (path, record)
    path, _ = records[ours]
    path.write_text(json.dumps({**records[theirs][1], "reference": ours}))
    give_away(path)
    copy = f"{server.host}/copy:1"
    done = run_cli("push", ours, "-t", copy, "--json")
    assert done.returncode or done.json["digest"] == expected


@pytest.mark.parametrize("command", ["copy", "pull", "push"])
def test_blobs_that_another_user_wrote_are_hashed(
    command, server, archive, run_cli, tmp_path
):
    """Of the right size, below the right name, and of other bytes."""
    image = f"{server.host}/app:1"
    succeeds(run_cli("push", archive, "-t", image, "--compress", "none"))
    directory = tmp_path / "layout"
    blobs = directory / "blobs" / "sha256"
    if command == "push":
        blobs = run_cli.state / "cache" / "blobs" / "sha256"
        succeeds(run_cli("pull", image))
    blobs.mkdir(parents=True, exist_ok=True)
    planted = blobs / digest(NOISE)[7:]
    planted.write_bytes(b"x" * len(NOISE))
    give_away(planted)
    if command == "copy":
        succeeds(run_cli("copy", image, f"oci:{directory}"))
    elif command == "pull":
        succeeds(run_cli("pull", image, "-o", f"{directory}/"))
    else:
        succeeds(run_cli("pull", image, "-o", tmp_path / "out.tar"))
        succeeds(run_cli("verify", tmp_path / "out.tar", image))
    assert digest(planted.read_bytes()) == digest(NOISE)


def test_blobs_that_another_user_wrote_and_that_are_right_are_used(
    server, archive, run_cli, tmp_path
):
    image = f"{server.host}/app:1"
    succeeds(run_cli("push", archive, "-t", image, "--compress", "none"))
    directory = tmp_path / "layout"
    succeeds(run_cli("copy", image, f"oci:{directory}"))
    layers = [directory / "blobs/sha256" / digest(raw)[7:] for raw in (LAYER, NOISE)]
    before = {give_away(path): path.stat().st_ino for path in layers}
    succeeds(run_cli("copy", image, f"oci:{directory}:again"))
    assert {path: path.stat().st_ino for path in before} == before
