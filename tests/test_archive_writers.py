"""Archives written, read back by our own reader and by tarfile."""

from __future__ import annotations

import io
import json
import os
import tarfile
import threading
from typing import BinaryIO

import pytest
from archives import Image, attestation, gzipped, layout

from dockerpush.archive import open_archive
from dockerpush.archive.bundle import BundledImage, tar_layout
from dockerpush.archive.writers import (
    BlobStore,
    new_directory,
    replacing,
    write_directory,
    write_tar,
)
from dockerpush.cancellation import Cancellation
from dockerpush.errors import ArchiveError, Cancelled, ContentMismatch
from dockerpush.oci import OCI_MANIFEST, Descriptor, Digest, Manifest


class Blobs:
    """Blobs in memory, with the images that need them."""

    def __init__(self) -> None:
        self.contents: dict[Digest, bytes] = {}

    def open_blob(self, digest: Digest) -> BinaryIO:
        return io.BytesIO(self.contents[digest])

    def image(self, image: Image, *names: str) -> BundledImage:
        """*image*, its layers gzipped, to be written under *names*."""
        whole = layout(image)
        for content in whole.blobs.values():
            assert isinstance(content, bytes)
            self.contents[Digest.of(content)] = content
        root = Descriptor.from_json(whole.entries[0])
        manifest = Manifest.from_bytes(self.contents[root.digest])
        layers = tuple(layer.digest for layer in manifest.layers)
        blobs = (root, manifest.config, *manifest.layers)
        return BundledImage(root, names, blobs, manifest.config.digest, layers)


@pytest.fixture
def blobs() -> Blobs:
    return Blobs()


@pytest.fixture
def store(blobs):
    with Cancellation() as cancellation:
        yield BlobStore(blobs.open_blob, cancellation)


def written(images, store: BlobStore, *, docker: bool = True) -> bytes:
    file = io.BytesIO()
    write_tar(file, images, store, docker=docker)
    return file.getvalue()


ONE, TWO = Image.of("shared", "one"), Image.of("shared", "two")


def test_two_images_share_a_layer_and_keep_their_names(blobs, store, tmp_path):
    images = [blobs.image(ONE, "r.io/a:1"), blobs.image(TWO, "r.io/b:1")]
    path = tmp_path / "bundle.tar"
    path.write_bytes(written(images, store))
    with open_archive(path) as archive:
        assert [image.names for image in archive.images] == [
            ("r.io/a:1",),
            ("r.io/b:1",),
        ]
        for image, bundled in zip(archive.images, images):
            assert image.root.descriptor.digest == bundled.root.digest
            assert image.root.raw == blobs.contents[bundled.root.digest]
            assert image.entry is not None
    with tarfile.open(path) as tar:
        members = tar.getnames()
    assert len(members) == len(set(members))
    assert sum("/" in name and len(name) > 64 for name in members) == 7


def test_every_blob_is_in_the_tar_as_it_was(blobs, store):
    raw = written([blobs.image(ONE, "r.io/a:1")], store)
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        for digest, content in blobs.contents.items():
            member = tar.extractfile(f"blobs/sha256/{digest.hex}")
            assert member is not None and member.read() == content
        assert {member.mtime for member in tar} == {0}
    assert len(raw) % 512 == 0


def test_the_same_images_give_the_same_bytes(blobs, store):
    images = [blobs.image(ONE, "r.io/a:1"), blobs.image(TWO, "r.io/b:1")]
    assert written(images, store) == written(images, store)


def test_the_json_comes_before_the_layers(blobs, store):
    raw = written([blobs.image(ONE, "r.io/a:1")], store)
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        names = tar.getnames()
    layers = [f"blobs/sha256/{Digest.of(gzipped(x)).hex}" for x in ONE.layers]
    assert names[:3] == ["oci-layout", "index.json", "manifest.json"]
    assert set(names[-2:]) == set(layers)


def test_two_names_of_one_image_are_one_entry_with_two_tags(blobs, store):
    images = [blobs.image(ONE, "r.io/a:1"), blobs.image(ONE, "r.io/a:2")]
    with tarfile.open(fileobj=io.BytesIO(written(images, store))) as tar:
        (entry,) = json.load(tar.extractfile("manifest.json"))
    assert entry["RepoTags"] == ["r.io/a:1", "r.io/a:2"]


def test_an_image_without_a_name_can_be_written(blobs, store, tmp_path):
    path = tmp_path / "image.tar"
    path.write_bytes(written([blobs.image(ONE)], store))
    with open_archive(path) as archive:
        assert archive.images[0].names == ()


def test_what_docker_cannot_load_has_no_entry_in_manifest_json(blobs, store):
    whole = attestation(ONE)
    root = Descriptor.from_json(whole.entries[0])
    blobs.contents.update({Digest.of(x): x for x in whole.blobs.values()})
    artifact = BundledImage(root, ("r.io/b:1",), (root,))
    raw = written([blobs.image(ONE, "r.io/a:1"), artifact], store)
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        (entry,) = json.load(tar.extractfile("manifest.json"))
        assert len(json.load(tar.extractfile("index.json"))["manifests"]) == 2
    assert entry["RepoTags"] == ["r.io/a:1"]
    assert written([artifact], store) == written([artifact], store, docker=False)


def test_sizes_beyond_what_ustar_can_tell_are_written():
    """9 GiB, of which only the header is looked at."""
    blob = Descriptor(OCI_MANIFEST, Digest("sha256:" + "a" * 64), 9 * 2**30)
    layout = tar_layout([BundledImage(blob, (), (blob,))], docker=False)
    before = layout.pieces[-3].content
    header = tarfile.TarInfo.frombuf(before[-512:], "utf-8", "strict")
    assert header.size == 9 * 2**30
    assert layout.size == layout.pieces[-1].offset + 1024


@pytest.mark.parametrize("wrong", [b"", b"short", b"x" * 10_000])
def test_a_damaged_blob_is_a_mismatch(wrong, blobs, store):
    image = blobs.image(ONE, "r.io/a:1")
    blobs.contents[image.layers[0]] = wrong
    with pytest.raises(ContentMismatch, match="pull again"):
        written([image], store)


def test_writing_stops_when_it_is_cancelled(blobs, store):
    image = blobs.image(ONE, "r.io/a:1")
    store.cancellation.cancel("enough")
    with pytest.raises(Cancelled):
        written([image], store)


class TestDirectory:
    """An OCI layout that is added to."""

    def test_a_second_image_comes_beside_the_first(self, blobs, store, tmp_path):
        path = tmp_path / "layout"
        path.mkdir()
        write_directory(path, [blobs.image(ONE, "r.io/a:1")], store)
        write_directory(path, [blobs.image(TWO, "r.io/b:1")], store)
        with open_archive(path) as archive:
            assert len(archive.images) == 2
        assert list(path.rglob("*.part")) == []

    def test_an_image_takes_the_place_of_another_of_its_name(
        self, blobs, store, tmp_path
    ):
        path = tmp_path
        second = blobs.image(TWO, "r.io/a:1")
        (path / "temporary").rmdir()
        write_directory(path, [blobs.image(ONE, "r.io/a:1")], store)
        write_directory(path, [second], store)
        (path / "temporary").mkdir()
        with open_archive(path) as archive:
            (image,) = archive.images
        assert image.root.descriptor.digest == second.root.digest

    def test_a_directory_with_something_else_in_it_is_left_alone(
        self, blobs, store, tmp_path
    ):
        path = tmp_path / "home"
        path.mkdir()
        (path / "letter.txt").write_text("dear")
        with pytest.raises(ArchiveError, match="not empty"):
            write_directory(path, [blobs.image(ONE, "r.io/a:1")], store)
        assert [file.name for file in path.iterdir()] == ["letter.txt"]

    def test_a_damaged_blob_leaves_the_index_as_it_was(self, blobs, store, tmp_path):
        path = tmp_path / "layout"
        path.mkdir()
        write_directory(path, [blobs.image(ONE, "r.io/a:1")], store)
        before = (path / "index.json").read_bytes()
        second = blobs.image(TWO, "r.io/b:1")
        blobs.contents[second.layers[1]] = b"wrong"
        with pytest.raises(ContentMismatch):
            write_directory(path, [second], store)
        assert (path / "index.json").read_bytes() == before
        assert list(path.rglob("*.part")) == []

    def test_writers_at_the_same_time_lose_nothing(self, blobs, store, tmp_path):
        path = tmp_path / "layout"
        path.mkdir()
        images = [blobs.image(Image.of(f"{n}"), f"r.io/a:{n}") for n in range(8)]
        threads = [
            threading.Thread(target=write_directory, args=(path, [image], store))
            for image in images
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with open_archive(path) as archive:
            assert len(archive.images) == 8

    def test_a_new_directory_is_there_whole_or_not_at_all(self, tmp_path):
        path = tmp_path / "new"
        with pytest.raises(ValueError, match="no"), new_directory(path) as part:
            (part / "file").write_bytes(b"")
            assert not path.exists()
            raise ValueError("no")
        assert [entry.name for entry in tmp_path.iterdir()] == ["temporary"]
        with new_directory(path) as part:
            (part / "file").write_bytes(b"")
        assert (path / "file").exists()


class TestReplacing:
    """A file that is there whole or not at all."""

    def test_a_failure_leaves_the_old_file_and_nothing_else(self, tmp_path):
        path = tmp_path / "file"
        path.write_bytes(b"old")
        with pytest.raises(ValueError, match="no"), replacing(path) as file:
            file.write(b"new")
            raise ValueError("no")
        assert path.read_bytes() == b"old"
        assert sorted(entry.name for entry in tmp_path.iterdir()) == [
            "file",
            "temporary",
        ]

    def test_of_two_writers_the_last_one_stays(self, tmp_path):
        path = tmp_path / "file"
        with replacing(path) as first:
            first.write(b"first")
            with replacing(path) as second:
                second.write(b"second")
        assert path.read_bytes() == b"first"

    def test_with_no_clobber_the_first_one_stays(self, tmp_path):
        path = tmp_path / "file"
        with pytest.raises(FileExistsError), replacing(path, no_clobber=True) as slow:
            slow.write(b"slow")
            with replacing(path, no_clobber=True) as fast:
                fast.write(b"fast")
        assert path.read_bytes() == b"fast"
        assert len(list(tmp_path.iterdir())) == 2

    def test_no_clobber_works_where_there_are_no_hard_links(
        self, tmp_path, monkeypatch
    ):
        def no_links(part: object, path: object) -> None:
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr(os, "link", no_links)
        path = tmp_path / "file"
        with replacing(path, no_clobber=True) as file:
            file.write(b"first")
        with pytest.raises(FileExistsError), replacing(path, no_clobber=True) as file:
            file.write(b"second")
        assert path.read_bytes() == b"first"
        assert len(list(tmp_path.iterdir())) == 2

    def test_a_link_stays_a_link(self, tmp_path):
        (tmp_path / "real").write_bytes(b"old")
        (tmp_path / "link").symlink_to("real")
        with replacing(tmp_path / "link") as file:
            file.write(b"new")
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "real").read_bytes() == b"new"

    def test_a_pipe_is_written_to_and_stays(self, tmp_path):
        path, got = tmp_path / "pipe", []
        os.mkfifo(path)
        thread = threading.Thread(target=lambda: got.append(path.read_bytes()))
        thread.start()
        with replacing(path) as file:
            file.write(b"through")
        thread.join()
        assert got == [b"through"]
        assert path.is_fifo()
