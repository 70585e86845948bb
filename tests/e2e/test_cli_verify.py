"""``verify`` and ``push --verify``: what a registry holds, compared with an archive."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from images import digest_of, docker_archive, small_archive, tar_of

from dockerpush.server import Registry, RegistryServer


@pytest.fixture
def embedded(tmp_path: Path):
    registry = Registry(tmp_path / "registry")
    with RegistryServer(registry) as server:
        yield server


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return small_archive(tmp_path / "image.tar")


def test_what_was_pushed_is_verified(archive, embedded, run_cli):
    target = f"{embedded.host}/app:1"
    pushed = run_cli("push", archive, "-t", target, "--verify", "--json")
    assert pushed.returncode == 0, pushed.stderr
    assert "verified" in pushed.stderr
    done = run_cli("verify", archive, target, "--json")
    assert done.json["digest"] == pushed.json["digest"]
    assert done.json["blobs"] == 3


@pytest.mark.parametrize("name", ["podman-oci-archive", "skopeo-oci-zstd"])
def test_real_archives_are_verified(name, real_archives, embedded, run_cli):
    target = f"{embedded.host}/{name}:1"
    run_cli("push", real_archives[name], "-t", target)
    done = run_cli("verify", real_archives[name], target)
    assert done.returncode == 0, done.stderr


def test_another_image_is_a_mismatch(archive, embedded, run_cli, tmp_path):
    target = f"{embedded.host}/app:1"
    run_cli("push", archive, "-t", target)
    other = small_archive(tmp_path / "other.tar", salt=b"other")
    done = run_cli("verify", other, target)
    assert done.returncode == 6
    assert "push it again" in done.error


def test_a_manifest_with_the_right_config_and_another_layer_is_found_out(
    embedded, run_cli, tmp_path
):
    """What a registry with a lying manifest would get away with otherwise."""
    first = docker_archive(tmp_path / "a.tar", [tar_of({"f": os.urandom(5000)})])
    second = docker_archive(tmp_path / "b.tar", [tar_of({"f": os.urandom(5000)})])
    host = embedded.host
    for path, tag in ((first, "a"), (second, "b")):
        run_cli("push", path, "-t", f"{host}/lie:{tag}")
    manifests = {tag: _manifest(host, tag) for tag in "ab"}
    lie = {**manifests["a"], "layers": manifests["b"]["layers"]}
    _put(host, "a", json.dumps(lie).encode())
    done = run_cli("verify", first, f"{host}/lie:a")
    assert done.returncode == 6
    assert re.search("holds sha256:.* archive's layer is sha256:", done.error)


def test_a_push_that_trusts_a_lying_manifest_says_reused_and_verify_finds_it(
    embedded, run_cli, tmp_path
):
    layer = tar_of({"f": b"x" * 5000})
    path = docker_archive(tmp_path / "a.tar", [layer])
    other = docker_archive(tmp_path / "b.tar", [tar_of({"f": b"y" * 5000})])
    host = embedded.host
    for archive, tag in ((path, "a"), (other, "b")):
        run_cli("push", archive, "-t", f"{host}/lie:{tag}")
    lie = {**_manifest(host, "a"), "layers": _manifest(host, "b")["layers"]}
    _put(host, "a", json.dumps(lie).encode())
    trusting = ("push", path, "-t", f"{host}/lie:a", "--json", "--trust-target")
    done = run_cli(*trusting)
    assert done.json["blobs"] == {"exists": 1, "reused": 1}
    done = run_cli(*trusting, "--verify")
    assert done.returncode == 6
    assert "push it again" in done.error
    done = run_cli("push", path, "-t", f"{host}/lie:a", "--verify")
    assert done.returncode == 0, done.stderr


def test_a_missing_tag_is_not_found(archive, embedded, run_cli):
    done = run_cli("verify", archive, f"{embedded.host}/app:none")
    assert done.returncode == 4


def _manifest(host: str, tag: str) -> dict:
    import urllib.request

    request = urllib.request.Request(
        f"http://{host}/v2/lie/manifests/{tag}",
        headers={"Accept": "application/vnd.oci.image.manifest.v1+json"},
    )
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def _put(host: str, tag: str, raw: bytes) -> None:
    import urllib.request

    request = urllib.request.Request(
        f"http://{host}/v2/lie/manifests/{tag}",
        data=raw,
        method="PUT",
        headers={"Content-Type": "application/vnd.oci.image.manifest.v1+json"},
    )
    with urllib.request.urlopen(request) as answer:
        assert answer.headers["Docker-Content-Digest"] == digest_of(raw)
