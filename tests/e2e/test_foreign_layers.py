"""A layer that may be fetched elsewhere: carried when it is held, else left there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import archives
import pytest
from archives import CONFIG, MANIFEST, Image, descriptor, digest, dump
from inprocess import run_here
from pushed import fetch
from suites import crossed

from dockerpush.server import Registry, RegistryServer

FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
IMAGE = Image.of("base", "own")
BASE, OWN = map(archives.gzipped, IMAGE.layers)
ROOT = dump(
    {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(CONFIG, IMAGE.config),
        "layers": [
            descriptor(FOREIGN, BASE, urls=["https://elsewhere.example/base"]),
            descriptor(archives.LAYER + "+gzip", OWN),
        ],
    }
)


@pytest.fixture
def host(tmp_path: Path):
    with RegistryServer(Registry(tmp_path / "registry")) as server:
        yield server.host


def archive(path: Path, *, held: bool) -> Path:
    contents = [ROOT, IMAGE.config, OWN, *([BASE] if held else [])]
    blobs = {archives.blob(content): content for content in contents}
    layout = archives.Layout(blobs, (descriptor(MANIFEST, ROOT),)).annotated(ref="1")
    return archives.tar(path, layout.files())


def push(path: Path, host: str) -> list[Any]:
    return [("push", path, "-t", f"{host}/x:1")]


def copy(path: Path, host: str) -> list[Any]:
    out = path.with_name("out")
    return [
        ("copy", f"oci-archive:{path}", f"oci:{out}:1"),
        ("copy", f"oci:{out}:1", f"{host}/x:1"),
    ]


def mirror(path: Path, host: str) -> list[Any]:
    return [
        ("push", path, "-t", f"{host}/first:1"),
        ("copy", f"{host}/first:1", f"{host}/x:1"),
    ]


def pull(path: Path, host: str) -> list[Any]:
    out = path.with_name("p.tar")
    return [
        ("push", path, "-t", f"{host}/first:1"),
        ("pull", f"{host}/first:1", "-o", out, "--format", "oci-archive"),
        ("push", out, "-t", f"{host}/x:1"),
    ]


@pytest.mark.parametrize(
    ("held", "way"), crossed([True, False], [push, copy, mirror, pull])
)
def test_what_the_source_holds_is_carried(held, way, host, run_cli, tmp_path):
    path = archive(tmp_path / "a.tar", held=held)
    for words in (*way(path, host), ("verify", path, f"{host}/x:1")):
        done = run_here(words, run_cli.environment())
        assert done.returncode == 0, (words, done.stderr)
    check(host, held=held)


@pytest.mark.parametrize("held", [True, False])
def test_a_pipe_carries_it_too(held, host, run_cli, tmp_path):
    path = archive(tmp_path / "a.tar", held=held)
    done = run_cli("push", "-", "-t", f"{host}/x:1", stdin=path)
    assert done.returncode == 0, done.stderr
    check(host, held=held)


def check(host: str, *, held: bool) -> None:
    assert fetch(host, "x", "manifests/1") == ROOT
    assert fetch(host, "x", f"blobs/{digest(OWN)}") == OWN
    if held:
        assert fetch(host, "x", f"blobs/{digest(BASE)}") == BASE
    else:
        with pytest.raises(AssertionError):
            fetch(host, "x", f"blobs/{digest(BASE)}")
    assert json.loads(ROOT)["layers"][0]["urls"]
