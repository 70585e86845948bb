"""What is rewritten keeps what dockerpush does not know; platforms by version."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import archives
import pytest
from archives import CONFIG, INDEX, LAYER, MANIFEST, Image, descriptor, dump
from pushed import fetch

from dockerpush.server import Registry, RegistryServer

VERSIONS = ("10.0.20348.1", "10.0.17763.1234")


@pytest.fixture
def host(tmp_path: Path):
    with RegistryServer(Registry(tmp_path / "registry")) as server:
        yield server.host


def image(version: str) -> Image:
    more = {"os": "windows", "os.version": version, "os.features": ["win32k"]}
    return Image.of(version * 500, extra=more)


def manifest(version: str) -> bytes:
    """Of raw layers, so that a push writes it anew."""
    made = image(version)
    return dump(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(CONFIG, made.config, **{"org.example.c": 1}),
            "layers": [
                descriptor(LAYER, one, **{"x-layer": [1]}) for one in made.layers
            ],
            "org.example.manifest": {"a": None},
        }
    )


def entry(version: str) -> dict[str, Any]:
    platform = {
        "os": "windows",
        "architecture": "amd64",
        "os.version": version,
        "os.features": ["win32k"],
        "features": ["sse4"],
    }
    raw = manifest(version)
    return descriptor(MANIFEST, raw, platform=platform, **{"x-entry": True})


TOP = {
    "schemaVersion": 2,
    "mediaType": INDEX,
    "manifests": [
        *map(entry, VERSIONS),
        {**entry("1"), "platform": {"os": "linux", "architecture": "amd64"}},
    ],
    "org.example.index": [1, 2],
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    blobs = [dump(TOP)]
    for version in (*VERSIONS, "1"):
        made = image(version)
        blobs += [manifest(version), made.config, *made.layers]
    files = {archives.blob(content): content for content in blobs}
    layout = archives.Layout(files, (descriptor(INDEX, dump(TOP)),)).annotated(ref="v1")
    return archives.tar(tmp_path / "windows.tar", layout.files())


def pushed(host: str) -> dict[str, Any]:
    return json.loads(fetch(host, "app", "manifests/1"))


def without_digests(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**one, "digest": "", "size": 0} for one in entries]


@pytest.mark.parametrize("way", ["file", "pipe"])
def test_recompression_keeps_what_is_not_known(way, source, host, run_cli):
    words = ("-t", f"{host}/app:1", "--compress", "gzip")
    if way == "pipe":
        done = run_cli("push", "-", *words, stdin=source)
    else:
        done = run_cli("push", source, *words)
    assert done.returncode == 0, done.stderr
    index = pushed(host)
    assert index["org.example.index"] == [1, 2]
    assert without_digests(index["manifests"]) == without_digests(TOP["manifests"])
    for child in index["manifests"]:
        raw = json.loads(fetch(host, "app", f"manifests/{child['digest']}"))
        assert raw["org.example.manifest"] == {"a": None}
        assert raw["config"]["org.example.c"] == 1
        assert [one["x-layer"] for one in raw["layers"]] == [[1]]
        assert [one["mediaType"] for one in raw["layers"]] == [LAYER + "+gzip"]


def narrowed_by_push(source: Path, host: str, run_cli: Any, words: list[str]) -> Any:
    return run_cli("push", source, "-t", f"{host}/app:1", "--compress", "none", *words)


def narrowed_by_copy(source: Path, host: str, run_cli: Any, words: list[str]) -> Any:
    done = run_cli("push", source, "-t", f"{host}/all:1", "--compress", "none")
    assert done.returncode == 0, done.stderr
    return run_cli("copy", f"{host}/all:1", f"{host}/app:1", *words)


WAYS = pytest.mark.parametrize("narrow", [narrowed_by_push, narrowed_by_copy])


@WAYS
def test_narrowing_keeps_what_is_not_known(narrow, source, host, run_cli):
    words = [f"--platform=windows/amd64:{version}" for version in VERSIONS]
    done = narrow(source, host, run_cli, words)
    assert done.returncode == 0, done.stderr
    assert pushed(host) == {**TOP, "manifests": TOP["manifests"][:2]}


@WAYS
@pytest.mark.parametrize(
    "platform",
    [
        "windows/amd64:10.0.17763.1234",
        "windows/amd64:10.0.17763",
        "windows(10.0.17763)/amd64",
    ],
)
def test_a_platform_is_chosen_by_its_version(narrow, platform, source, host, run_cli):
    done = narrow(source, host, run_cli, [f"--platform={platform}"])
    assert done.returncode == 0, done.stderr
    assert fetch(host, "app", "manifests/1") == manifest(VERSIONS[1])


@WAYS
def test_versions_that_there_are_are_named(narrow, source, host, run_cli):
    done = narrow(source, host, run_cli, ["--platform=windows/amd64:10.0.1776"])
    assert done.returncode == 4
    for version in VERSIONS:
        assert f"windows/amd64:{version}" in done.error


def test_joining_takes_features_from_index_and_config(source, host, run_cli, tmp_path):
    linux = archives.tar(
        tmp_path / "l.tar", archives.legacy(Image.of("l", tags=("l:1",)))
    )
    other = Image.of(
        "w", tags=("w:1",), extra={"os": "windows", "os.features": ["other"]}
    )
    windows = archives.tar(tmp_path / "w.tar", archives.legacy(other))
    done = run_cli("push", linux, windows, "-t", f"{host}/app:1")
    assert done.returncode == 0, done.stderr
    found = [one["platform"] for one in pushed(host)["manifests"]]
    assert found[0] == {"architecture": "amd64", "os": "linux"}
    assert found[1]["os.features"] == ["other"]
