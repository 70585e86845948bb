"""A pipe and a compressed file give what a plain file gives."""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
from contextlib import closing
from pathlib import Path
from typing import Any, Mapping
from urllib.request import Request, urlopen

import archives
import pytest
from archives import CONFIG, LAYER, MANIFEST, Image, blob, descriptor, digest, dump

from dockerpush import push
from dockerpush.archive.forward import IndexedArchive
from dockerpush.server import Registry, RegistryServer
from dockerpush.server.messages import ProtocolError
from dockerpush.system.cancellation import Cancellation

TAR = archives.layer("hello " * 500)
OTHER = archives.layer("other " * 500)
NOISE = b"".join(hashlib.sha256(b"%d" % n).digest() for n in range(90))
BRACE = archives.packed({"{x}": b"a tar that begins like JSON " * 40})
FOREIGN = "application/vnd.oci.image.layer.nondistributable.v1.tar"


def one_manifest(layers: list[tuple[str, bytes]], config: tuple[str, bytes], **more):
    """A layout with one manifest, which comes after its blobs."""
    manifest = dump(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(*config),
            "layers": [
                descriptor(kind, content, **more.get(kind, {}))
                for kind, content in layers
            ],
        }
    )
    files = {blob(content): content for _, content in layers}
    files |= {blob(config[1]): config[1], blob(manifest): manifest}
    entry = descriptor(MANIFEST, manifest)
    entry["annotations"] = {"org.opencontainers.image.ref.name": "v1"}
    index = dump({"schemaVersion": 2, "manifests": [entry]})
    layout = b'{"imageLayoutVersion":"1.0.0"}'
    return {**files, "index.json": index, "oci-layout": layout}


def image(*layers: tuple[str, bytes], raw: tuple[bytes, ...], **more: Any):
    config = (CONFIG, Image(raw).config)
    return one_manifest(list(layers), config, **more)


def artifact(kind: str, content: bytes, config: bytes = b"{}"):
    return one_manifest([(kind, content)], ("application/vnd.acme.config", config))


URLS = {FOREIGN: {"urls": ["https://example.com/base.tar"]}}
ALIKE = {
    "raw layers": image((LAYER, TAR), (LAYER, OTHER), raw=(TAR, OTHER)),
    "gzip layers": image((LAYER + "+gzip", gzip.compress(TAR)), raw=(TAR,)),
    "a raw layer that begins like JSON": image((LAYER, BRACE), raw=(BRACE,)),
    "a docker-archive": archives.simple(Image.of("one" * 400, tags=("demo/app:1",))),
    "an artifact with a gzip blob": artifact("application/x-tgz", gzip.compress(TAR)),
    "an artifact with a small xz blob": artifact("x/xz", lzma.compress(TAR)),
    "an artifact with any bytes": artifact("application/x-any", b"\x01\x02" * 999),
    "an artifact with JSON": artifact("application/json", dump(["x" * 2000])),
    "an artifact with text": artifact("text/plain", b"hello " * 500),
    "a YAML config": artifact("text/plain", b"text", b"apiVersion: v1\n" * 400),
    "a config that begins like a tar": artifact("text/plain", b"text", TAR),
    "a config that is gzip": artifact("text/plain", b"text", gzip.compress(NOISE)),
    "much JSON": artifact("application/json", dump(["x" * 100_000])),
}
# What must stay as it is, although it begins like a layer to be packed.
KEPT = {
    "an artifact with a tar": artifact("application/vnd.acme.layer.v1+tar", TAR),
    "an artifact with a layer's type": artifact(LAYER, TAR),
    "an artifact with a tar.xz": artifact("application/x-xz", lzma.compress(NOISE)),
    "a foreign layer": image(
        (FOREIGN, TAR),
        (LAYER + "+gzip", gzip.compress(OTHER)),
        raw=(TAR, OTHER),
        **URLS,
    ),
    "a layer called encrypted": image((LAYER + "+encrypted", TAR), raw=(TAR,)),
    "zeros as an artifact": artifact("application/x-zeros", bytes(4096)),
}
# What a file has compressed, although it does not begin like a tar.
OTHERWISE = {"no tar as a raw layer": image((LAYER, b"\1" * 4096), raw=(b"\1" * 4096,))}


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory):
    registry = Registry(tmp_path_factory.mktemp("guess") / "registry")
    with RegistryServer(registry) as server:
        yield server.host


def stored(host: str, repository: str) -> Any:
    url = f"http://{host}/v2/{repository}/manifests/v1"
    with urlopen(Request(url, headers={"Accept": MANIFEST})) as answer:
        return json.loads(answer.read())


def send(
    name: str, files: Any, way: str, host: str, run_cli: Any, tmp_path: Path, **how
):
    """Push *files* as *way* says; how it ended, and the repository."""
    raw = archives.packed(files)
    repository = f"{way}/{digest(name.encode())[7:19]}"
    path = tmp_path / "image.tar"
    path.write_bytes(gzip.compress(raw, 1) if way == "gz" else raw)
    compress = ("--compress", how.pop("compress", "gzip"))
    options = ("-t", f"{host}/{repository}:v1", *compress, *how.pop("more", ()))
    if way == "pipe":
        return run_cli("push", "-", *options, "--json", stdin=raw, **how), repository
    return run_cli("push", path, *options, "--json", **how), repository


@pytest.mark.parametrize("way", ["pipe", "gz"])
@pytest.mark.parametrize("name", ALIKE)
def test_the_same_manifest_as_from_a_file(name, way, host, run_cli, tmp_path):
    file, there = send(name, ALIKE[name], "file", host, run_cli, tmp_path)
    done, here = send(name, ALIKE[name], way, host, run_cli, tmp_path)
    assert (file.returncode, done.returncode) == (0, 0), file.stderr + done.stderr
    assert done.json["digest"] == file.json["digest"]
    assert stored(host, here) == stored(host, there)


@pytest.mark.parametrize("way", ["pipe", "gz"])
@pytest.mark.parametrize("name", KEPT | OTHERWISE)
def test_a_wrong_guess_is_put_right(name, way, host, run_cli, tmp_path):
    files = (KEPT | OTHERWISE)[name]
    file, there = send(name, files, "file", host, run_cli, tmp_path)
    done, here = send(name, files, way, host, run_cli, tmp_path)
    assert (file.returncode, done.returncode) == (0, 0), file.stderr + done.stderr
    assert done.json["digest"] == file.json["digest"]
    assert stored(host, here) == stored(host, there)


LINES = b"".join(b"line %d of a text\n" % n for n in range(40_000))
MANY = hashlib.shake_128(b"many").digest(700_000)
LOOKS = {
    "text": LINES,
    "noise": MANY,
    "noise, then text": MANY[:100_000] + LINES,
    "text, then noise": LINES[:70_000] + MANY,
}


@pytest.mark.parametrize("way", ["pipe", "gz"])
@pytest.mark.parametrize("name", LOOKS)
def test_auto_means_the_same_as_for_a_file(name, way, host, run_cli, tmp_path):
    """The same sample decides, though the layer can be seen only as it comes by."""
    raw = archives.packed({"content": LOOKS[name]})
    files = image((LAYER, raw), raw=(raw,))
    how = {"compress": "auto"}
    file, there = send(name, files, "file", host, run_cli, tmp_path, **how)
    done, here = send(name, files, way, host, run_cli, tmp_path, **how)
    assert (file.returncode, done.returncode) == (0, 0), file.stderr + done.stderr
    assert done.json["digest"] == file.json["digest"]
    assert stored(host, here) == stored(host, there)


@pytest.mark.parametrize("name", LOOKS)
def test_a_dry_run_of_a_compressed_file_says_what_one_of_a_file_says(
    name, host, run_cli, tmp_path
):
    raw = archives.packed({"content": LOOKS[name]})
    files = image((LAYER, raw), raw=(raw,))
    said = []
    for way in ("file", "gz"):
        options = {"compress": "auto", "more": ("--dry-run",)}
        done, _ = send(f"dry {name}", files, way, host, run_cli, tmp_path, **options)
        assert done.returncode == 0, done.stderr
        said.append([(one["size"], one["action"]) for one in done.json["blobs"]])
    assert said[0] == said[1]


@pytest.mark.parametrize("name", KEPT)
def test_no_guess_is_needed_where_the_manifest_comes_first(
    name, server, run_cli, tmp_path
):
    files = dict(reversed(list(KEPT[name].items())))
    raw = archives.packed(files)
    done = run_cli("push", "-", "-t", f"{server.host}/first:1", "--json", stdin=raw)
    assert done.returncode == 0, done.stderr
    assert done.json["digest"] == digest_of_manifest(files)
    read = [one for one in server.seen if one.method == "GET" and "/blobs/" in one.path]
    assert read == []


@pytest.fixture
def server(tmp_path: Path):
    seen: list[Any] = []
    registry = Stubborn(tmp_path / "stubborn")
    with RegistryServer(registry, on_request=seen.append) as running:
        running.seen = seen
        running.stubborn = registry
        yield running


class Stubborn(Registry):
    """A registry that may give no blobs back, and may claim blobs that it lacks."""

    gives = True
    claims: Mapping[str, int] = {}

    def open_blob(self, name: Any, *more: Any) -> Any:
        if not self.gives:
            raise ProtocolError(403, "DENIED", "push only")
        return super().open_blob(name, *more)

    def blob_size(self, name: Any, wanted: Any) -> int:
        return self.claims.get(str(wanted)) or super().blob_size(name, wanted)


@pytest.mark.parametrize("name", KEPT)
def test_what_cannot_be_read_back_is_refused_by_name(name, server, run_cli, tmp_path):
    files = KEPT[name]
    if "xz" in name:
        pytest.skip("sent as it is, so nothing has to be put right")
    server.stubborn.gives = False
    done, here = send(name, files, "pipe", server.host, run_cli, tmp_path)
    assert done.returncode == 6, done.stderr
    layer = next(iter(files)).replace("blobs/sha256/", "sha256:")
    for words in ("standard input: v1: ", layer, "push the file instead"):
        assert words in done.error
    assert run_cli("tags", f"{server.host}/{here}").stdout == ""
    done, here = send(name, files, "gz", server.host, run_cli, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.json["digest"] == digest_of_manifest(files)


def test_what_the_registry_lost_is_sent_where_it_can_be_read_again(
    server, run_cli, tmp_path
):
    """It says that it has a blob, and then that a manifest names what it lacks."""
    files = ALIKE["gzip layers"]
    raw = archives.packed(files)
    packed = tmp_path / "image.tar.gz"
    packed.write_bytes(gzip.compress(raw))
    claims = {digest(content): len(content) for content in files.values()}
    before = archives.packed(image((LAYER, archives.layer("another")), raw=()))
    for target, way in (("b", "pipe"), ("c", "gz")):
        server.stubborn.claims = {}  # in a new repository it would not be asked
        run_cli("push", "-", "-t", f"{server.host}/{target}:0", stdin=before)
        server.stubborn.claims = claims
        word, stdin = ("-", raw) if way == "pipe" else (packed, b"")
        words = ("push", word, "-t", f"{server.host}/{target}:1")
        done = run_cli(*words, stdin=stdin)
        if way == "pipe":
            assert done.returncode == 1, done.stderr
            assert done.error.startswith("error: standard input: the registry lost")
            assert "run the same command once more" in done.error
            assert run_cli("tags", f"{server.host}/{target}").stdout == "0\n"
            server.stubborn.claims = {}
            done = run_cli(*words, stdin=stdin)
        assert done.returncode == 0, done.stderr


DOCUMENTS = 320


@pytest.mark.parametrize("way", ["pipe", "gz"])
def test_many_documents_take_no_memory(way, host, run_cli, tmp_path):
    """20 MiB of statements, each a JSON of 64 KiB, before the manifest."""
    layers = [
        ("application/vnd.in-toto+json", dump([f"{n}" * 21_000 + "x" * n]))
        for n in range(100, 100 + DOCUMENTS)
    ]
    files = one_manifest(layers, ("application/vnd.acme.config", b"{}"))
    assert sum(map(len, files.values())) > 19 << 20
    done, _ = send("many", files, way, host, run_cli, tmp_path, more=(), fresh=True)
    assert done.returncode == 0, done.stderr
    assert done.json["digest"] == digest_of_manifest(files)
    assert done.peak_rss < 60 << 20


def test_small_images_of_a_compressed_file_are_unpacked_once(host, run_cli, tmp_path):
    """A store with many images is not read again for each of them."""
    files: dict[str, bytes] = {}
    entries = []
    for number in range(12):
        raw = archives.layer(f"{number} " * 500)
        one = image((LAYER, raw), raw=(raw,))
        (entry,) = json.loads(one["index.json"])["manifests"]
        entry["annotations"] = {
            "org.opencontainers.image.ref.name": f"example.com/store{number}:1"
        }
        entries.append(entry)
        files |= one
    files["index.json"] = dump({"schemaVersion": 2, "manifests": entries})
    path = tmp_path / "image.tar.gz"
    path.write_bytes(gzip.compress(archives.packed(files)))
    words = ("push", "-a", path, "--registry", host, "--yes")
    done = run_cli(*words)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 12
    with Cancellation() as cancellation:
        store = IndexedArchive(path, cancellation, lambda archive, member: None)
        with closing(store):
            assert all(map(store.holds, store.images))


@pytest.mark.parametrize("name", KEPT)
def test_what_is_named_of_a_compressed_file_stays_as_it_is(
    name, host, run_cli, tmp_path
):
    path = tmp_path / "image.tar.gz"
    path.write_bytes(gzip.compress(archives.packed(KEPT[name])))
    repository = "named/" + digest(name.encode())[7:19]
    done = run_cli("push", path, "--name", "v1", "-t", f"{host}/{repository}:v1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith(digest_of_manifest(KEPT[name]))


@pytest.mark.parametrize("name", KEPT)
def test_the_library_reads_a_compressed_file_again_too(name, host, tmp_path):
    path = tmp_path / "image.tar.gz"
    path.write_bytes(gzip.compress(archives.packed(KEPT[name])))
    result = push(str(path), f"{host}/library/{digest(name.encode())[7:19]}:v1")
    assert result.descriptor.digest == digest_of_manifest(KEPT[name])


def test_only_what_is_pushed_must_have_been_guessed_right(host, run_cli):
    """An artifact beside the image that is chosen stays where it is."""
    files = {**KEPT["an artifact with a tar"], **ALIKE["raw layers"]}
    entries = [
        entry
        for one in (KEPT["an artifact with a tar"], ALIKE["raw layers"])
        for entry in json.loads(one["index.json"])["manifests"]
    ]
    entries[0]["annotations"] = {"org.opencontainers.image.ref.name": "other"}
    files["index.json"] = dump({"schemaVersion": 2, "manifests": entries})
    target = f"{host}/two/app:v1"
    raw = archives.packed(files)
    done = run_cli("push", "-", "--name", "v1", "-t", target, stdin=raw)
    assert done.returncode == 0, done.stderr


def digest_of_manifest(files: Any) -> str:
    return json.loads(files["index.json"])["manifests"][0]["digest"]
