"""Archives that are served as they lie there, beside a directory."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from conformance import (
    Image,
    artifact,
    descriptor,
    digest_of,
    index_of,
    raw_exchange,
    serving,
    uploads,
)

from dockerpush.oci import OCI_INDEX, OCI_MANIFEST, Digest
from dockerpush.server import ReadOnlySource, ServedManifest, SourceBlob
from dockerpush.server.messages import ProtocolError


class Archive:
    """Blobs in memory, and a count of how often each was opened."""

    def __init__(self, *images: Image, repositories: dict, more: tuple = ()) -> None:
        self.blobs = {
            digest: blob for image in images for digest, blob in image.blobs.items()
        }
        self.opened: list[tuple[str, int]] = []
        self.closed = 0
        raws = [(OCI_MANIFEST, image.manifest) for image in images]
        manifests = {
            Digest.of(raw): ServedManifest(kind, Digest.of(raw), raw)
            for kind, raw in [*raws, *more]
        }
        blobs = {Digest(digest): self.blob(digest) for digest in self.blobs}
        self.source = ReadOnlySource(repositories, manifests, blobs)

    def blob(self, digest: str) -> SourceBlob:
        def open_at(offset: int) -> io.BytesIO:
            self.opened.append((digest, offset))
            return Reader(self, self.blobs[digest][offset:])

        return SourceBlob(len(self.blobs[digest]), open_at)


class Reader(io.BytesIO):
    def __init__(self, archive: Archive, content: bytes) -> None:
        super().__init__(content)
        self._archive = archive

    def close(self) -> None:
        self._archive.closed += not self.closed
        super().close()


@pytest.fixture
def image() -> Image:
    return Image(1, size=400_000)


@pytest.fixture
def archive(image) -> Archive:
    return Archive(image, repositories={"app": {"v1": Digest(image.digest)}})


@pytest.fixture
def served(tmp_path: Path, archive):
    with serving(tmp_path / "registry", sources=[archive.source]) as (server, client):
        yield server, client
    assert archive.closed == len(archive.opened)


def test_an_archive_is_pulled_without_being_copied(served, tmp_path, image, archive):
    client = served[1]
    for reference in ("v1", image.digest):
        answer = client("GET", f"/v2/app/manifests/{reference}")
        assert (answer.status, answer.body) == (200, image.manifest)
        assert answer.headers["Docker-Content-Digest"] == image.digest
    for digest, blob in image.blobs.items():
        assert client("HEAD", f"/v2/app/blobs/{digest}").headers[
            "Content-Length"
        ] == str(len(blob))
        assert client("GET", f"/v2/app/blobs/{digest}").body == blob
    layer = image.layers[0]["digest"]
    answer = client("GET", f"/v2/app/blobs/{layer}", Range="bytes=1000-1999")
    assert (answer.status, answer.body) == (206, image.blobs[layer][1000:2000])
    assert archive.opened[-1] == (layer, 1000)
    assert client("GET", "/v2/app/tags/list").json["tags"] == ["v1"]
    assert client("GET", "/v2/_catalog").json["repositories"] == ["app"]
    assert not (tmp_path / "registry/blobs").exists()


def test_an_archive_is_found_under_its_own_repositories_only(served, image):
    client = served[1]
    assert client("GET", "/v2/other/manifests/v1").status == 404
    assert client("GET", f"/v2/other/manifests/{image.digest}").status == 404
    assert client("GET", f"/v2/other/blobs/{image.config['digest']}").status == 404
    assert client("GET", "/v2/other/tags/list").code == "NAME_UNKNOWN"
    assert client("GET", "/v2/app/manifests/v2").code == "MANIFEST_UNKNOWN"


@pytest.mark.parametrize("size", [1, 1_000_000])
def test_wrong_bytes_of_an_archive_are_never_served_whole(served, archive, size):
    """The last bytes of a blob are kept back until its digest is right."""
    wrong = bytes(size)
    digest = digest_of(b"something else" * size)
    archive.blobs[digest] = wrong
    archive.source.blobs[Digest(digest)] = archive.blob(digest)
    for _ in range(2):
        head = f"GET /v2/app/blobs/{digest} HTTP/1.1\r\nConnection: close\r\n\r\n"
        raw = raw_exchange(served[0].host, head.encode())
        assert f"Content-Length: {size}".encode() in raw
        assert len(raw.partition(b"\r\n\r\n")[2]) < size


def test_an_archive_that_shrinks_ends_the_answer(served, archive, image):
    layer = image.layers[0]["digest"]
    archive.blobs[layer] = archive.blobs[layer][:1000]
    raw = raw_exchange(
        served[0].host, f"GET /v2/app/blobs/{layer} HTTP/1.1\r\n\r\n".encode()
    )
    assert len(raw.partition(b"\r\n\r\n")[2]) <= 1000


def test_what_an_archive_holds_cannot_be_changed(served, image):
    """DENIED, because a client that reads back would see the archive's again."""
    client = served[1]
    other = client.push_image("other", "v1", seed=2)
    for blob in Image(2).blobs.values():
        client.push_blob("app", blob)
    for method, target, body in (
        ("PUT", "/v2/app/manifests/v1", other),
        ("DELETE", "/v2/app/manifests/v1", b""),
        ("DELETE", f"/v2/app/manifests/{image.digest}", b""),
        ("DELETE", f"/v2/app/blobs/{image.config['digest']}", b""),
    ):
        answer = client(method, target, body, Content_Type=OCI_MANIFEST)
        assert (answer.status, answer.code) == (405, "DENIED")
    assert client("GET", "/v2/app/manifests/v1").body == image.manifest


def test_the_directory_adds_to_what_an_archive_holds(served, image):
    """New tags of the same repository, on blobs of the archive too."""
    client = served[1]
    other = client.push_image("app", "v2", seed=2)
    assert client("GET", "/v2/app/manifests/v2").body == other
    answer = client.push_manifest("app", "again", image.manifest)
    assert answer.status == 201
    record = index_of(image.descriptor, descriptor(OCI_MANIFEST, other))
    assert client.push_manifest("app", "both", record, OCI_INDEX).status == 201
    tags = client("GET", "/v2/app/tags/list").json["tags"]
    assert tags == ["again", "both", "v1", "v2"]


def test_a_blob_of_an_archive_is_not_mounted_elsewhere(served, image):
    """The archive may be gone tomorrow, so the client sends the bytes instead."""
    layer = image.layers[0]["digest"]
    for query in ({"mount": layer, "from": "app"}, {"mount": layer}):
        assert served[1]("POST", uploads("other", **query), b"").status == 202


def test_referrers_of_an_archive_and_of_the_directory_are_listed_together(
    tmp_path, image
):
    inside = json.dumps(artifact(image.descriptor, "application/x-sbom")).encode()
    archive = Archive(
        image,
        repositories={"app": {"v1": Digest(image.digest)}},
        more=((OCI_MANIFEST, inside),),
    )
    with serving(tmp_path / "registry", sources=[archive.source]) as (_, client):
        client.push_blob("app", b"{}")
        outside = artifact(image.descriptor, "application/x-signature")
        assert client.push_manifest("app", "signature", outside).status == 201
        answer = client("GET", f"/v2/app/referrers/{image.digest}")
        kinds = {entry["artifactType"] for entry in answer.json["manifests"]}
        assert kinds == {"application/x-sbom", "application/x-signature"}


def test_the_first_of_several_archives_wins(tmp_path, image):
    other = Image(3)
    tags = [{"app": {"v1": Digest(one.digest)}} for one in (image, other)]
    sources = [
        Archive(one, repositories=tag).source for one, tag in zip((image, other), tags)
    ]
    options = {"sources": sources, "read_only": True}
    with serving(tmp_path / "none", **options) as (_, client):
        assert client("GET", "/v2/app/manifests/v1").body == image.manifest
        assert client("GET", f"/v2/app/manifests/{other.digest}").status == 200


def test_a_repository_name_of_an_archive_is_checked():
    with pytest.raises(ProtocolError, match="not a repository name"):
        ReadOnlySource({"App": {}}, {}, {})
