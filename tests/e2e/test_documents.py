"""What a document names comes along with it, or the document is refused by name.

Every command that moves images walks over the same table of documents.
"""

from __future__ import annotations

import json
import tarfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterable

import archives
import pytest
from archives import CONFIG, INDEX, LAYER, MANIFEST, Image, descriptor, digest, dump
from hypothesis import given
from hypothesis import strategies as st
from inprocess import run_here
from suites import crossed

from dockerpush.documents import check_names_nothing, children_of
from dockerpush.errors import InvalidJSON
from dockerpush.oci import Descriptor
from dockerpush.server import Registry, RegistryServer

ARTIFACT = "application/vnd.oci.artifact.manifest.v1+json"
SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1+prettyjws"
ODD = "application/vnd.acme.thing.v1+json"


@dataclass(frozen=True)
class Case:
    """A document and what it needs; *manifests* children first, *blobs* by bytes."""

    manifests: tuple[tuple[str, bytes], ...]
    blobs: tuple[bytes, ...] = ()

    @property
    def root(self) -> bytes:
        return self.manifests[-1][1]

    @property
    def everything(self) -> set[str]:
        contents = (*(raw for _, raw in self.manifests), *self.blobs)
        return {digest(content) for content in contents}

    def above(self, kind: str, raw: bytes, *blobs: bytes) -> Case:
        return Case((*self.manifests, (kind, raw)), (*self.blobs, *blobs))


def document(**fields: Any) -> bytes:
    return dump({"schemaVersion": 2, **fields})


def index(*entries: Any, **fields: Any) -> bytes:
    return document(mediaType=INDEX, manifests=list(entries), **fields)


CONTENT = archives.gzipped(archives.layer("hello"))
SETTINGS = Image.of("hello").config
BARE = Image(()).config
ABOUT = descriptor(CONFIG, BARE)
PLAIN = document(
    mediaType=MANIFEST,
    config=descriptor(CONFIG, SETTINGS),
    layers=[descriptor(LAYER + "+gzip", CONTENT)],
)
IMAGE = Case(((MANIFEST, PLAIN),), (SETTINGS, CONTENT))
ENTRY = descriptor(MANIFEST, PLAIN, platform={"os": "linux", "architecture": "amd64"})
NAMING = dump({"parts": [{"more": descriptor("a/b", CONTENT)}]})
HARMLESS = dump({"layers": [{"blob": digest(CONTENT), "parent": -1}], "size": 3})
SIMPLE = document(mediaType=ODD, hello=1)
THINGS = document(mediaType=ARTIFACT, blobs=[descriptor("a/b", CONTENT)])


def lone(kind: str, raw: bytes, *blobs: bytes) -> Case:
    return Case(((kind, raw),), blobs)


def beside(kind: str, raw: bytes, *blobs: bytes) -> Case:
    """An index of an image and of a blob *raw*."""
    return IMAGE.above(INDEX, index(ENTRY, descriptor(kind, raw)), raw, *blobs)


def nested(depth: int) -> Case:
    case, entry = IMAGE, ENTRY
    for _ in range(depth):
        raw = index(entry)
        case, entry = case.above(INDEX, raw), descriptor(INDEX, raw)
    return case


def bent(raw: bytes, more: bytes) -> bytes:
    """The object *raw* with *more* at its end."""
    return raw[:-1] + b"," + more + b"}"


WHOLE = {
    "an image": IMAGE,
    "layers: null": lone(
        MANIFEST, document(mediaType=MANIFEST, config=ABOUT, layers=None), BARE
    ),
    "no layers": lone(MANIFEST, document(mediaType=MANIFEST, config=ABOUT), BARE),
    "manifests: null": lone(INDEX, document(mediaType=INDEX, manifests=None)),
    "no manifests": lone(INDEX, document(mediaType=INDEX)),
    "an index in an index": nested(2),
    "eight indexes in one another": nested(8),
    "a cache of BuildKit": lone(
        INDEX,
        index(
            descriptor(LAYER + "+gzip", CONTENT),
            descriptor("application/vnd.buildkit.cacheconfig.v0", HARMLESS),
        ),
        CONTENT,
        HARMLESS,
    ),
    "an index with bytes of an unknown type": beside("a/b", b"\x00\x01" * 300),
    "an index with JSON of an unknown type": beside(ODD, HARMLESS),
    "an unknown type that names nothing": lone(ODD, SIMPLE),
    "no JSON under an unknown type": lone("a/b", b"\x00\x01" * 300),
    "a manifest of an unknown type in an index": IMAGE.above(ODD, SIMPLE).above(
        INDEX, index(ENTRY, descriptor(ODD, SIMPLE))
    ),
    "an artifact": lone(ARTIFACT, THINGS, CONTENT),
    "an artifact without blobs": lone(
        ARTIFACT, document(mediaType=ARTIFACT, blobs=None)
    ),
    "an artifact in an index": IMAGE.above(ARTIFACT, THINGS).above(
        INDEX, index(ENTRY, descriptor(ARTIFACT, THINGS))
    ),
    "a manifest as a layer": lone(
        MANIFEST,
        document(
            mediaType=MANIFEST,
            config=descriptor(ODD, b"{}"),
            layers=[descriptor(MANIFEST, PLAIN)],
        ),
        b"{}",
        PLAIN,
    ),
}
REFUSED = {
    "schema 1": lone(
        SCHEMA_1, dump({"schemaVersion": 1, "fsLayers": [{"blobSum": digest(CONTENT)}]})
    ),
    "schema 1 in an index": beside(
        SCHEMA_1, dump({"fsLayers": [{"blobSum": digest(CONTENT)}]})
    ),
    "schema 1 without its type": beside(
        ODD, dump({"fsLayers": [{"blobSum": digest(CONTENT)}]})
    ),
    "an unknown type": lone(ODD, document(mediaType=ODD, parts=[ENTRY])),
    "an unknown type in an index": beside(ODD, NAMING),
    "an unknown algorithm": beside(
        ODD, dump({"x": {"digest": "blake3:" + "a" * 64, "size": 1}})
    ),
    "layers: {}": lone(
        MANIFEST, document(mediaType=MANIFEST, config=ABOUT, layers={}), BARE
    ),
    "config: null": lone(
        MANIFEST, document(mediaType=MANIFEST, config=None, layers=[])
    ),
    "blobs: {}": lone(ARTIFACT, document(mediaType=ARTIFACT, blobs={})),
    "nine indexes in one another": nested(9),
    "Layers beside layers": lone(MANIFEST, bent(PLAIN, b'"Layers":[]'), BARE),
    "layers twice": lone(MANIFEST, bent(PLAIN, b'"layers":[]'), BARE),
    "layers in Go's other spelling": lone(
        MANIFEST, bent(PLAIN, '"layer\u017f":[]'.encode()), BARE
    ),
    "Digest beside digest": lone(INDEX, index({**ENTRY, "Digest": digest(b"x")})),
    "manifests twice": IMAGE.above(INDEX, bent(index(ENTRY), b'"manifests":[]')),
    "a byte order mark": lone(MANIFEST, b"\xef\xbb\xbf" + PLAIN, SETTINGS, CONTENT),
    "Latin-1": lone(MANIFEST, bent(PLAIN, b'"x":"\xe9"'), SETTINGS, CONTENT),
    "NaN": lone(MANIFEST, bent(PLAIN, b'"x":NaN'), SETTINGS, CONTENT),
}


# the one function


def node(kind: str, raw: bytes) -> Descriptor:
    return Descriptor.of(kind, raw)


def test_the_entries_of_an_index_are_documents_or_blobs():
    raw = index(
        ENTRY,
        descriptor(INDEX, b"1"),
        descriptor(ARTIFACT, b"2"),
        descriptor(LAYER + "+gzip", b"3"),
        descriptor(ODD, b"4"),
        {**descriptor(ODD, b"5"), "size": 5 * 1024 * 1024},
    )
    found = children_of(node(INDEX, raw), raw)
    assert [one.media_type for one in found.documents] == [MANIFEST, INDEX, ARTIFACT]
    assert [one.digest for one in found.blobs] == [
        digest(b) for b in (b"3", b"4", b"5")
    ]
    assert [one.digest for one in found.unknown] == [digest(b"4")]


def test_the_layers_of_a_manifest_are_blobs_whatever_they_are():
    raw = WHOLE["a manifest as a layer"].root
    found = children_of(node(MANIFEST, raw), raw)
    assert found.documents == found.unknown == ()
    assert [one.digest for one in found.blobs] == [digest(b"{}"), digest(PLAIN)]


@pytest.mark.parametrize("raw", [b"", b"\xff\xfe", b"{", b"null", b"[[]]", HARMLESS])
def test_what_names_nothing_needs_nothing(raw):
    assert children_of(node(ODD, raw), raw) == ((), (), ())


@pytest.mark.parametrize(
    "raw",
    [
        NAMING,
        b"\xef\xbb\xbf" + NAMING,
        NAMING.decode().encode("utf-16"),
        dump([[[descriptor("", b"x")]]]),
        dump({"a": {"fsLayers": None}}),
        b"[" * 100_000 + b"]" * 100_000,
        dump([1] * 300_000),
    ],
    ids=range(7),
)
def test_what_may_name_something_is_refused(raw):
    with pytest.raises(InvalidJSON, match=digest(raw)):
        check_names_nothing(node(ODD, raw), raw)


@given(st.recursive(st.none() | st.text(), lambda s: st.lists(s) | st.just(ENTRY)))
def test_a_descriptor_is_found_at_any_depth(value):
    raw = dump(value)
    refused = '"digest"' in raw.decode()
    try:
        check_names_nothing(node(ODD, raw), raw)
    except InvalidJSON:
        assert refused
    else:
        assert not refused


# the commands


class Loose(Registry):
    """A registry that takes every document, as some do."""

    def put_manifest(self, name: Any, manifest: Any, tags: Iterable[Any]) -> None:
        self._storage.put_manifest(
            name, manifest, tags=tuple(tags), reference=None, check=lambda: None
        )


@pytest.fixture
def host(tmp_path: Path):
    with RegistryServer(Loose(tmp_path / "loose")) as server:
        yield server.host


def request(method: str, url: str, raw: bytes | None = None, kind: str = "a/b") -> Any:
    headers = {"Content-Type": kind, "Accept": f"{MANIFEST}, */*"}
    asked = urllib.request.Request(url, raw, headers, method=method)
    with urllib.request.urlopen(asked) as answer:
        return answer.read()


def fill(host: str, repository: str, case: Case) -> str:
    """Put *case* into the registry; its reference there."""
    base = f"http://{host}/v2/{repository}"
    for blob in case.blobs:
        request("POST", f"{base}/blobs/uploads/?digest={digest(blob)}", blob)
    for kind, raw in case.manifests:
        request("PUT", f"{base}/manifests/{digest(raw)}", raw, kind)
    kind, raw = case.manifests[-1]
    request("PUT", f"{base}/manifests/v1", raw, kind)
    return f"{host}/{repository}:v1"


def held_by_registry(host: str, case: Case) -> set[str]:
    base = f"http://{host}/v2/team/dst"
    root = request("GET", f"{base}/manifests/v1")
    assert root == case.root
    found = [request("GET", f"{base}/manifests/{digest(m)}") for _, m in case.manifests]
    found += [request("GET", f"{base}/blobs/{digest(blob)}") for blob in case.blobs]
    return set(map(digest, found))


def held_by_tar(path: Path, case: Case) -> set[str]:
    with tarfile.open(path) as tar:
        contents = {
            member.name: tar.extractfile(member).read()
            for member in tar
            if member.isfile()
        }
    return held(contents, case)


def held_by_directory(path: Path, case: Case) -> set[str]:
    files = [file for file in path.rglob("*") if file.is_file()]
    return held(
        {str(file.relative_to(path)): file.read_bytes() for file in files}, case
    )


def held(contents: dict[str, bytes], case: Case) -> set[str]:
    entry = json.loads(contents["index.json"])["manifests"][0]
    assert entry["digest"] == digest(case.root)
    for name, content in contents.items():
        if name.startswith("blobs/"):
            assert name == archives.blob(content)
    return {digest(raw) for name, raw in contents.items() if name.startswith("blobs/")}


def held_by_cache(path: Path, case: Case) -> set[str]:
    return {digest(file.read_bytes()) for file in path.glob("blobs/*/*")}


MOVERS = (
    "pull",
    "pull oci-archive",
    "pull oci-dir",
    "copy",
    "copy oci-archive",
    "copy oci",
    "sync",
    "sync oci",
)
REAL = ("pull oci-archive", "copy")
"""Those that run as processes of their own; for the others it proves nothing more."""

DOCKER = ("pull docker-archive", "copy docker-archive")


def move(mover: str, source: str, host: str, run_cli: Any, directory: Path) -> Any:
    """Run the command; how it ended, where that is, and what looks into it."""
    command, _, form = mover.partition(" ")
    out, listed = directory / "out", directory / "list"
    listed.write_text(f"{source}\n" if form else f"{source} {host}/team/dst:v1\n")
    arguments = {
        "pull": [source, "-o", out, "--format", form] if form else [source],
        "copy": [source, f"{form}:{out}" if form else f"{host}/team/dst:v1"],
        "sync": [listed, f"oci:{out}"] if form else [listed],
    }
    words = [command, *arguments[command]]
    real = mover in REAL
    done = run_cli(*words) if real else run_here(words, run_cli.environment())
    if mover == "pull":
        return done, run_cli.state / "cache", held_by_cache
    if not form:
        return done, host, held_by_registry
    return done, out, held_by_directory if form in ("oci", "oci-dir") else held_by_tar


@pytest.mark.parametrize(("name", "mover"), crossed(WHOLE, MOVERS))
def test_everything_comes_along(name, mover, host, run_cli, tmp_path):
    source = fill(host, "team/src", WHOLE[name])
    done, where, look = move(mover, source, host, run_cli, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert look(where, WHOLE[name]) >= WHOLE[name].everything


@pytest.mark.parametrize(("name", "mover"), crossed(REFUSED, MOVERS))
def test_what_cannot_be_read_is_refused_by_name(name, mover, host, run_cli, tmp_path):
    source = fill(host, "team/src", REFUSED[name])
    done, _, _ = move(mover, source, host, run_cli, tmp_path)
    code = 7 if mover.startswith("sync") else 6
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    named = {digest(raw) for _, raw in REFUSED[name].manifests}
    named |= {digest(raw) for raw in REFUSED[name].blobs} | {"/team/src"}
    assert any(one in done.stdout + done.stderr for one in named)
    assert not (tmp_path / "out" / "index.json").exists()
    assert not (tmp_path / "out").is_file()
    assert run_cli("tags", f"{host}/team/dst").stdout == ""


@pytest.mark.parametrize(("name", "mover"), crossed(WHOLE | REFUSED, DOCKER))
def test_docker_gets_a_whole_image_or_nothing(name, mover, host, run_cli, tmp_path):
    """It takes one image of an index, whatever is beside it."""
    source = fill(host, "team/src", (WHOLE | REFUSED)[name])
    done, where, _ = move(mover, source, host, run_cli, tmp_path)
    if done.returncode:
        assert done.returncode in (2, 4, 6), done.stderr
        assert not where.exists()
        return
    with tarfile.open(where) as tar:
        (entry,) = json.loads(tar.extractfile("manifest.json").read())
        for member in (entry["Config"], *entry["Layers"]):
            assert tar.getmember(member).isfile()


def test_a_pulled_image_without_layers_is_pushed_again(host, run_cli, tmp_path):
    case = WHOLE["layers: null"]
    source = fill(host, "team/src", case)
    out = tmp_path / "out.tar"
    pulled = run_cli("pull", source, "-o", out, "--format", "oci-archive")
    assert pulled.returncode == 0, pulled.stderr
    done = run_cli("push", out, "-t", f"{host}/team/dst:v1", "--json")
    assert done.returncode == 0, done.stderr
    assert done.json["digest"] == digest(case.root)
    assert held_by_registry(host, case) == case.everything


@pytest.mark.parametrize("kind", [ODD, ARTIFACT])
def test_an_archive_with_a_document_that_cannot_be_read_is_refused(
    kind, host, run_cli, tmp_path
):
    """Also when its keys are those of a manifest: there may be more to it."""
    raw = document(
        mediaType=kind,
        config=descriptor(CONFIG, SETTINGS),
        layers=[descriptor(LAYER + "+gzip", CONTENT)],
        blobs=[descriptor("a/b", b"absent")],
    )
    files = {archives.blob(content): content for content in (raw, SETTINGS, CONTENT)}
    layout = archives.Layout(files, (descriptor(kind, raw),))
    path = archives.tar(tmp_path / "image.tar", layout.files())
    for command in (
        ("push", path, "-t", f"{host}/team/dst:v1"),
        ("copy", f"oci-archive:{path}", f"{host}/team/dst:v1"),
    ):
        done = run_cli(*command)
        assert done.returncode == 6, done.stderr
        assert digest(raw) in done.error
        assert run_cli("tags", f"{host}/team/dst").returncode == 4
