"""A state directory that the first edition wrote goes on working.

``support/first_edition.json`` is what dockerpush left behind at commit f55a92b: it
logged in to a registry, pushed a small image, pulled it into the cache, and was killed
inside the third PATCH of a layer of 4 MiB (``--blob-chunk 1048576``). config.json is
written by hand, as its README shows it. The place of the registry stands there as HOST,
the URL of the session as LOCATION, the time of its last chunk as NOW; ``HASH(...)`` in
a name is what the first edition made of the text, lines divided by ``|``.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import json
import random
import re
import time
from pathlib import Path
from typing import Iterator

import pytest
from conftest import Command
from faultproxy import FaultProxy
from images import MIB, digest_of, docker_archive, tar_of
from registries import write_users

from dockerpush.oci import Digest
from dockerpush.server import Registry, RegistryServer
from dockerpush.state.directory import StateDirectory
from dockerpush.state.known_blobs import KnownBlobs

SUPPORT = Path(__file__).parent.parent / "support"
FILES = json.loads((SUPPORT / "first_edition.json").read_text())
ALICE = "Basic " + base64.b64encode(b"alice:secret").decode()
BIG = tar_of({"big": random.Random(5).randbytes(4 * MIB)})
OFFSET = 2 * MIB
"""What the registry had acknowledged of BIG."""


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[FaultProxy]:
    """A registry that only alice may use; the proxy counts what is sent."""
    users = write_users(tmp_path / "users", {"alice": "secret"})
    with (
        RegistryServer(Registry(tmp_path / "registry"), users=users) as server,
        FaultProxy(server.host) as proxy,
    ):
        yield proxy


@pytest.fixture
def first_state(proxy: FaultProxy, run_cli: Command) -> Path:
    """The state directory; its session is one that is open here, too."""
    location = open_session(proxy.host)
    values = {"HOST": proxy.host, "LOCATION": location, "NOW": str(time.time())}
    for name, content in FILES.items():
        path = run_cli.state / named(name, proxy.host)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_bytes(filled(content, values))
    return run_cli.state


def named(name: str, host: str) -> str:
    """The *name* of a file, as the first edition made it for *host*."""

    def hashed(match: re.Match[str]) -> str:
        text = match[1].replace("HOST", host).replace("|", "\n")
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    return re.sub(r"HASH\((.*)\)", hashed, name)


def filled(content: str | list[str], values: dict[str, str]) -> bytes:
    if isinstance(content, str):
        return base64.b64decode(content.partition(":")[2])
    text = "\n".join(content)
    for word, value in values.items():
        text = text.replace(word, value)
    return text.encode()


def open_session(host: str) -> str:
    """Upload the first bytes of BIG in two PATCHes; the URL of the session."""
    connection = http.client.HTTPConnection(host, timeout=20)
    with contextlib.closing(connection):
        location = ask(connection, "POST", "/v2/team/big/blobs/uploads/")
        for start in range(0, OFFSET, MIB):
            about = {
                "Content-Range": f"{start}-{start + MIB - 1}",
                "Content-Type": "application/octet-stream",
            }
            ask(connection, "PATCH", location, BIG[start : start + MIB], **about)
    return f"http://{host}{location}"


def ask(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: bytes = b"",
    **headers: str,
) -> str:
    """The path of the ``Location`` that the registry answers with."""
    connection.request(method, path, body, {"Authorization": ALICE, **headers})
    response = connection.getresponse()
    response.read()
    assert response.status == 202
    return re.sub(r"^https?://[^/]+", "", response.headers["Location"])


def small_image(path: Path, name: str) -> Path:
    """The image that the first edition pushed, called *name*."""
    layer = tar_of({"etc/motd": b"made by the first edition\n" * 99})
    return docker_archive(path, [layer], names=[name])


def test_an_upload_that_the_first_edition_began_is_continued(
    proxy, first_state, run_cli, tmp_path
):
    """Its bytes before the offset are not sent again, in chunks as config.json says."""
    archive = docker_archive(tmp_path / "big.tar", [BIG])
    schedule = proxy.schedule("team/big")
    done = run_cli("push", archive, "-t", f"{proxy.host}/team/big:1", "--json")
    assert done.returncode == 0, done.stderr
    assert len(BIG) - OFFSET <= schedule.sent < len(BIG) - OFFSET + MIB // 4
    patches = [one for one in schedule.requests if one.startswith("PATCH")]
    assert len(patches) >= 2
    verified = run_cli("verify", archive, f"{proxy.host}/team/big:1")
    assert verified.returncode == 0, verified.stderr
    assert list((first_state / "uploads").glob("*.json")) == []


def test_where_it_pushed_to_is_where_the_next_push_goes(
    proxy, first_state, run_cli, tmp_path
):
    """Nobody is there to be asked, so only what was confirmed is taken."""
    archive = small_image(tmp_path / "app.tar", "demo/app:2")
    done = run_cli("push", archive, "--json")
    assert done.returncode == 0, done.stderr
    assert done.json["target"] == f"{proxy.host}/team/app:2"
    other = small_image(tmp_path / "other.tar", "demo/other:2")
    refused = run_cli("push", other)
    assert refused.returncode == 2
    assert f"{proxy.host}/team/other:2" in refused.stderr


def test_pairs_of_the_first_edition_are_dropped_and_holders_are_kept(
    proxy, first_state, run_cli, tmp_path
):
    (record,) = [json.loads("\n".join(FILES["blobs.json"]).replace("HOST", proxy.host))]
    (key,), (digest,) = record["layers"], record["holders"]
    known = KnownBlobs(StateDirectory(first_state))
    assert known.layer(Digest(key.partition(" ")[2]), "gzip") is None
    assert [one.name for one in known.holders(Digest(digest), proxy.host)] == [
        f"{proxy.host}/team/app"
    ]
    archive = docker_archive(tmp_path / "big.tar", [BIG])
    done = run_cli("push", archive, "-t", f"{proxy.host}/team/big:1")
    assert done.returncode == 0, done.stderr
    after = json.loads((first_state / "blobs.json").read_text())
    assert after["version"] == 2
    assert key not in after["layers"]
    assert after["holders"][digest] == [f"{proxy.host}/team/app"]


def test_its_cache_is_listed_whole_and_pushed_from(proxy, first_state, run_cli):
    """The registry lost the image, so every byte comes from the cache."""
    reference = f"{proxy.host}/team/app:1"
    listed = run_cli("cache", "ls", "--json")
    assert listed.returncode == 0, listed.stderr
    assert reference in listed.stdout
    verified = run_cli("cache", "verify")
    assert verified.returncode == 0, verified.stderr
    done = run_cli("push", reference, "-t", f"{proxy.host}/new/app:1", "--json")
    assert done.returncode == 0, done.stderr
    (image,) = [name for name in FILES if name.startswith("cache/images/")]
    assert done.json["digest"] == json.loads("\n".join(FILES[image]))["digest"]


def test_its_login_is_used_and_can_be_ended(proxy, first_state, run_cli, tmp_path):
    archive = small_image(tmp_path / "app.tar", "demo/app:1")
    target = f"{proxy.host}/team/app:1"
    assert run_cli("push", archive, "-t", target).returncode == 0
    assert run_cli("logout", proxy.host).returncode == 0
    assert json.loads((first_state / "credentials.json").read_text()) == {}
    assert run_cli("push", archive, "-t", target).returncode == 3


def test_its_settings_count(proxy, first_state, run_cli):
    shown = run_cli("config", proxy.host, "--json")
    assert shown.returncode == 0, shown.stderr
    settings = shown.json["settings"]
    found = {
        key: settings[key]["value"] for key in ("plain_http", "blob_chunk", "jobs")
    }
    assert found == {"plain_http": True, "blob_chunk": MIB, "jobs": 1}


def test_what_it_began_is_what_is_pushed_here():
    """The layer is the one whose digest the session has."""
    assert any(digest_of(BIG) in name for name in FILES)
