"""Archives that real tools wrote, opened and checked down to the last byte."""

from __future__ import annotations

import hashlib
import subprocess
import tempfile
import zlib

import pytest
from real import NAMES

from dockerpush.archive import Archive, open_archive
from dockerpush.archive.stored import Compression, StoredBlob, manifests

PIECE = 1 << 20


@pytest.mark.parametrize("name", NAMES)
def test_digests_and_diff_ids_are_those_of_the_bytes(name, real_archives):
    """The config hashes to its digest, each layer decompresses to its diff_id."""
    with open_archive(real_archives[name]) as archive:
        for image in archive.images:
            (manifest,) = manifests(image.root or image.entry)
            assert manifest.complete
            assert sha256(manifest.config) == manifest.config_descriptor.digest
            assert len(manifest.config) == manifest.config_descriptor.size
            diff_ids = [blob.diff_id for blob in manifest.layers]
            assert diff_ids == list(manifest.image_config.diff_ids)
            assert diff_ids
            for blob in manifest.layers:
                check_layer(archive, blob)


def test_the_images_of_one_archive_have_their_names(real_archives):
    with open_archive(real_archives["podman-multi"]) as archive:
        assert [image.names for image in archive.images] == [
            ("localhost/demo/busybox:1",),
            ("localhost/demo/big:2",),
        ]


def sha256(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def check_layer(archive: Archive, blob: StoredBlob) -> None:
    stored, unpacked, size = hashlib.sha256(), hashlib.sha256(), 0
    gzip = zlib.decompressobj(wbits=31)
    with archive.open_at(blob.member) as reader, tempfile.TemporaryFile() as copy:
        while piece := reader.read(PIECE):
            size += len(piece)
            stored.update(piece)
            if blob.compression is Compression.GZIP:
                unpacked.update(gzip.decompress(piece))
            elif blob.compression is Compression.NONE:
                unpacked.update(piece)
            else:
                copy.write(piece)
        if blob.compression is Compression.ZSTD:
            copy.seek(0)
            with subprocess.Popen(
                ["zstd", "-dc"], stdin=copy, stdout=subprocess.PIPE
            ) as child:
                while piece := child.stdout.read(PIECE):
                    unpacked.update(piece)
    assert size == blob.size
    assert f"sha256:{stored.hexdigest()}" == blob.digest
    assert f"sha256:{unpacked.hexdigest()}" == blob.diff_id
