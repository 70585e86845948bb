"""A small client and made-up content, for tests that speak to the embedded registry."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import random
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator
from urllib.parse import urlencode

from dockerpush.oci import OCI_CONFIG, OCI_INDEX, OCI_LAYER_GZIP, OCI_MANIFEST
from dockerpush.server import Registry, RegistryServer

EMPTY_TYPE = "application/vnd.oci.empty.v1+json"


@dataclass(frozen=True)
class Answer:
    """A response, read to its end."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The first error code; every error body must have the specified shape."""
        errors = self.json["errors"]
        assert all(error["code"].replace("_", "").isupper() for error in errors)
        return errors[0]["code"]

    @property
    def location(self) -> str:
        assert self.headers["Location"], "no Location"
        return self.headers["Location"]


class Client:
    """One keep-alive connection, opened again when the server has closed it."""

    def __init__(self, host: str, **options: Any) -> None:
        options.setdefault("timeout", 20)
        self.host = host
        kind = http.client.HTTPSConnection
        if "context" not in options:
            kind = http.client.HTTPConnection
        self.connection = kind(host, **options)

    def __call__(
        self, method: str, target: str, body: Any = None, **headers: str
    ) -> Answer:
        """*headers* with underscores for hyphens: ``Content_Type="..."``."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.connection.request(method, target, body, named)
        response = self.connection.getresponse()
        return Answer(response.status, response.headers, response.read())

    def close(self) -> None:
        self.connection.close()

    def start_upload(self, repository: str, **query: str) -> str:
        """The location of a new session."""
        answer = self("POST", uploads(repository, **query), Content_Length="0")
        assert answer.status == 202
        return answer.location

    def push_blob(self, repository: str, content: bytes, algorithm="sha256") -> str:
        """Push *content* with POST and PUT; its digest."""
        digest = digest_of(content, algorithm)
        location = self.start_upload(repository)
        answer = self("PUT", closing(location, digest), content)
        assert answer.status == 201, answer
        return digest

    def push_manifest(
        self, repository: str, reference: str, manifest: Any, media_type=OCI_MANIFEST
    ) -> Answer:
        """Push *manifest*, a record or raw bytes, under a tag or digest."""
        raw = manifest if isinstance(manifest, bytes) else json.dumps(manifest).encode()
        target = f"/v2/{repository}/manifests/{reference}"
        return self("PUT", target, raw, Content_Type=media_type)

    def push_image(self, repository: str, tag: str, seed: int = 0) -> bytes:
        """Push a little image of its own for each *seed*; the manifest's bytes."""
        image = Image(seed)
        for blob in image.blobs.values():
            self.push_blob(repository, blob)
        answer = self.push_manifest(repository, tag, image.manifest)
        assert answer.status == 201, answer
        return image.manifest


def open_client(host: str, **options: Any) -> contextlib.closing[Client]:
    """A client for a ``with``."""
    return contextlib.closing(Client(host, **options))


class Image:
    """A made-up image: *blobs* by digest, and the manifest's bytes."""

    def __init__(self, seed: int = 0, *, layers: int = 2, size: int = 2000) -> None:
        contents = [random_bytes(size, seed * 100 + n) for n in range(layers)]
        diff_ids = [digest_of(content) for content in contents]
        rootfs = {"type": "layers", "diff_ids": diff_ids}
        config = {"architecture": "amd64", "os": "linux", "rootfs": rootfs}
        raw = json.dumps(config).encode()
        self.config = descriptor(OCI_CONFIG, raw)
        self.layers = [descriptor(OCI_LAYER_GZIP, content) for content in contents]
        self.blobs = {digest_of(blob): blob for blob in [raw, *contents]}
        self.record = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": self.config,
            "layers": self.layers,
        }
        self.manifest = json.dumps(self.record).encode()
        self.digest = digest_of(self.manifest)
        self.descriptor = descriptor(OCI_MANIFEST, self.manifest)


def artifact(subject: dict, kind: str, **annotations: str) -> dict:
    """A manifest that refers to *subject*; it needs the blob ``{}``."""
    empty = descriptor(EMPTY_TYPE, b"{}")
    return {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": kind,
        "config": empty,
        "layers": [empty],
        "subject": subject,
        "annotations": annotations,
    }


def index_of(*children: dict, **more: Any) -> dict:
    """An index of descriptors."""
    record = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(children)}
    return {**record, **more}


def descriptor(media_type: str, content: bytes, algorithm: str = "sha256") -> dict:
    digest = digest_of(content, algorithm)
    return {"mediaType": media_type, "digest": digest, "size": len(content)}


def digest_of(content: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"


def random_bytes(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def uploads(repository: str, **query: str) -> str:
    """Where sessions of *repository* start."""
    tail = "?" + urlencode(query) if query else ""
    return f"/v2/{repository}/blobs/uploads/{tail}"


def closing(location: str, digest: str) -> str:
    """*location* with the digest parameter that closes a session."""
    mark = "&" if "?" in location else "?"
    return f"{location}{mark}{urlencode({'digest': digest})}"


@contextlib.contextmanager
def serving(directory: Path, **options: Any) -> Iterator[tuple[RegistryServer, Client]]:
    """A server on *directory* and a client of it.

    *options* of RegistryServer are told from those of Registry by name.
    """
    names = ("address", "htpasswd", "users", "tls", "on_request", "client_timeout")
    names += ("on_access", "names", "metrics_public", "page")
    outer = {name: options.pop(name) for name in names if name in options}
    with RegistryServer(Registry(directory, **options), **outer) as server:
        client = Client(server.host)
        try:
            yield server, client
        finally:
            client.close()


def raw_exchange(host: str, *pieces: bytes, timeout: float = 10) -> bytes:
    """What comes back for bytes as they are, until the server closes or is silent."""
    name, _, port = host.rpartition(":")
    with socket.create_connection((name, int(port)), timeout) as sock:
        for piece in pieces:
            sock.sendall(piece)
        return read_to_end(sock)


def read_to_end(sock: socket.socket) -> bytes:
    received = b""
    with contextlib.suppress(ConnectionError):
        while piece := sock.recv(65536):
            received += piece
    return received
