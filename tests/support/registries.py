"""Real registries for the tests: Debian's docker-registry, plain, htpasswd or TLS."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import re
import socket
import subprocess
import tempfile
import time
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Iterable, Iterator, Mapping

from dockerpush.server.users import put_user

CONFIG = """\
version: 0.1
log: {{level: info, fields: {{service: registry}}}}
storage:
  filesystem: {{rootdirectory: "{storage}"}}
  delete: {{enabled: true}}
  maintenance: {{uploadpurging: {{enabled: false}}}}
http:
  addr: 127.0.0.1:0
{extra}"""

HTPASSWD = """\
auth:
  htpasswd: {{realm: tests, path: "{path}"}}
"""

TLS = """\
  tls: {{certificate: "{certificate}", key: "{key}"}}
"""


@dataclass(frozen=True)
class Request:
    """One line of the registry's access log."""

    method: str
    path: str
    status: int


@dataclass(frozen=True)
class DockerRegistry:
    """A running registry; *host* is ``127.0.0.1:PORT``, *storage* where it stores."""

    host: str
    storage: Path
    log: Path
    users: Mapping[str, str]
    authority: Path | None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"{'https' if self.authority else 'http'}://{self.host}"

    def requests(self) -> list[Request]:
        """What was asked of it so far, in order of the answers."""
        lines = re.findall(r'"([A-Z]+) (\S+) HTTP/[\d.]+" (\d+)', self.log.read_text())
        return [Request(method, path, int(status)) for method, path, status in lines]


@contextlib.contextmanager
def start_docker_registry(
    directory: Path, *, users: Mapping[str, str] | None = None, tls: bool = False
) -> Iterator[DockerRegistry]:
    """Debian's registry with an empty storage, stopped when the ``with`` ends."""
    directory.mkdir(parents=True, exist_ok=True)
    storage, log, extra = directory / "storage", directory / "registry.log", ""
    storage.mkdir()
    authority = make_certificates(directory) if tls else None
    if tls:
        certificate, key = directory / "server.pem", directory / "server.key"
        extra += TLS.format(certificate=certificate, key=key)
    if users:
        extra += HTPASSWD.format(path=write_htpasswd(directory / "htpasswd", users))
    config = directory / "config.yml"
    config.write_text(CONFIG.format(storage=storage, extra=extra))
    with log.open("wb") as output, running("docker-registry", config, output) as child:
        port = wait_for_port(child, log)
        host = f"127.0.0.1:{port}"
        yield DockerRegistry(host, storage, log, dict(users or {}), authority)


@contextlib.contextmanager
def running(program: str, config: Path, output) -> Iterator[subprocess.Popen]:
    """*program* serving *config* for the ``with``."""
    command = [program, "serve", str(config)]
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "OTEL_TRACES_EXPORTER": ""}
    child = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment
    )
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(5)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def wait_for_port(child: subprocess.Popen, log: Path) -> int:
    """The port that the registry says it listens on."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and child.poll() is None:
        found = re.search(r"listening on 127\.0\.0\.1:(\d+)", log.read_text())
        if found:
            return int(found[1])
        time.sleep(0.02)
    raise RuntimeError(f"docker-registry does not start:\n{log.read_text()}")


def free_port() -> int:
    """For a program that cannot choose a port and tell it.

    It is none of those that are given to whoever asks for any (on Linux from 32768 on),
    so that no other test gets it before the program does.
    """
    source = random.SystemRandom()
    while True:
        port = source.randrange(16384, 32768)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def write_htpasswd(path: Path, users: Mapping[str, str]) -> Path:
    """A password file for *users*, by apache's own program."""
    lines = [run("htpasswd", "-Bbn", name, word) for name, word in users.items()]
    path.write_bytes(b"".join(line.strip() + b"\n" for line in lines))
    return path


def write_users(path: Path, users: Mapping[str, str]) -> Path:
    """A file of users of our own kind."""
    for name, word in users.items():
        put_user(path, name, word.encode())
    return path


def make_certificates(directory: Path) -> Path:
    """A certificate authority and, signed by it, server.pem and server.key.

    The server is 127.0.0.1, ::1 and localhost; the authority's certificate comes back.
    """
    authority, key = directory / "authority.pem", directory / "authority.key"
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    run(
        *["openssl", "req", "-x509", *curve, "-subj", "/CN=Tests", "-days", "2"],
        *["-addext", "basicConstraints=critical,CA:TRUE"],
        *["-addext", "keyUsage=critical,keyCertSign,cRLSign"],
        *["-keyout", key, "-out", authority, "-config", "/dev/null"],
    )
    request, extensions = directory / "server.csr", directory / "server.ext"
    run(
        *["openssl", "req", "-new", *curve, "-subj", "/CN=localhost"],
        *["-keyout", directory / "server.key", "-out", request, "-config", "/dev/null"],
    )
    extensions.write_text(
        "basicConstraints=critical,CA:FALSE\n"
        "subjectKeyIdentifier=hash\n"
        "authorityKeyIdentifier=keyid\n"
        "extendedKeyUsage=serverAuth\n"
        "subjectAltName=IP:127.0.0.1,IP:::1,DNS:localhost\n"
    )
    run(
        *["openssl", "x509", "-req", "-in", request, "-CA", authority, "-CAkey", key],
        *["-CAcreateserial", "-days", "2", "-extfile", extensions],
        *["-out", directory / "server.pem"],
    )
    return authority


def run(*command: object, env: Mapping[str, str] | None = None) -> bytes:
    """What *command* writes to stdout; a failure shows what it wrote to stderr."""
    words = [str(word) for word in command]
    done = subprocess.run(
        words, stdin=subprocess.DEVNULL, capture_output=True, env=env, check=False
    )
    if done.returncode:
        said = done.stderr.decode(errors="replace")
        raise RuntimeError(f"{' '.join(words)}: exit {done.returncode}: {said}")
    return done.stdout


@dataclass(frozen=True)
class StoredImage:
    """What skopeo found under a tag.

    *layers* are the sha256 digests of the layers after decompression, to be compared
    with the config's diff_ids; *blobs* those of the layers as stored.
    """

    manifest: dict
    manifest_bytes: bytes
    config: bytes
    layers: list[str]
    blobs: list[str]

    @property
    def diff_ids(self) -> list[str]:
        """What the config says of the layers."""
        return json.loads(self.config)["rootfs"]["diff_ids"]


def read_back(
    host: str, repository: str, tag: str, *, credentials: tuple[str, str] | None = None
) -> StoredImage:
    """The image under *tag*, pulled by skopeo, which verifies every digest."""
    with tempfile.TemporaryDirectory() as name:
        source = f"docker://{host}/{repository}:{tag}"
        flags = ["--src-creds", ":".join(credentials)] if credentials else []
        run(
            *["skopeo", "--insecure-policy", "copy", "-q", "--src-tls-verify=false"],
            *[*flags, "--preserve-digests", source, f"dir:{name}"],
        )
        return read_directory(Path(name))


def read_back_all(
    host: str, repositories: Iterable[str], tag: str, directory: Path
) -> dict[str, StoredImage]:
    """Repository → image under *tag*, all pulled by one skopeo into *directory*."""
    names = list(repositories)
    wanted = {"tls-verify": False, "images": {name: [tag] for name in names}}
    sources = directory / "sources.yml"
    sources.write_text(json.dumps({host: wanted}))
    run(
        *["skopeo", "--insecure-policy", "sync", "--scoped", "--src", "yaml"],
        *["--preserve-digests", "--dest", "dir", sources, directory],
    )
    return {name: read_directory(directory / host / f"{name}:{tag}") for name in names}


def read_directory(directory: Path) -> StoredImage:
    """The image in skopeo's ``dir:`` form."""
    raw = (directory / "manifest.json").read_bytes()
    manifest = json.loads(raw)
    blobs = [layer["digest"] for layer in manifest["layers"]]
    config = (directory / hex_of(manifest["config"]["digest"])).read_bytes()
    layers = [unpacked_digest(directory / hex_of(blob)) for blob in blobs]
    return StoredImage(manifest, raw, config, layers, blobs)


def hex_of(digest: str) -> str:
    return digest.partition(":")[2]


def unpacked_digest(path: Path) -> str:
    """The sha256 digest of what *path* holds once decompressed (gzip, zstd or raw)."""
    hasher = hashlib.sha256()
    for block in unpacked(path):
        hasher.update(block)
    return "sha256:" + hasher.hexdigest()


def unpacked(path: Path) -> Iterator[bytes]:
    """The decompressed content of *path*, in pieces."""
    with path.open("rb") as file:
        magic = file.read(4)
        file.seek(0)
        if magic[:2] == b"\x1f\x8b":
            yield from gunzipped(file)
        elif magic == b"\x28\xb5\x2f\xfd":
            yield run("zstd", "-dcq", path)
        else:
            yield from iter(lambda: file.read(1 << 20), b"")


def gunzipped(file) -> Iterator[bytes]:
    """The content of every gzip member of *file*; junk or a short end raises."""
    inflate = zlib.decompressobj(wbits=31)
    for block in iter(lambda: file.read(1 << 20), b""):
        data = block
        while data:
            if inflate.eof:
                inflate = zlib.decompressobj(wbits=31)
            yield inflate.decompress(data)
            data = inflate.unused_data
    if not inflate.eof:
        raise ValueError("the gzip stream is cut short")
