"""skopeo and podman, as they are, against the embedded registry; and its memory."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import shutil
import sys
import tarfile
from pathlib import Path
from typing import Iterator

import pytest
from conformance import closing, digest_of, open_client, serving
from conftest import peak_rss
from registries import read_back, run, write_htpasswd, write_users
from test_server_uploads import server_process

from dockerpush.oci import OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST

MIB = 1024 * 1024
SKOPEO = ("skopeo", "--insecure-policy")


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny OCI layout: an index over two platforms, each of two layers."""
    path = tmp_path_factory.mktemp("layout")
    children = [write_image(path, platform) for platform in ("amd64", "arm64")]
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": children}
    entry = write_blob(path, OCI_INDEX, json.dumps(index).encode())
    entry["annotations"] = {"org.opencontainers.image.ref.name": "v1"}
    (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (path / "index.json").write_text(json.dumps({**index, "manifests": [entry]}))
    return path


def write_image(path: Path, architecture: str) -> dict:
    """An image in the layout; its descriptor with its platform."""
    platform = {"architecture": architecture, "os": "linux"}
    contents = [tar_of(f"{architecture}/{number}") for number in range(2)]
    diff_ids = [digest_of(content) for content in contents]
    rootfs = {"type": "layers", "diff_ids": diff_ids}
    config = json.dumps({**platform, "config": {"Cmd": ["/a"]}, "rootfs": rootfs})
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": write_blob(path, OCI_CONFIG, config.encode()),
        "layers": [write_blob(path, OCI_LAYER, content) for content in contents],
    }
    raw = json.dumps(manifest).encode()
    return {**write_blob(path, OCI_MANIFEST, raw), "platform": platform}


def tar_of(seed: str) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        member = tarfile.TarInfo(seed)
        member.size = 300_000
        tar.addfile(member, io.BytesIO(random.Random(seed).randbytes(300_000)))
    return file.getvalue()


def write_blob(path: Path, media_type: str, content: bytes) -> dict:
    digest = digest_of(content)
    blob = path / "blobs/sha256" / digest.partition(":")[2]
    blob.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(content)
    return {"mediaType": media_type, "digest": digest, "size": len(content)}


def files_of(path: Path) -> dict[str, bytes]:
    return {blob.name: blob.read_bytes() for blob in (path / "blobs/sha256").iterdir()}


def test_skopeo_pushes_and_pulls_every_platform(tmp_path: Path, layout):
    """A layout goes in and comes out the same, blob for blob."""
    with serving(tmp_path / "registry") as (server, client):
        target = f"docker://{server.host}/team/app:v1"
        flags = ("--dest-tls-verify=false", "--preserve-digests")
        run(*SKOPEO, "copy", "-q", "--all", *flags, f"oci:{layout}:v1", target)
        assert client("GET", "/v2/team/app/tags/list").json["tags"] == ["v1"]
        flags = ("--src-tls-verify=false", "--preserve-digests")
        back = tmp_path / "back"
        run(*SKOPEO, "copy", "-q", "--all", *flags, target, f"oci:{back}:v1")
        assert files_of(back) == files_of(layout)
        said = run(*SKOPEO, "inspect", "--tls-verify=false", "--raw", target)
        assert json.loads(said)["mediaType"] == OCI_INDEX
        listed = run(*SKOPEO, "list-tags", "--tls-verify=false", target[:-3])
        assert json.loads(listed)["Tags"] == ["v1"]


@pytest.mark.parametrize(
    ("format_", "compression"), [("oci", "gzip"), ("oci", "zstd"), ("v2s2", "gzip")]
)
def test_skopeo_pushes_compressed_layers_in_both_formats(
    tmp_path: Path, layout, format_, compression
):
    """skopeo streams PATCHes without a length here; read back, layers are right."""
    seen = []
    with serving(tmp_path / "registry", on_request=seen.append) as (server, _):
        target = f"docker://{server.host}/app:v1"
        flags = ["--dest-tls-verify=false", "--dest-compress-format", compression]
        source = f"oci:{layout}:v1"
        run(*SKOPEO, "copy", "-q", "-f", format_, *flags, source, target)
        image = read_back(server.host, "app", "v1")
        assert image.layers == image.diff_ids
    encodings = {one.headers.first("Transfer-Encoding") for one in seen}
    assert "chunked" in encodings


def test_skopeo_deletes(tmp_path: Path, layout):
    with serving(tmp_path / "registry") as (server, client):
        target = f"docker://{server.host}/app:v1"
        flags = ("--dest-tls-verify=false",)
        run(*SKOPEO, "copy", "-q", *flags, f"oci:{layout}:v1", target)
        run(*SKOPEO, "delete", "--tls-verify=false", target)
        assert client("GET", "/v2/app/manifests/v1").status == 404


@pytest.mark.parametrize("kind", ["htpasswd", "users"])
def test_skopeo_logs_in_with_either_kind_of_password_file(kind, tmp_path, layout):
    """The one of htpasswd is the bcrypt file that Debian's registry wants, too."""
    write = write_users
    if kind == "htpasswd":
        pytest.importorskip("bcrypt")
        write = write_htpasswd
    users = write(tmp_path / "users", {"alice": "p:a s$s%"})
    with serving(tmp_path / "registry", **{kind: users}) as (server, _):
        target = f"docker://{server.host}/app:v1"
        flags = ["--dest-tls-verify=false", "--dest-creds"]
        push = (*SKOPEO, "copy", "-q", *flags)
        with pytest.raises(RuntimeError, match="authentication required"):
            run(*push, "alice:wrong", f"oci:{layout}:v1", target)
        run(*push, "alice:p:a s$s%", f"oci:{layout}:v1", target)
        image = read_back(server.host, "app", "v1", credentials=("alice", "p:a s$s%"))
        assert image.layers == image.diff_ids


@pytest.fixture
def podman(tmp_path_factory: pytest.TempPathFactory):
    """podman with a store of its own, below a path as short as it wants one."""
    directory = tmp_path_factory.mktemp("p")
    environment = {"PATH": os.environ["PATH"], "HOME": str(directory)}
    flags = ["--root", directory / "root", "--runroot", directory / "run"]

    def call(*arguments: object) -> str:
        command = ["podman", *flags, "--storage-driver", "vfs", *arguments]
        return run(*command, env=environment).decode().strip()

    yield call
    shutil.rmtree(directory)


def test_podman_pushes_and_pulls(tmp_path: Path, layout, podman):
    """What is in podman's store gets into the registry, and the other way."""
    with serving(tmp_path / "registry") as (server, client):
        image = f"{server.host}/team/app"
        name = podman("pull", "-q", f"oci:{layout}:v1")
        for tag in ("one", "two"):
            podman("push", "-q", "--tls-verify=false", name, f"{image}:{tag}")
        assert client("GET", "/v2/team/app/tags/list").json["tags"] == ["one", "two"]
        found = read_back(server.host, "team/app", "two")
        assert found.layers == found.diff_ids
        podman("rmi", "-a", "-f")
        pulled = podman("pull", "-q", "--tls-verify=false", f"{image}:one")
        assert pulled == hashlib.sha256(found.config).hexdigest()


class Pieces:
    """*size* made-up bytes as a file for http.client, hashed on the way out."""

    def __init__(self, size: int) -> None:
        self._left = size
        self._piece = random.Random(size).randbytes(MIB)
        self.hasher = hashlib.sha256()

    def __iter__(self) -> Iterator[bytes]:
        return iter(lambda: self.read(MIB), b"")

    def read(self, count: int) -> bytes:
        piece = self._piece[: min(count, self._left)]
        self._left -= len(piece)
        self.hasher.update(piece)
        return piece


@pytest.mark.long
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_memory_is_flat_while_300_mib_come_in_and_go_out(tmp_path: Path):
    """By length in one PATCH, 300 MiB more streamed, then pulled twice."""
    with (
        server_process(tmp_path / "registry") as (child, host),
        open_client(host) as client,
    ):
        client.push_image("a", "v1")
        before = peak_rss(child.pid)
        for headers in ({"Content_Length": str(300 * MIB)}, {}):
            pieces = Pieces(300 * MIB)
            location = client.start_upload("a")
            body = pieces if headers else iter(pieces)
            answer = client("PATCH", location, body, **headers)
            assert answer.headers["Range"] == f"0-{300 * MIB - 1}"
            digest = "sha256:" + pieces.hasher.hexdigest()
            assert client("PUT", closing(location, digest), b"").status == 201
        for _ in range(2):
            client.connection.request("GET", f"/v2/a/blobs/{digest}")
            hasher = hashlib.sha256()
            with client.connection.getresponse() as response:
                while piece := response.read(MIB):
                    hasher.update(piece)
            assert f"sha256:{hasher.hexdigest()}" == digest
        after = peak_rss(child.pid)
    assert after < before + 6 * MIB
    assert after < 50 * MIB
