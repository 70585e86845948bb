"""``sync`` into one OCI archive, plain or in volumes, and out of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Iterator

import pytest
from copied import actions, read
from multiplatform import write_attestation, write_image, write_index
from registries import run
from test_cli_sync_directory import everything, source, sync, target

import dockerpush
from dockerpush.archive import open_archive
from dockerpush.archive.stored import StoredIndex, StoredManifest
from dockerpush.server import Registry, RegistryServer

__all__ = ["everything", "source", "sync", "target"]

ALL = ("red", "green", "blue", "multi")


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def names_in(path: str | Path) -> list[str]:
    with open_archive(path) as archive:
        return sorted(name for image in archive.images for name in image.names)


@pytest.mark.parametrize("split", [(), ("--split", "64KiB")])
def test_the_same_list_serves_at_both_ends(
    everything, source, target, sync, tmp_path, split
):
    there = sync(everything, "oci-archive:all.tar", "--json", *split)
    assert set(actions(there).values()) == {"copy"}
    assert names_in("all.tar") == sorted(f"{source}/{name}:1" for name in ALL)
    if split:
        assert sorted(Path().glob("all.tar*"))[-1].name == "all.tar.sha256"
        content = b"".join(map(Path.read_bytes, sorted(Path().glob("all.tar.0*"))))
        Path("joined.tar").write_bytes(content)
    archive = "oci-archive:" + ("joined.tar" if split else "all.tar")
    raw = run("skopeo", "inspect", "--raw", f"{archive}:{source}/multi:1")
    assert raw == read(source, "multi", "1")
    everything.write_text(everything.read_text().replace("mirror.test", target))
    back = sync(everything, "--from", "oci-archive:all.tar", f"{target}/m", "--json")
    assert set(actions(back).values()) == {"copy"}
    assert read(target, "m/multi", "1") == read(source, "multi", "1")
    again = sync("oci-archive:all.tar", f"{target}/m", "--json")
    assert actions(again)["m/red:1"] == "skip"


def test_each_blob_is_there_once(everything, source, sync, tmp_path):
    done = sync(everything, "oci-archive:all.tar", "--json")
    again = sync(everything, "oci-archive:all.tar", "--json")
    assert again.json["bytes"] == done.json["bytes"]
    with open_archive("all.tar") as archive:
        digests = [
            layer.digest
            for image in archive.images
            if isinstance(image.root, StoredManifest)
            for layer in image.root.layers
        ]
    assert len(digests) == 6
    assert len(set(digests)) == 4


def test_what_is_missing_is_reported_and_the_rest_is_written(source, sync, tmp_path):
    Path("list").write_text(f"{source}/red:1\n{source}/red:9\n{source}/nothing:1\n")
    done = sync("list", "oci-archive:all.tar", code=7)
    assert names_in("all.tar") == [f"{source}/red:1"]
    assert f"{source}/red:9" in done.stdout
    Path("list").write_text(f"{source}/red:9\n")
    before = Path("all.tar").read_bytes()
    sync("list", "oci-archive:all.tar", code=7)
    assert Path("all.tar").read_bytes() == before


def test_a_dry_run_writes_nothing(everything, sync):
    done = sync(everything, "oci-archive:all.tar", "--dry-run", "--split", "1MB")
    assert "4 to copy" in done.stdout
    assert list(Path().glob("*all.tar*")) == []


@pytest.mark.parametrize("split", [(), ("--split", "64KiB")])
def test_an_archive_that_exists_is_replaced_kept_or_an_error(source, sync, split):
    Path("list").write_text(f"{source}/red:1\n")
    sync("list", "oci-archive:all.tar", *split)
    Path("list").write_text(f"{source}/blue:1\n")
    done = sync("list", "oci-archive:all.tar", *split, "--on-exists", "skip")
    assert "all.tar exists and is left as it is" in done.stderr
    words = ("list", "oci-archive:all.tar", *split, "--on-exists", "error")
    assert "--on-exists compare replaces it" in sync(*words, code=2).stderr
    assert names_in("all.tar") == [f"{source}/red:1"]
    sync("list", "oci-archive:all.tar", *split)
    assert names_in("all.tar") == [f"{source}/blue:1"]


def test_each_entry_has_its_own_platforms(source, sync):
    images = [
        {"source": f"{source}/multi:1", "target": "a.test/m:1"},
        {
            "source": f"{source}/multi:v1",
            "target": "a.test/m:2",
            "platforms": ["linux/arm64"],
        },
    ]
    Path("list.json").write_text(json.dumps({"sync": images}))
    sync("list.json", "oci-archive:all.tar")
    with open_archive("all.tar") as archive:
        kinds = {image.names: type(image.root) for image in archive.images}
    assert kinds[f"{source}/multi:1",] is StoredIndex
    assert kinds[f"{source}/multi:v1",] is StoredManifest


@pytest.fixture
def signed(tmp_path: Path) -> Iterator[str]:
    """An image with an attestation in its index, in a registry."""
    path = tmp_path / "layout"
    image = write_image(path, "amd64")
    index = write_index(path, [image, write_attestation(path, image)])
    (path / "index.json").write_text(
        json.dumps({"schemaVersion": 2, "manifests": [index]})
    )
    (path / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    with RegistryServer(Registry(tmp_path / "signed")) as server:
        dockerpush.push(path, f"{server.host}/app:1")
        yield server.host


def test_an_index_keeps_its_digest(signed, sync, target):
    Path("list").write_text(f"{signed}/app:1\n")
    sync("list", "oci-archive:all.tar", "--referrers")
    sync("oci-archive:all.tar", f"{target}/x")
    assert read(target, "x/app", "1") == read(signed, "app", "1")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("oci-archive:all.tar.gz",), "archives are written plain"),
        (("oci-archive:all.tar:name",), "a whole archive"),
        (("oci-archive:",), "a whole archive"),
        (("oci-archive:folder",), "is a directory"),
        (("oci:folder", "--split", "1MB"), "--split is for oci-archive:FILE"),
        (("oci-archive:all.tar.001", "--split", "1MB"), "leave .001 out"),
        (("oci-archive:all.tar", "--prune"), "--prune is for registries"),
    ],
)
def test_what_cannot_be_is_refused(everything, sync, words, why):
    Path("folder").mkdir()
    done = sync(everything, *words, code=2)
    assert why in done.stderr
    assert list(Path().glob("*all.tar*")) == []


def test_a_source_that_fails_in_the_middle_leaves_the_old_archive(
    source, sync, tmp_path
):
    Path("list").write_text(f"{source}/red:1\n")
    sync("list", "oci-archive:all.tar")
    sync("list", "oci-archive:copy.tar")
    content = bytearray(Path("copy.tar").read_bytes())
    content[-30_000:-20_000] = bytes(10_000)
    Path("copy.tar").write_bytes(content)
    before = Path("all.tar").read_bytes()
    sync("oci-archive:copy.tar", "oci-archive:all.tar", code=6)
    assert Path("all.tar").read_bytes() == before
    assert sorted(path.name for path in Path().glob("*all.tar*")) == ["all.tar"]
