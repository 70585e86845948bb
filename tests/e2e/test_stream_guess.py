"""A pipe and a compressed file give what a plain file gives, or refuse by name."""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import archives
import pytest
from archives import CONFIG, LAYER, MANIFEST, Image, blob, descriptor, digest, dump

from dockerpush import push
from dockerpush.server import Registry, RegistryServer

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


def send(name: str, files: Any, way: str, host: str, run_cli: Any, tmp_path: Path):
    """Push *files* as *way* says; how it ended, and the repository."""
    raw = archives.packed(files)
    repository = f"{way}/{digest(name.encode())[7:19]}"
    path = tmp_path / "image.tar"
    path.write_bytes(gzip.compress(raw) if way == "gz" else raw)
    options = ("-t", f"{host}/{repository}:v1", "--compress", "gzip", "--json")
    if way == "pipe":
        return run_cli("push", "-", *options, stdin=raw), repository
    return run_cli("push", path, *options), repository


@pytest.mark.parametrize("way", ["pipe", "gz"])
@pytest.mark.parametrize("name", ALIKE)
def test_the_same_manifest_as_from_a_file(name, way, host, run_cli, tmp_path):
    file, there = send(name, ALIKE[name], "file", host, run_cli, tmp_path)
    done, here = send(name, ALIKE[name], way, host, run_cli, tmp_path)
    assert (file.returncode, done.returncode) == (0, 0), file.stderr + done.stderr
    assert done.json["digest"] == file.json["digest"]
    assert stored(host, here) == stored(host, there)


@pytest.mark.parametrize("name", KEPT | OTHERWISE)
def test_a_compressed_file_is_read_again_where_the_first_guess_was_wrong(
    name, host, run_cli, tmp_path
):
    files = (KEPT | OTHERWISE)[name]
    file, there = send(name, files, "file", host, run_cli, tmp_path)
    done, here = send(name, files, "gz", host, run_cli, tmp_path)
    assert (file.returncode, done.returncode) == (0, 0), file.stderr + done.stderr
    assert done.json["digest"] == file.json["digest"]
    assert stored(host, here) == stored(host, there)


@pytest.mark.parametrize("name", KEPT | OTHERWISE)
def test_a_pipe_refuses_by_name_and_tags_nothing(name, host, run_cli, tmp_path):
    files = (KEPT | OTHERWISE)[name]
    done, here = send(name, files, "pipe", host, run_cli, tmp_path)
    assert done.returncode == 6, done.stderr
    layer = next(iter(files)).replace("blobs/sha256/", "sha256:")
    for words in ("standard input: v1: ", layer, "push the file instead"):
        assert words in done.error
    assert done.error.startswith("error: ")
    assert run_cli("tags", f"{host}/{here}").stdout == ""


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


@pytest.mark.parametrize("name", KEPT)
def test_nothing_is_refused_where_nothing_is_compressed(name, host, run_cli, tmp_path):
    if "xz" in name:
        pytest.skip("unpacked whatever is asked for, since no layer may be xz")
    raw = archives.packed(KEPT[name])
    target = f"{host}/raw/{digest(name.encode())[7:19]}:v1"
    done = run_cli("push", "-", "-t", target, "--compress", "none", "--json", stdin=raw)
    assert done.returncode == 0, done.stderr
    assert done.json["digest"] == digest_of_manifest(KEPT[name])


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
