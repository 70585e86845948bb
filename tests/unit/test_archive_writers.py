"""Archives written, read back by our own reader and by tarfile."""

from __future__ import annotations

import io
import json
import os
import tarfile
import threading
from pathlib import Path
from typing import Any, BinaryIO, Callable, TypeVar

import pytest
from archives import Image, attestation, gzipped, layout

from dockerpush.archive import open_archive
from dockerpush.archive.writers import BundledImage, tar_layout
from dockerpush.documents import RawManifest
from dockerpush.errors import ArchiveError, ContentMismatch
from dockerpush.events import ignore
from dockerpush.oci import OCI_MANIFEST, Descriptor, Digest, Index, Manifest
from dockerpush.system.cancellation import Cancellation
from dockerpush.transfer.copy_image import copy_image
from dockerpush.transfer.local_targets import DirectoryTarget

T = TypeVar("T")


class Blobs:
    """Blobs in memory, with the images that need them."""

    def __init__(self) -> None:
        self.contents: dict[Digest, bytes] = {}

    place = "memory"
    repository = ""

    def document(self, reference: str) -> RawManifest:
        raw = self.contents[Digest(reference)]
        return RawManifest(Descriptor.of(OCI_MANIFEST, raw), raw)

    def child(self, descriptor: Descriptor) -> RawManifest:
        return self.document(str(descriptor.digest))

    def read_blob(self, descriptor: Descriptor) -> bytes:
        return self.contents[descriptor.digest]

    def open_blob(self, digest: Digest, offset: int) -> BinaryIO:
        return io.BytesIO(self.contents[digest][offset:])

    def referrers(self, subject: Digest) -> tuple[Descriptor, ...]:
        return ()

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


def written(images, blobs: Blobs, *, docker: bool = True) -> bytes:
    """The tar of *images*, as its layout has it."""
    return b"".join(
        blobs.contents[piece.blob.digest] if piece.blob else piece.content
        for piece in tar_layout(images, docker=docker).pieces
    )


ONE, TWO = Image.of("shared", "one"), Image.of("shared", "two")


def test_two_images_share_a_layer_and_keep_their_names(blobs, tmp_path):
    images = [blobs.image(ONE, "r.io/a:1"), blobs.image(TWO, "r.io/b:1")]
    path = tmp_path / "bundle.tar"
    path.write_bytes(written(images, blobs))
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


def test_every_blob_is_in_the_tar_as_it_was(blobs):
    raw = written([blobs.image(ONE, "r.io/a:1")], blobs)
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        for digest, content in blobs.contents.items():
            member = tar.extractfile(f"blobs/sha256/{digest.hex}")
            assert member is not None and member.read() == content
        assert {member.mtime for member in tar} == {0}
    assert len(raw) % 512 == 0


def test_the_same_images_give_the_same_bytes(blobs):
    images = [blobs.image(ONE, "r.io/a:1"), blobs.image(TWO, "r.io/b:1")]
    assert written(images, blobs) == written(images, blobs)


def test_the_json_comes_before_the_layers(blobs):
    raw = written([blobs.image(ONE, "r.io/a:1")], blobs)
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        names = tar.getnames()
    layers = [f"blobs/sha256/{Digest.of(gzipped(x)).hex}" for x in ONE.layers]
    assert names[:3] == ["oci-layout", "index.json", "manifest.json"]
    assert set(names[-2:]) == set(layers)


def test_two_names_of_one_image_are_one_entry_with_two_tags(blobs):
    images = [blobs.image(ONE, "r.io/a:1"), blobs.image(ONE, "r.io/a:2")]
    with tarfile.open(fileobj=io.BytesIO(written(images, blobs))) as tar:
        (entry,) = json.load(tar.extractfile("manifest.json"))
    assert entry["RepoTags"] == ["r.io/a:1", "r.io/a:2"]


def test_an_image_without_a_name_can_be_written(blobs, tmp_path):
    path = tmp_path / "image.tar"
    path.write_bytes(written([blobs.image(ONE)], blobs))
    with open_archive(path) as archive:
        assert archive.images[0].names == ()


def test_what_docker_cannot_load_has_no_entry_in_manifest_json(blobs):
    whole = attestation(ONE)
    root = Descriptor.from_json(whole.entries[0])
    blobs.contents.update({Digest.of(x): x for x in whole.blobs.values()})
    artifact = BundledImage(root, ("r.io/b:1",), (root,))
    raw = written([blobs.image(ONE, "r.io/a:1"), artifact], blobs)
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        (entry,) = json.load(tar.extractfile("manifest.json"))
        assert len(json.load(tar.extractfile("index.json"))["manifests"]) == 2
    assert entry["RepoTags"] == ["r.io/a:1"]
    raw = written([artifact], blobs)
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        assert "manifest.json" not in tar.getnames()


def test_sizes_beyond_what_ustar_can_hold_are_written():
    """9 GiB, of which only the header is looked at."""
    blob = Descriptor(OCI_MANIFEST, Digest("sha256:" + "a" * 64), 9 * 2**30)
    layout = tar_layout([BundledImage(blob, (), (blob,))], docker=False)
    before = layout.pieces[-3].content
    header = tarfile.TarInfo.frombuf(before[-512:], "utf-8", "strict")
    assert header.size == 9 * 2**30
    assert layout.size == layout.pieces[-1].offset + 1024


def counted(call: Callable[..., T], calls: list[object]) -> Callable[..., T]:
    """*call*, which also adds to *calls*."""

    def counting(*arguments: Any) -> T:
        calls.append(arguments)
        return call(*arguments)

    return counting


class TestDirectory:
    """An OCI layout that is added to."""

    @pytest.fixture
    def write(self, blobs, tmp_path):
        """``write(path, image)``: have the directory *path* hold it."""

        def write(path: Path, image: BundledImage) -> None:
            with Cancellation() as cancellation:
                target = DirectoryTarget(path, cancellation, ignore)
                copy_image(blobs, target, str(image.root.digest), tags=image.names)

        return write

    def test_a_second_image_comes_beside_the_first(self, blobs, write, tmp_path):
        path = tmp_path / "layout"
        write(path, blobs.image(ONE, "r.io/a:1"))
        write(path, blobs.image(TWO, "r.io/b:1"))
        with open_archive(path) as archive:
            assert len(archive.images) == 2
        assert list(path.rglob("*.part")) == []

    def test_an_image_takes_the_place_of_another_of_its_name(
        self, blobs, write, tmp_path
    ):
        path = tmp_path / "layout"
        second = blobs.image(TWO, "r.io/a:1")
        write(path, blobs.image(ONE, "r.io/a:1"))
        write(path, second)
        with open_archive(path) as archive:
            (image,) = archive.images
        assert image.root.descriptor.digest == second.root.digest

    def test_an_index_that_did_not_change_is_read_once(
        self, blobs, write, tmp_path, monkeypatch
    ):
        """A sync asks at each of its images, and the index names them all."""
        path, parsed = tmp_path / "layout", []
        for number in range(9):
            write(path, blobs.image(Image.of(f"{number}"), f"r.io/a:{number}"))
        monkeypatch.setattr(Index, "from_bytes", counted(Index.from_bytes, parsed))
        with Cancellation() as cancellation:
            for number in range(9):
                target = DirectoryTarget(path, cancellation, ignore)
                assert target.digest_of(f"r.io/a:{number}") is not None
        assert len(parsed) <= 1

    def test_an_index_that_changed_is_read_again_whatever_its_time_and_size(
        self, blobs, write, tmp_path
    ):
        path = tmp_path / "layout"
        write(path, blobs.image(ONE, "r.io/a:1"))
        index = path / "index.json"
        with Cancellation() as cancellation:
            target = DirectoryTarget(path, cancellation, ignore)
            assert target.names() == ["r.io/a:1"]
            before, raw = index.stat(), index.read_bytes()
            index.write_bytes(raw.replace(b"r.io/a:1", b"r.io/b:1"))
            os.utime(index, ns=(before.st_atime_ns, before.st_mtime_ns))
            assert target.names() == ["r.io/b:1"]

    def test_a_directory_with_something_else_in_it_is_left_alone(
        self, blobs, write, tmp_path
    ):
        path = tmp_path / "home"
        path.mkdir()
        (path / "letter.txt").write_text("dear")
        with pytest.raises(ArchiveError, match="not empty"):
            write(path, blobs.image(ONE, "r.io/a:1"))
        assert [file.name for file in path.iterdir()] == ["letter.txt"]

    def test_a_damaged_blob_leaves_the_index_as_it_was(self, blobs, write, tmp_path):
        path = tmp_path / "layout"
        write(path, blobs.image(ONE, "r.io/a:1"))
        before = (path / "index.json").read_bytes()
        second = blobs.image(TWO, "r.io/b:1")
        blobs.contents[second.layers[1]] = b"wrong"
        with pytest.raises(ContentMismatch):
            write(path, second)
        assert (path / "index.json").read_bytes() == before
        assert list(path.rglob("*.part")) == []

    def test_writers_at_the_same_time_lose_nothing(self, blobs, write, tmp_path):
        path = tmp_path / "layout"
        images = [blobs.image(Image.of(f"{n}"), f"r.io/a:{n}") for n in range(8)]
        threads = [
            threading.Thread(target=write, args=(path, image)) for image in images
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with open_archive(path) as archive:
            assert len(archive.images) == 8
