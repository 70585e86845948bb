"""A layer whose media type is not that of its bytes: push mends it, copies keep it."""

from __future__ import annotations

import gzip
import json
import signal
from pathlib import Path
from subprocess import PIPE
from typing import Any
from urllib.request import Request, urlopen

import archives
import pytest
from archives import LAYER
from pairs import DOCKER, MORE, SMALL, TEXT, ZSTD, Sample, image, in_directory, seed

from dockerpush.server import Registry, RegistryServer

GZIP = gzip.compress(TEXT, 1, mtime=0)
DOCKER_LAYER = DOCKER + "image.rootfs.diff.tar"
OF_DOCKER = {
    "config_type": DOCKER + "container.image.v1+json",
    "kind": DOCKER + "distribution.manifest.v2+json",
}
# by name: what the label says, the bytes, what they hold; the right type of the bytes
WRONG: dict[str, tuple[str, bytes, bytes, str]] = {
    "gzip called a tar": (LAYER, GZIP, TEXT, LAYER + "+gzip"),
    "gzip called zstd": (LAYER + "+zstd", GZIP, TEXT, LAYER + "+gzip"),
    "zstd called gzip": (LAYER + "+gzip", ZSTD, SMALL, LAYER + "+zstd"),
    "zstd called a tar": (LAYER, ZSTD, SMALL, LAYER + "+zstd"),
    "a tar called gzip": (LAYER + "+gzip", TEXT, TEXT, LAYER),
    "a tar called zstd": (LAYER + "+zstd", TEXT, TEXT, LAYER),
    "docker's tar": (DOCKER_LAYER, GZIP, TEXT, DOCKER_LAYER + ".gzip"),
    "docker's gzip": (DOCKER_LAYER + ".gzip", TEXT, TEXT, DOCKER_LAYER),
    "docker's zstd": (DOCKER_LAYER + ".gzip", ZSTD, SMALL, LAYER + "+zstd"),
}
FULL = ("gzip called a tar", "a tar called gzip")


@pytest.fixture(params=WRONG)
def name(request) -> str:
    return str(request.param)


@pytest.fixture
def sample(name: str) -> Sample:
    label, stored, raw, _ = WRONG[name]
    right = (LAYER + "+gzip", gzip.compress(MORE, 1, mtime=0), MORE)
    more: Any = {}
    if "docker" in name:
        right, more = (DOCKER_LAYER + ".gzip", *right[1:]), OF_DOCKER
    return image((label, stored, raw), right, **more)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory):
    with RegistryServer(Registry(tmp_path_factory.mktemp("labels") / "r")) as server:
        yield server.host


def place(host: str, name: str, way: str) -> str:
    return f"{host}/{name.replace(' ', '-').replace(chr(39), '')}/{way}:1"


def manifest(reference: str) -> Any:
    host, _, rest = reference.partition("/")
    repository, _, tag = rest.rpartition(":")
    url = f"http://{host}/v2/{repository}/manifests/{tag}"
    with urlopen(Request(url, headers={"Accept": "*/*"})) as answer:
        return json.loads(answer.read())


@pytest.mark.parametrize("compress", ["gzip", "none"])
def test_every_push_gives_the_type_that_the_bytes_have(
    compress, name, sample, host, run_cli, tmp_path
):
    raw = archives.packed(sample.files)
    path = tmp_path / "image.tar"
    path.write_bytes(raw)
    (tmp_path / "image.tar.gz").write_bytes(gzip.compress(raw))
    ways = {
        "file": path,
        "gz": tmp_path / "image.tar.gz",
        "directory": archives.folder(tmp_path / "layout", sample.files),
        "pipe": "-",
    }
    if name not in FULL or compress == "none":
        ways = {"file": path, "pipe": "-"}
    found = []
    for way, word in ways.items():
        target = place(host, name, f"{way}-{compress}")
        stdin = raw if word == "-" else b""
        words = ("push", word, "-t", target, "--compress", compress, "--json")
        done = run_cli(*words, stdin=stdin)
        assert done.returncode == 0, done.stderr
        assert f"has the media type {WRONG[name][0]}, but its bytes are " in done.stderr
        found.append((done.json["digest"], manifest(target)))
    assert found == found[:1] * len(ways)
    verified = run_cli("verify", path, target)
    assert verified.returncode == 0, verified.stderr
    layers = [layer["mediaType"] for layer in found[0][1]["layers"]]
    packed = compress == "gzip" and WRONG[name][1] == TEXT
    assert layers[0] == (WRONG[name][0] if packed else WRONG[name][3]) or (
        packed and layers[0].endswith("gzip")
    )


def test_a_dry_run_says_what_the_push_does(name, sample, host, run_cli, tmp_path):
    path = archives.tar(tmp_path / "image.tar", sample.files)
    done = run_cli("push", path, "-t", place(host, name, "dry"), "--dry-run")
    assert done.returncode == 0, done.stderr
    assert f"has the media type {WRONG[name][0]}, but its bytes are " in done.stderr


def test_a_copy_keeps_every_byte_and_says_so(name, sample, host, run_cli, tmp_path):
    path = archives.tar(tmp_path / "image.tar", sample.files)
    done = run_cli("copy", path, f"oci:{tmp_path / 'out'}")
    assert done.returncode == 0, done.stderr
    assert "kept as it is" in done.stderr
    found = in_directory(tmp_path / "out")
    assert found is not None
    assert found.differs_from(sample) == ""


def test_what_a_registry_has_so_is_copied_and_verified(
    name, sample, host, run_cli, tmp_path
):
    path = archives.tar(tmp_path / "image.tar", sample.files)
    source, target = place(host, name, "seed"), place(host, name, "copy")
    seed(host, source.partition("/")[2].rpartition(":")[0], sample)
    done = run_cli("copy", source, target, "--json")
    assert done.returncode == 0, done.stderr
    assert done.json["digest"] == sample.digest
    verified = run_cli("verify", path, target)
    assert verified.returncode == 0, verified.stderr


def test_inspect_shows_the_type_of_the_bytes(name, sample, run_cli, tmp_path):
    path = archives.tar(tmp_path / "image.tar", sample.files)
    done = run_cli("inspect", path)
    assert done.returncode == 0, done.stderr
    assert WRONG[name][3] + "\n" in done.stdout


def test_serve_gives_it_as_it_is_and_says_so(run_cli, tmp_path: Path):
    label, stored, raw, _ = WRONG["gzip called a tar"]
    path = archives.tar(tmp_path / "image.tar", image((label, stored, raw)).files)
    words = ("serve", "--port", 0, "--dir", tmp_path / "store", path)
    with run_cli.start(*words, stdout=PIPE, stderr=PIPE) as server:
        host = server.stdout.readline().decode().strip().rpartition("/")[2]
        kept = manifest(f"{host}/demo/app:1")
        server.send_signal(signal.SIGTERM)
        assert b"kept as it is" in server.communicate(timeout=20)[1]
    assert [layer["mediaType"] for layer in kept["layers"]] == [label]
