"""``inspect`` and ``digest`` of images in a registry; archives as before."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import archives
import pytest
from images import small_archive
from multiplatform import write_layout

from dockerpush.server import Registry, RegistryServer


@pytest.fixture
def embedded(tmp_path: Path):
    with RegistryServer(Registry(tmp_path / "registry")) as server:
        yield server


@pytest.fixture
def image(tmp_path: Path, embedded, run_cli) -> tuple[str, str]:
    """A pushed image of one platform: its reference and digest."""
    archive = small_archive(tmp_path / "image.tar")
    target = f"{embedded.host}/team/app:1"
    done = run_cli("push", archive, "-t", target, "--json")
    assert done.returncode == 0, done.stderr
    return target, done.json["digest"]


@pytest.fixture
def index(tmp_path: Path, embedded, run_cli) -> tuple[str, str]:
    """A pushed index of two platforms and an attestation."""
    root = write_layout(tmp_path / "layout")
    target = f"{embedded.host}/team/multi:1"
    done = run_cli("push", tmp_path / "layout", "-t", target, "--compress", "none")
    assert done.returncode == 0, done.stderr
    return target, root["digest"]


def test_an_image_is_shown_with_its_layers_and_its_compressed_size(image, run_cli):
    target, digest = image
    done = run_cli("inspect", target, "--json")
    assert done.returncode == 0, done.stderr
    assert done.json["digest"] == digest
    (only,) = done.json["images"]
    assert only["platform"] == "linux/amd64"
    assert len(only["layers"]) == 3
    sizes = [layer["size"] for layer in only["layers"]]
    assert only["compressedSize"] == sum(sizes) > 0


def test_every_platform_of_an_index_is_shown_with_labels_and_time(index, run_cli):
    target, digest = index
    done = run_cli("inspect", target, "--json")
    assert done.json["digest"] == digest
    images = {image["platform"]: image for image in done.json["images"]}
    assert images.keys() == {"linux/amd64", "linux/arm64", "unknown/unknown"}
    assert images["linux/arm64"]["labels"] == {"made-for": "arm64"}
    assert images["linux/arm64"]["created"] == "2024-01-02T03:04:05Z"


def test_people_see_the_same_as_programs(index, run_cli):
    target, digest = index
    done = run_cli("inspect", target)
    assert done.stdout.startswith(f"{target.rpartition(':')[0]}@{digest}\n")
    for text in ("linux/amd64", "linux/arm64", "made-for=arm64", "2024-01-02", "LAYER"):
        assert text in done.stdout


def test_raw_is_the_index_byte_for_byte(index, run_cli, tmp_path):
    target, digest = index
    done = run_cli("inspect", "--raw", target)
    stored = tmp_path / "layout/blobs/sha256" / digest[7:]
    assert done.stdout.encode() == stored.read_bytes()


def test_the_config_of_one_platform_is_asked_for_by_name(index, run_cli):
    target, _ = index
    done = run_cli("inspect", "--image-config", target)
    assert done.returncode == 2
    assert "linux/amd64" in done.error and "--platform" in done.error
    done = run_cli("inspect", "--image-config", "--platform", "linux/arm64", target)
    assert json.loads(done.stdout)["architecture"] == "arm64"
    done = run_cli("inspect", "--platform", "linux/s390x", target)
    assert done.returncode == 4
    assert "linux/s390x" in done.error


def test_a_digest_is_shown_alone_or_as_a_reference(image, run_cli):
    target, digest = image
    name = target.rpartition(":")[0]
    assert run_cli("digest", target).stdout == f"{digest}\n"
    assert run_cli("digest", target, "--full-ref").stdout == f"{name}@{digest}\n"
    assert run_cli("digest", target, "--json").json["digest"] == digest
    assert run_cli("digest", f"{name}@{digest}").stdout == f"{digest}\n"


@pytest.mark.parametrize("command", ["inspect", "digest"])
def test_what_is_not_there_is_not_found_in_one_line(command, image, run_cli):
    target, _ = image
    done = run_cli(command, f"{target}-absent")
    assert done.returncode == 4
    assert done.stderr.count("\n") == 1


def test_an_archive_is_inspected_as_before(tmp_path, run_cli):
    archive = small_archive(tmp_path / "image.tar")
    done = run_cli("inspect", archive, "--json")
    assert done.json["images"][0]["tags"] == ["demo/app:1"]
    done = run_cli("inspect", archive, "--raw")
    assert done.returncode == 2
    done = run_cli("inspect", tmp_path / "absent.tar")
    assert done.returncode == 4
    assert "absent.tar: no such file" in done.error


def test_a_file_comes_before_an_image_of_the_same_name(tmp_path, run_cli):
    small_archive(tmp_path / "app:1")
    done = run_cli("inspect", "app:1", "--json")
    assert done.json["images"][0]["tags"] == ["demo/app:1"]


@pytest.mark.parametrize("form", ["file", "compressed", "pipe"])
def test_every_stored_layer_has_its_digest(form, run_cli, tmp_path):
    """Compressed ones of a docker-archive as well, which does not tell it."""
    image = archives.Image.of("one", "two", tags=("app:1",))
    packed = archives.gzipped(image.layers[0])
    files = archives.simple(image, {"0.tar": packed, "1.tar": image.layers[1]})
    path = archives.tar(tmp_path / "a.tar", files)
    if form == "compressed":
        path.write_bytes(gzip.compress(path.read_bytes()))
    if form == "pipe":
        done = run_cli("inspect", "-", "--json", stdin=path)
    else:
        done = run_cli("inspect", path, "--json")
    assert done.returncode == 0, done.stderr
    layers = done.json["images"][0]["layers"]
    stored = [packed, image.layers[1]]
    assert [one["digest"] for one in layers] == [archives.digest(raw) for raw in stored]
    assert [one["diff_id"] for one in layers] == image.diff_ids
    assert [one["mediaType"] for one in layers] == [
        archives.LAYER + "+gzip",
        archives.LAYER,
    ]
