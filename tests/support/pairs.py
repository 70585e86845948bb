"""Images of every kind as bytes, put into sources, and read back from targets.

Nothing here uses dockerpush but `run_forked`, so that what a test finds is not what the
same code believes of itself.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.client
import json
import subprocess
import sys
import tarfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Mapping, Sequence, TypeVar

import archives
from archives import CONFIG, INDEX, LAYER, MANIFEST, Image, dump

DOCKER = "application/vnd.docker."
NONDISTRIBUTABLE = "application/vnd.oci.image.layer.nondistributable.v1.tar"
NAME = "registry.example.com/demo/app:1"
TEXT = archives.packed({"etc/text": b"".join(b"line %d\n" % n for n in range(2000))})
MORE = archives.packed({"etc/more": b"".join(b"more %d\n" % n for n in range(2000))})
NOISE = archives.packed({"noise": hashlib.shake_128(b"pairs").digest(300_000)})
SMALL = archives.packed({"small": hashlib.shake_128(b"small").digest(40_000)})
ZSTD = b"".join(
    (
        b"\x28\xb5\x2f\xfd\xa0",  # the magic, and a size of four bytes
        len(SMALL).to_bytes(4, "little"),
        (len(SMALL) << 3 | 1).to_bytes(3, "little"),  # one block, raw, the last
        SMALL,
    )
)
"""SMALL as a zstd frame, made by hand, since not every Python has a compressor."""


Key = TypeVar("Key")


@dataclass
class Sample:
    """An image: its *blobs* by digest, and the descriptor of what a tag names.

    *documents* are the digests that a registry stores as manifests, children first.
    *files* is the archive: a layout of all this, unless it is given.
    """

    blobs: dict[str, bytes] = field(default_factory=dict)
    documents: dict[str, str] = field(default_factory=dict)
    root: dict[str, Any] = field(default_factory=dict)
    given: archives.Files | None = None

    def put(self, kind: str, content: bytes, algorithm: str = "sha256", **more: Any):
        """Keep *content*; the descriptor that names it."""
        digest = f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"
        self.blobs[digest] = content
        found = {"mediaType": kind, "digest": digest, "size": len(content), **more}
        if kind in (MANIFEST, INDEX) or kind.startswith(DOCKER + "distribution"):
            self.documents[digest] = kind
            self.root = found
        return found

    def manifest(self, config: Any, layers: Sequence[Any], **more: Any) -> Any:
        """Put their manifest; its descriptor. *kind* and *algorithm* are its own."""
        kind = more.pop("kind", MANIFEST)
        algorithm = more.pop("algorithm", "sha256")
        about = more.pop("about", {})
        record = {"schemaVersion": 2, "mediaType": kind, "config": config}
        content = json.dumps({**record, "layers": list(layers), **more}, indent=3)
        return self.put(kind, content.encode(), algorithm, **about)

    @property
    def digest(self) -> str:
        return str(self.root.get("digest"))

    @property
    def files(self) -> archives.Files:
        """An OCI layout, whose index.json comes last, as docker's does."""
        if self.given is not None:
            return self.given
        entry = {
            **self.root,
            "annotations": {
                "io.containerd.image.name": NAME,
                "org.opencontainers.image.ref.name": "1",
            },
        }
        return {
            **{f"blobs/{key.replace(':', '/')}": self.blobs[key] for key in self.blobs},
            "index.json": dump({"schemaVersion": 2, "manifests": [entry]}),
            "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
        }


def config_of(*diffs: bytes, architecture: str = "amd64") -> bytes:
    return Image(diffs, architecture=architecture).config


def image(*stored: tuple[str, bytes, bytes], **more: Any) -> Sample:
    """Of layers as (media type, stored bytes, raw bytes)."""
    sample = Sample()
    algorithm = more.pop("algorithm", "sha256")
    kind = more.pop("config_type", CONFIG)
    config = sample.put(kind, config_of(*(raw for *_, raw in stored)), algorithm)
    layers = [sample.put(kind, content, algorithm) for kind, content, _ in stored]
    sample.manifest(config, layers, algorithm=more.pop("root", "sha256"), **more)
    return sample


def gz(raw: bytes, kind: str = LAYER + "+gzip") -> tuple[str, bytes, bytes]:
    return kind, gzip.compress(raw, 1, mtime=0), raw


def index_with_attestations() -> Sample:
    sample = Sample()
    entries = []
    for architecture in ("amd64", "arm64"):
        kind, content, raw = gz(TEXT + architecture.encode())
        layer = sample.put(kind, content)
        config = sample.put(CONFIG, config_of(raw, architecture=architecture))
        platform = {"os": "linux", "architecture": architecture}
        entries.append(sample.manifest(config, [layer], about={"platform": platform}))
        statement = dump({"_type": "in-toto", "subject": entries[-1]["digest"]})
        layer = sample.put("application/vnd.in-toto+json", statement)
        platform = {"os": "unknown", "architecture": "unknown"}
        config = sample.put(
            CONFIG,
            dump(
                {
                    **platform,
                    "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
                }
            ),
        )
        about = {
            "platform": platform,
            "annotations": {
                "vnd.docker.reference.type": "attestation-manifest",
                "vnd.docker.reference.digest": entries[-1]["digest"],
            },
        }
        entries.append(sample.manifest(config, [layer], about=about))
    record = {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}
    sample.put(INDEX, json.dumps(record, indent=3).encode())
    return sample


def artifact(kind: str, content: bytes, algorithm: str = "sha256") -> Sample:
    sample = Sample()
    config = sample.put("application/vnd.oci.empty.v1+json", b"{}", algorithm)
    layer = sample.put(kind, content, algorithm)
    sample.manifest(config, [layer], artifactType="application/vnd.acme.thing")
    return sample


def foreign(*, there: bool) -> Sample:
    sample = Sample()
    config = sample.put(CONFIG, config_of(TEXT, MORE))
    urls = ["https://example.com/base.tar"]
    base = sample.put(NONDISTRIBUTABLE, TEXT, urls=urls)
    top = sample.put(*gz(MORE)[:2])
    sample.manifest(config, [base, top])
    if not there:
        del sample.blobs[base["digest"]]
    return sample


def docker_archive() -> Sample:
    return Sample(given=archives.legacy(Image((TEXT, MORE), (NAME,))))


def nested_index() -> Sample:
    sample = image(gz(TEXT))
    inner = dump({"schemaVersion": 2, "mediaType": INDEX, "manifests": [sample.root]})
    found = sample.put(INDEX, inner)
    sample.put(
        INDEX, dump({"schemaVersion": 2, "mediaType": INDEX, "manifests": [found]})
    )
    return sample


def sha512_index() -> Sample:
    sample = Sample()
    kind, content, raw = gz(TEXT)
    config = sample.put(CONFIG, config_of(raw), "sha512")
    layer = sample.put(kind, content, "sha512")
    platform = {"os": "linux", "architecture": "amd64"}
    child = sample.manifest(
        config, [layer], algorithm="sha512", about={"platform": platform}
    )
    record = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [child]}
    sample.put(INDEX, json.dumps(record, indent=3).encode())
    return sample


def raw_index() -> Sample:
    sample = Sample()
    entries = []
    for architecture, content in (("amd64", TEXT), ("arm64", MORE)):
        layer = sample.put(LAYER, content)
        config = sample.put(CONFIG, config_of(content, architecture=architecture))
        platform = {"os": "linux", "architecture": architecture}
        entries.append(sample.manifest(config, [layer], about={"platform": platform}))
    record = {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}
    sample.put(INDEX, json.dumps(record, indent=3).encode())
    return sample


SEALED = hashlib.shake_128(b"sealed").digest(40_000)

SAMPLES: dict[str, Callable[[], Sample]] = {
    "docker-archive": docker_archive,
    "docker": lambda: image(
        gz(TEXT, DOCKER + "image.rootfs.diff.tar.gzip"),
        config_type=DOCKER + "container.image.v1+json",
        kind=DOCKER + "distribution.manifest.v2+json",
    ),
    "oci": lambda: image(gz(TEXT), gz(MORE)),
    "raw": lambda: image((LAYER, TEXT, TEXT), (LAYER, MORE, MORE)),
    "noise": lambda: image((LAYER, NOISE, NOISE)),
    "zstd": lambda: image((LAYER + "+zstd", ZSTD, SMALL)),
    "index": index_with_attestations,
    "nested": nested_index,
    "artifact": lambda: artifact("text/plain", b"hello " * 500),
    "artifact-tar": lambda: artifact("application/vnd.acme.v1.tar", TEXT),
    "sha512": lambda: image(gz(TEXT), algorithm="sha512"),
    "sha512-raw": lambda: image((LAYER, TEXT, TEXT), algorithm="sha512"),
    "foreign": lambda: foreign(there=False),
    "foreign-there": lambda: foreign(there=True),
    "encrypted": lambda: image((LAYER + "+gzip+encrypted", SEALED, TEXT)),
    "encrypted-tar": lambda: image((LAYER + "+encrypted", SMALL, TEXT)),
    "sha512-index": sha512_index,
    "sha512-artifact": lambda: artifact("application/json", b'{"a": 1}', "sha512"),
    "sha512-root": lambda: image(gz(TEXT), algorithm="sha512", root="sha512"),
    "raw-index": raw_index,
    "docker-raw": lambda: image(
        (DOCKER + "image.rootfs.diff.tar", TEXT, TEXT),
        config_type=DOCKER + "container.image.v1+json",
        kind=DOCKER + "distribution.manifest.v2+json",
    ),
    "twice": lambda: image(gz(TEXT), gz(MORE), gz(TEXT)),
    "raw-twice": lambda: image((LAYER, TEXT, TEXT), gz(MORE), (LAYER, TEXT, TEXT)),
    "artifact-empty": lambda: artifact("application/vnd.oci.empty.v1+json", b"{}"),
    "no-layers": lambda: image(),
}


def seed(host: str, repository: str, sample: Sample) -> None:
    """Store the image under the tag 1, by plain HTTP."""
    connection = http.client.HTTPConnection(host, timeout=20)
    with contextlib.closing(connection):
        for digest, content in sample.blobs.items():
            if digest not in sample.documents:
                path = f"/v2/{repository}/blobs/uploads/?digest={digest}"
                _put(connection, "POST", path, content, "application/octet-stream")
        for digest, kind in sample.documents.items():
            path = f"/v2/{repository}/manifests/{digest}"
            _put(connection, "PUT", path, sample.blobs[digest], kind)
        kind = sample.documents[sample.digest]
        path = f"/v2/{repository}/manifests/1"
        _put(connection, "PUT", path, sample.blobs[sample.digest], kind)


def _put(connection: Any, method: str, path: str, body: bytes, kind: str) -> None:
    connection.request(method, path, body=body, headers={"Content-Type": kind})
    response = connection.getresponse()
    content = response.read()
    assert response.status == 201, (method, path, content)


@dataclass(frozen=True)
class Found:
    """What a target holds: the digest under the name, and content by digest."""

    root: str
    get: Callable[[str], bytes | None]

    def differs_from(self, sample: Sample, without: str = "") -> str:
        """What is not as in *sample*, "" when all of it is there and the same.

        The blob *without* may be left out.
        """
        if self.get(self.root) != sample.blobs[sample.digest]:
            return f"another manifest, {self.root}"
        for digest, content in sample.blobs.items():
            named = digest == sample.digest  # a registry may call it by its sha256
            if not named and digest != without and self.get(digest) != content:
                return f"{digest} is missing or altered"
        return ""

    def broken(self) -> str:
        """What is wrong with an image whose digest nobody knew before."""
        return self._broken(self.root)

    def _broken(self, digest: str) -> str:
        manifest = json.loads(self.get(digest) or b"null")
        if "manifests" in manifest:
            inner = [self._broken(one["digest"]) for one in manifest["manifests"]]
            return ", ".join(filter(None, inner))
        config = self.get(manifest["config"]["digest"])
        stored = [self.get(one["digest"]) for one in manifest["layers"]]
        if config is None or None in stored:
            return "something is missing"
        diffs = [archives.digest(unpacked(one)) for one in stored if one is not None]
        wanted = json.loads(config)["rootfs"]["diff_ids"]
        return "" if diffs == wanted else f"layers {diffs}, wanted {wanted}"


def unpacked(content: bytes) -> bytes:
    return zlib.decompress(content, 31) if content[:2] == b"\x1f\x8b" else content


def in_registry(host: str, repository: str, tag: str = "1") -> Found | None:
    """What the registry has under the tag."""
    raw = _get(host, f"/v2/{repository}/manifests/{tag}")
    if raw is None:
        return None

    def get(digest: str) -> bytes | None:
        below = f"/v2/{repository}"
        return _get(host, f"{below}/blobs/{digest}") or _get(
            host, f"{below}/manifests/{digest}"
        )

    return Found(archives.digest(raw), get)


def _get(host: str, path: str) -> bytes | None:
    connection = http.client.HTTPConnection(host, timeout=20)
    with contextlib.closing(connection):
        connection.request("GET", path, headers={"Accept": "*/*"})
        response = connection.getresponse()
        content = response.read()
        return content if response.status == 200 else None


def in_layout(read: Callable[[str], bytes | None]) -> Found | None:
    """What a layout has, whose files *read* gives by name; it must be one image."""
    raw = read("index.json")
    if raw is None:
        return None
    entries = json.loads(raw)["manifests"]
    roots = {entry["digest"] for entry in entries}
    assert len(roots) == 1, entries
    return Found(roots.pop(), lambda digest: read(f"blobs/{digest.replace(':', '/')}"))


def in_directory(path: Path) -> Found | None:
    def read(name: str) -> bytes | None:
        file = path / name
        return file.read_bytes() if file.is_file() else None

    return in_layout(read)


def in_tar(path: Path) -> Found | None:
    if not path.exists() or not path.stat().st_size:
        return None
    with tarfile.open(path) as tar:
        files = {}
        for member in tar:
            found = tar.extractfile(member)
            if found is not None:
                files[member.name] = found.read()
    return in_layout(files.get)


RUNS = """
import importlib, json, os, sys, traceback
from dockerpush.cli.main import main
commands = ["cli.commands." + name for name in ("push", "copy", "pull")]
for name in (*commands, "transfer.engine", "transfer.push_image", "progress"):
    importlib.import_module("dockerpush." + name)
def run(words, given, out, err):
    os.dup2(os.open(given, os.O_RDONLY), 0)
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    try:
        code = main(words)
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
for words, given, out, err, state in json.load(sys.stdin):
    child = os.fork()
    if not child:
        os.environ["DOCKERPUSH_STATE_DIR"] = state
        run(words, given, out, err)
    print(os.waitpid(child, 0)[1] >> 8, flush=True)
"""
"""Each command in a process of its own, forked off so that its imports cost nothing."""


@dataclass(frozen=True)
class Run:
    """A command; *stdin* is a file, *state* names its state directory."""

    words: Sequence[object]
    stdin: Path = Path("/dev/null")
    state: str = "state"


@dataclass(frozen=True)
class Ended:
    """How it ended; *stdout* is a file."""

    code: int
    stdout: Path
    stderr: str

    @property
    def error(self) -> str:
        return (self.stderr.splitlines() or [""])[-1]


def run_forked(
    runs: Mapping[Key, Run], directory: Path, environment: Mapping[str, str]
) -> dict[Key, Ended]:
    """Run them one after the other, by name; outputs are kept in *directory*."""
    directory.mkdir(parents=True, exist_ok=True)
    jobs = [
        [
            list(map(str, run.words)),
            *map(str, (run.stdin, directory / f"{n}.out", directory / f"{n}.err")),
            str(directory / run.state),
        ]
        for n, run in enumerate(runs.values())
    ]
    done = subprocess.run(
        [sys.executable, "-c", RUNS],
        input=json.dumps(jobs).encode(),
        capture_output=True,
        env=dict(environment),
        timeout=240,
        check=False,
    )
    codes = list(map(int, done.stdout.split()))
    assert len(codes) == len(runs), done.stderr.decode()
    return {
        name: Ended(code, directory / f"{n}.out", (directory / f"{n}.err").read_text())
        for n, (name, code) in enumerate(zip(runs, codes))
    }
