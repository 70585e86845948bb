"""The client against a real registry: Debian's docker-registry, with TLS and users."""

from __future__ import annotations

import ssl
from typing import Iterator

import pytest
from registries import DockerRegistry, start_docker_registry

from dockerpush.credentials.identity import Credentials, Secret
from dockerpush.errors import NetworkError, NotFoundInRegistry, Unauthorized
from dockerpush.oci import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, Descriptor, Manifest
from dockerpush.registry.answers import PIECE
from dockerpush.registry.client import RegistryClient
from dockerpush.registry.transport import TransportSettings
from dockerpush.system.cancellation import Cancellation

NAME = "team/app"
CONTENT = bytes(range(256)) * 4096 * 3
LAYER = Descriptor.of(OCI_LAYER, CONTENT)
CONFIG = b'{"os":"linux","architecture":"amd64","rootfs":{"type":"layers"}}'


@pytest.fixture(scope="module")
def registry(tmp_path_factory) -> Iterator[DockerRegistry]:
    directory = tmp_path_factory.mktemp("registry")
    users = {"alice": "correct horse"}
    with start_docker_registry(directory, users=users, tls=True) as running:
        yield running


def client_as(
    registry: DockerRegistry, cancellation: Cancellation, password: str
) -> RegistryClient:
    def trusting(host_port: str) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=registry.authority)

    credentials = Credentials("alice", Secret(password), source="a test")
    return RegistryClient(
        registry.host,
        TransportSettings(ssl_context=trusting),
        cancellation,
        credentials=lambda registry, repository: credentials,
    )


@pytest.fixture
def client(registry) -> Iterator[RegistryClient]:
    with Cancellation() as stop, client_as(registry, stop, "correct horse") as client:
        yield client


def pieces(content: bytes) -> Iterator[memoryview]:
    view = memoryview(content)
    for start in range(0, len(view), PIECE):
        yield view[start : start + PIECE]


def test_an_image_goes_there_and_comes_back(client):
    """In two chunks and a closing PUT; the config in one PUT; then the manifest."""
    half = len(CONTENT) // 2
    upload = client.start_upload(NAME)
    for part in (CONTENT[:half], CONTENT[half:]):
        upload = client.send_chunk(NAME, upload, pieces(part), len(part))
    assert client.upload_status(NAME, upload).offset == len(CONTENT)
    client.finish_upload(NAME, upload, LAYER.digest)
    config = Descriptor.of(OCI_CONFIG, CONFIG)
    upload = client.start_upload(NAME)
    client.finish_upload(NAME, upload, config.digest, body=[CONFIG], size=len(CONFIG))
    raw = Manifest(OCI_MANIFEST, config, (LAYER,)).to_bytes()
    client.put_manifest(NAME, "1", raw, OCI_MANIFEST)
    assert client.blob_size(NAME, LAYER.digest) == len(CONTENT)
    assert client.read_manifest(NAME, "1") == (Descriptor.of(OCI_MANIFEST, raw), raw)
    assert client.manifest_descriptor(NAME, "1") == Descriptor.of(OCI_MANIFEST, raw)
    assert list(client.tags(NAME)) == ["1"]
    assert client.start_upload("team/b", mount=LAYER.digest, source=NAME) is None
    with client.open_blob(NAME, LAYER.digest, len(CONTENT) - 5) as reader:
        assert (reader.read(), reader.size) == (CONTENT[-5:], len(CONTENT))


def test_a_cancelled_upload_is_gone(client):
    upload = client.start_upload(NAME)
    client.cancel_upload(NAME, upload)
    with pytest.raises(NotFoundInRegistry) as caught:
        client.upload_status(NAME, upload)
    assert caught.value.code == "BLOB_UPLOAD_UNKNOWN"
    assert "_state=" not in str(caught.value)


def test_a_wrong_password_is_reported_with_its_source(registry):
    with Cancellation() as cancellation:
        client = client_as(registry, cancellation, "wrong")
        with client, pytest.raises(Unauthorized, match=r"'alice' .from a test"):
            client.ping()


def test_plain_http_to_it_is_reported(registry):
    with Cancellation() as cancellation:
        settings = TransportSettings(plain_http=True)
        client = RegistryClient(registry.host, settings, cancellation)
        with client, pytest.raises(NetworkError, match="leave out --plain-http"):
            client.ping()
